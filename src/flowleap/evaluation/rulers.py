"""What samples are held against: a data set with all that is known of its rows, or stored statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap import data as data_sets
from flowleap.data import Dataset, Preprocessing, Rows, classes, opening
from flowleap.evaluation import agreement, distances, features, library, manifold, statistics_file
from flowleap.evaluation.protocol import Standard
from flowleap.randomness import generator

__all__ = ["PAIRS", "Reference", "TooFew", "chosen", "held_out", "originals", "reference", "stored_reference"]

PART = 50_000
"""Of data that stay on the disk and are more, a fixed random part of so many is the ruler; its split says so."""
PAIRS = 10_000
"""At most so many rows of each set go into what compares all pairs: kernel distance, precision, nearest row."""


class TooFew(ValueError):
    """A data set has not more rows than features, so that their covariance is singular."""


@dataclass(frozen=True)
class Reference:
    """The real data as a ruler: its features, their statistics, a judge of its classes, its own distances.

    Whatever is costly is computed when it is first asked for, and once. Where only `stored` statistics are
    given, everything that needs the rows themselves is None.

    Args:
        name: of the data set or of the file.
        split: which part of the data these rows are.
        dataset: the rows, None for stored statistics.
        stored: their statistics, and what their file says, where there are no rows.
    """

    name: str
    features: features.Features
    split: str = "all"
    dataset: Dataset | None = None
    stored: statistics_file.StoredStatistics | None = None

    @property
    def size(self) -> int | None:
        """How many rows the statistics are of; None where a file does not say."""
        return self.statistics.count or None

    @cached_property
    def dims(self) -> int:
        """The number of features; of a data set it is asked for with one row."""
        if self.stored is not None or self.dataset is None:
            return len(self.statistics.mean)
        self.features.check(self.dataset.x[:1])
        return self.features.dims or self.features(self.dataset.x[:1]).shape[1]

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of one real sample; None where a file does not say."""
        return self._kept.shape if self.dataset is None else self.dataset.shape

    @property
    def class_counts(self) -> Mapping[str, int]:
        """How many rows each class has, by name, in the order of the labels; empty where there are none, or unknown."""
        if self.dataset is None:
            return self._kept.class_counts
        return dict(zip(self.dataset.class_names, self.dataset.class_counts, strict=False))

    @property
    def described(self) -> str:
        """The reference in a protocol id: name, split, size and checksum."""
        return f"{self.name}/{self.split}:{self.size or '?'}@{self.checksum}"

    @cached_property
    def _extracted(self) -> tuple[Tensor, Tensor | None]:
        assert self.dataset is not None
        parts = list(self.features.stream(self.dataset.x))
        logits = [part for _, part in parts if part is not None]
        return torch.cat([rows for rows, _ in parts]), torch.cat(logits) if logits else None

    @property
    def rows(self) -> Tensor | None:
        """Feature rows of the data set, (n, d)."""
        return None if self.dataset is None else self._extracted[0]

    @cached_property
    def paired(self) -> Tensor | None:
        """The rows that pairs are made with: at most `PAIRS`, by a fixed permutation where there are more."""
        if self.rows is None or len(self.rows) <= PAIRS:
            return self.rows
        return self.rows[self._order("pairs")[:PAIRS]]

    @cached_property
    def radii(self) -> Tensor | None:
        """How far the neighbors of each paired row are."""
        return None if self.paired is None else manifold.radii(self.paired)

    @cached_property
    def statistics(self) -> distances.Statistics:
        """Mean and covariance of the features."""
        return self._kept.statistics if self.rows is None else distances.statistics(self.rows)

    @cached_property
    def judge(self) -> agreement.Judge | agreement.Classifier | None:
        """Says the class of a sample; None without labels."""
        if self.dataset is None:
            return None
        label = self.dataset.label
        logits = None if label is None else self._extracted[1]
        if label is not None and logits is not None and logits.shape[1] == self.dataset.num_classes:
            return agreement.by_logits(self.features.name, logits, label)
        return agreement.fit(self.dataset)

    @cached_property
    def spacing(self) -> Tensor | None:
        """How far real rows, a fixed random part of them, are from their nearest other row, (≤ 2000,)."""
        return None if self.rows is None else distances.spacing(self.rows, self._order("neighbors"))

    def check_labels(self, label: Tensor) -> None:
        """Refuse labels that the real data does not have.

        Shapes: (n,). Raises: ValueError naming the first.
        """
        classes = None if self.dataset is None else self.dataset.num_classes
        if classes is not None and not bool(((label >= 0) & (label < classes)).all()):
            wrong = int(label[(label < 0) | (label >= classes)][0])
            raise ValueError(
                f"a sample has label {wrong}, and {self.name} has the classes 0 to {classes - 1}: compare with the "
                "data that the labels belong to, or leave them out"
            )

    @cached_property
    def floor(self) -> float | None:
        """The distance between two halves of the real data; None where half is too small, or it is not stored."""
        if self.dataset is None:
            return self._kept.floor
        if self.rows is None or len(self.rows) // 2 <= self.dims:
            return None
        return distances.halves(self.rows, self._order("halves"))

    @cached_property
    def checksum(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the data and its labels, or of stored statistics."""
        return self._kept.fingerprint if self.dataset is None else self.dataset.checksum

    @property
    def _kept(self) -> statistics_file.StoredStatistics:
        assert self.stored is not None, "a reference has rows or statistics"
        return self.stored

    def _order(self, stream: str) -> Tensor:
        assert self.dataset is not None
        return torch.randperm(len(self.dataset), generator=generator(0, stream))


def reference(dataset: Dataset, kind: features.Features | None = None) -> Reference:
    """The ruler a data set makes, with its default features unless others are given.

    Features of images are taken of those that latents were made from. Of what stays on the disk, a fixed random part of
    at most `PART` is used.

    Features of the rows are computed when they are first asked for.

    Raises: TooFew where the data has too few rows for a covariance of these features; ValueError where it does not fit
        them, or the images behind latents are not there any more.
    """
    kind = kind or features.default(dataset)
    if dataset.kind == "latents" and not kind.latents:
        dataset = originals(dataset)
    if isinstance(dataset.x, Rows) and dataset.x.on_disk:
        dataset = dataset.part(PART)
    ruler = Reference(dataset.name, kind, dataset.split, dataset)
    if len(dataset) <= ruler.dims:
        raise TooFew(
            f"{dataset.name} has {len(dataset)} {'row' if dataset.kind == 'points' else 'image'}"
            f"{'s' * (len(dataset) != 1)}, and the covariance of {ruler.dims} {kind.name} features needs at least "
            f"{ruler.dims + 1}: add some, or choose features with fewer dimensions"
        )
    return ruler


def originals(dataset: Dataset) -> Dataset:
    """The images that a data set of latents was made from.

    Raises: ValueError where they are not there any more, or others are, or they were streamed.
    """
    cure = "name images to compare with (--reference), or measure the latents as they are (--features latent)"
    if dataset.streamed:
        raise ValueError(
            f"the images that {dataset.address} was made from were streamed and are kept nowhere: {cure}"
        )
    try:
        split = None if dataset.split == "all" else dataset.split
        found = data_sets.load(dataset.source, split=split, preprocessing=dataset.preprocessing)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the images that {dataset.address} was made from cannot be read ({error}): {cure}"
        ) from error
    if len(found) != len(dataset):
        raise ValueError(
            f"{dataset.source} holds {len(found)} images, and {dataset.address} was made from {len(dataset)}: {cure}"
        )
    if found.label is None or dataset.label is None:
        return found
    label = classes.aligned(
        found.label, found.class_names, dataset.class_names, dataset.source, dataset.address
    )
    return replace(found, label=label, num_classes=dataset.num_classes, classes=dataset.classes)


def held_out(dataset: Dataset, features: str = "auto", device: str | torch.device | None = None) -> Reference:
    """The ruler of runs that are finished: the held-out part of their data where there is one, or else all of it.

    Raises: ValueError as `reference`.
    """
    judging = data_sets.held_out(dataset) or dataset
    return reference(judging, library.named(features, judging, device=device))


def stored_reference(path: Path, kind: features.Features | None = None) -> Reference:
    """The ruler that a file of statistics makes: Fréchet distances only, since it holds no rows.

    Args:
        path: an .npz with mu and sigma, by `flowleap data stats`, ADM, EDM or pytorch-fid.
        kind: the features it was made with; None where the file says which.

    Raises: ValueError for a damaged file, one of other features, or one that does not say which and is not told.
    """
    stored = statistics_file.read(path, kind)
    if kind is None:
        said = stored.about.get("features")
        if said not in library.NAMES:
            raise ValueError(
                f"{path} does not say which features it was made with: name them, as in --features inception:adm"
            )
        return stored_reference(path, library.named(said))
    about = stored.about
    name, split = str(about.get("source", path.stem)), str(about.get("split", "all"))
    return Reference(name, kind, split, stored=stored)


def preprocessing_like(shape: Sequence[int], reference: str | None, square: Any) -> Preprocessing | None:
    """Return how the images of a reference at a path are taken, as large as samples are; None of a name."""
    square_ones = len(shape) == 3 and shape[1] == shape[2]
    if reference is None or not square_ones or not opening.present(reference):
        return None
    return Preprocessing(square=square, size=shape[2])


def chosen(
    standard: Standard,
    kind: str | None,
    name: str | None,
    trained_on: Dataset | None,
    device: str | torch.device,
    preprocessing: Preprocessing | None = None,
) -> Reference:
    """Return the ruler that is asked for by names: of data, of a file of statistics, or else that of the training data.

    Args:
        kind: features, None for what follows from the data. name: a data set, or a place.
        preprocessing: how images at a place are taken.

    Raises: ValueError where the standard needs other statistics, or statistics were made with other features.
    """
    if name is None and standard.reference:
        raise ValueError(
            f"protocol {standard} compares with {standard.reference}: give that file with --reference FILE.npz"
        )
    if name is None:
        assert trained_on is not None, "a run, or a reference for images"
        return held_out(trained_on, kind or "auto", device)
    if statistics_file.is_statistics(Path(name)):
        unsaid = kind is None or kind == "auto"
        return stored_reference(Path(name), None if unsaid else library.named(str(kind), device=device))
    dataset = data_sets.load(name, preprocessing=preprocessing)
    return reference(dataset, library.named(kind or "auto", dataset, device=device))
