"""Files of statistics of real data: an .npz with mu and sigma as of ADM, and here with their origin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowleap.data import Dataset
from flowleap.data.npz import Archive
from flowleap.evaluation import distances
from flowleap.evaluation.distances import Statistics
from flowleap.evaluation.features import Features
from flowleap.evaluation.moments import Moments
from flowleap.files import replace_file
from flowleap.provenance import version
from flowleap.randomness import generator

CHUNK = 250  # images that are read at a time


@dataclass(frozen=True)
class StoredStatistics:
    """Statistics and their origin; `statistics.count` is 0 where the file does not say how many rows.

    `checksum`: the first 12 hexadecimal digits of the SHA-256 of mu and sigma as they are stored.
    """

    statistics: Statistics
    about: Mapping[str, Any] = field(default_factory=dict)
    checksum: str = ""

    @property
    def fingerprint(self) -> str:
        """The checksum of the data, or of the statistics where that is not known."""
        return str(self.about.get("data_checksum") or self.checksum)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of one sample, where it is known."""
        shape = self.about.get("shape")
        return tuple(shape) if isinstance(shape, list) else None

    @property
    def class_counts(self) -> dict[str, int]:
        """The number of rows of each class; empty where the file does not say."""
        found = self.about.get("classes")
        if not isinstance(found, dict) or not all(isinstance(n, int) and n > 0 for n in found.values()):
            return {}
        return {str(name): count for name, count in found.items()}


def about_features(features: Features) -> dict[str, Any]:
    """Return what `write` stores of the features, and `read` compares."""
    return {"features": features.name, "features_checksum": features.checksum}


def write(path: Path | str, statistics: Statistics, about: Mapping[str, Any]) -> None:
    """Write mu and sigma in float64, the number of rows and their origin, atomically.

    `about`, for JSON: features, features_checksum (see `about_features`), source, split, ….
    """
    path = Path(path)
    known = {**about, "count": statistics.count, "flowleap": version("flowleap")}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file,
                mu=statistics.mean.double().cpu().numpy(),
                sigma=statistics.covariance.double().cpu().numpy(),
                about=np.array(json.dumps(known, ensure_ascii=False)),
            )

    replace_file(path, save)


def is_statistics(path: Path | str) -> bool:
    """Whether a path is an .npz with mu and sigma, or one with the reference covariance of a classifier."""
    if Path(path).suffix != ".npz" or not Path(path).is_file():
        return False
    try:
        with Archive(path) as archive:
            return {"mu", "sigma"} <= set(archive.names) or "ref_cov" in archive
    except ValueError:
        return False


def read(path: Path | str, features: Features | None = None) -> StoredStatistics:
    """Read statistics that `write`, ADM, EDM or pytorch-fid wrote, or those in the file of a classifier.

    Args:
        features: those they are to be compared with; other names, checksums and numbers are refused.

    Raises: OSError without a file; ValueError for a file that is damaged or no archive, lacks mu or sigma, or holds
        wrong shapes, values that are not finite, no covariance, or statistics of other features.
    """
    path = Path(path)
    with Archive(path) as archive:
        if "ref_cov" in archive and "mu" not in archive:
            sigma = archive.read("ref_cov")
            mu, about = np.zeros(len(sigma)), of_classifier(path)
        else:
            lacking = [name for name in ("mu", "sigma") if name not in archive]
            if lacking:
                raise ValueError(
                    f"{path} holds no statistics: {' and '.join(lacking)} missing among {', '.join(archive.names)}; "
                    "make them with `flowleap data stats`"
                )
            mu, sigma = archive.read("mu"), archive.read("sigma")
            about = parsed(path, archive.read("about")) if "about" in archive else {}
    count = about.get("count")
    statistics = checked(path, mu, sigma, count if isinstance(count, int) and count > 0 else 0)
    if features is not None:
        agree(path, about, len(statistics.mean), features)
    digest = hashlib.sha256(np.ascontiguousarray(mu).tobytes() + np.ascontiguousarray(sigma).tobytes())
    return StoredStatistics(statistics, about, digest.hexdigest()[:12])


def of_classifier(path: Path) -> dict[str, Any]:
    """Return the origin of the statistics in the file of a classifier."""
    from flowleap.evaluation import classifier

    made = classifier.load(path)
    return {**about_features(made), "source": made.name}


def parsed(path: Path, held: np.ndarray) -> dict[str, Any]:
    """Return the origin in a file; raises ValueError where it is no JSON object."""
    try:
        about = json.loads(str(held[()]))
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise ValueError(f"the origin in {path} is no JSON object: make it again with `flowleap data stats`")
    return about


def checked(path: Path, mu: np.ndarray, sigma: np.ndarray, count: int) -> Statistics:
    """Return the statistics of a file in float64, the covariance exactly symmetric.

    Raises: ValueError for other types and shapes, values that are not finite, a matrix that is no covariance.
    """
    if not all(np.issubdtype(part.dtype, np.floating) for part in (mu, sigma)) or mu.size == 0:
        raise ValueError(
            f"{path}: mu is {mu.dtype} {mu.shape} and sigma {sigma.dtype} {sigma.shape}; floats (d,) and (d, d) are "
            "expected"
        )
    mean, covariance = (torch.from_numpy(part.astype(np.float64)) for part in (mu, sigma))
    try:
        return distances.checked(Statistics(mean, covariance, count))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def agree(path: Path, about: Mapping[str, Any], dims: int, features: Features) -> None:
    """Raise ValueError for statistics of other features; where the file does not name them, their number decides."""
    found, expected = about.get("features"), features.name
    if features.dims is not None and dims != features.dims:
        raise ValueError(
            f"{path} holds statistics of {dims} features{f' ({found})' if found else ''}, and there are "
            f"{features.dims} {expected} features: choose those it was made with, or make it again with "
            "`flowleap data stats`"
        )
    if found is not None and found != expected:
        raise ValueError(
            f"{path} was made with {found} features, and samples are measured with {expected}: choose --features "
            f"{found}, or make it again with `flowleap data stats`"
        )
    made = about.get("features_checksum")
    if found is not None and made != features.checksum:
        raise ValueError(
            f"{path} was made with {found} features of checksum {made}, and these have {features.checksum}: make it "
            "again with `flowleap data stats`"
        )


def gathered(
    source: Dataset, features: Features, count: int, tick: Callable[[int], None]
) -> tuple[Statistics, dict[str, Any]]:
    """Return the statistics of the features of `count` images, and their origin: the checksum of the images, the
    distance of their halves, and the number of each class.

    Raises: ValueError where the images cannot be read, do not fit the features or are too few.
    """
    order = torch.randperm(count, generator=generator(0, "halves"))
    first = torch.zeros(count, dtype=torch.bool).index_fill(0, order[: count // 2], True)
    halves, digest, done = (Moments(), Moments()), hashlib.sha256(), 0
    for batch in source.batches(CHUNK, count):
        digest.update(batch.contiguous().numpy().tobytes())
        for rows, _ in features.stream(batch):
            member = first[done : done + len(rows)]
            halves[0].add(rows[member])
            halves[1].add(rows[~member])
            done += len(rows)
            tick(len(rows))
    classes: dict[str, int] = {}
    if source.label is not None:
        label = source.label[source.chosen(count)]
        digest.update(label.contiguous().numpy().tobytes())
        found = label.bincount(minlength=len(source.class_names)).tolist()
        classes = {name: many for name, many in zip(source.class_names, found, strict=True) if many}
    made = halves[0].merge(halves[1]).statistics()
    enough = count // 2 > len(made.mean)
    floor = distances.frechet(*(half.statistics() for half in halves)) if enough else None
    return made, {"data_checksum": digest.hexdigest()[:12], "floor": floor, "classes": classes}
