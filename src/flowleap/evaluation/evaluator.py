"""Evaluators: the real data that samples are compared with, in the features of the comparison."""

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
from flowleap.evaluation import distances, features, label_accuracy, library, manifold, statistics_file
from flowleap.evaluation.protocol import Standard
from flowleap.randomness import generator

PART = 50_000
"""Rows used of larger data that stay on the disk: a fixed random part, which the split in the protocol id names."""
TURNED = 1_000
"""Images that are mirrored at a time."""
PAIRS = 10_000
"""Rows used of each set by what compares all pairs: kernel distance, precision, nearest row."""


class TooFew(ValueError):
    """A data set has not more rows than features, so that their covariance is singular."""


@dataclass(frozen=True)
class Evaluator:
    """The features of real data, their statistics, and a classifier of its labels; each computed once, on first use.

    Of `stored` statistics alone, everything that needs the rows themselves is None.

    Args:
        name: of the data set or of the file.
        split: which part of the data these rows are.
        dataset: the rows, None for stored statistics.
        stored: the statistics in a file, where there are no rows.
    """

    name: str
    features: features.Features
    split: str = "all"
    dataset: Dataset | None = None
    stored: statistics_file.StoredStatistics | None = None

    @property
    def size(self) -> int | None:
        """The number of rows behind the statistics; None where a file does not say."""
        return self.statistics.count or None

    @cached_property
    def dims(self) -> int:
        """The number of features; of a data set it is computed from one row."""
        if self.dataset is None:
            return len(self.statistics.mean)
        self.features.check(self.dataset.x[:1])
        return self.features.dims or self.features(self.dataset.x[:1]).shape[1]

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of one real sample; None where a file does not say."""
        return self._file.shape if self.dataset is None else self.dataset.shape

    @property
    def class_counts(self) -> Mapping[str, int]:
        """The number of rows of each class by its name, in the order of the labels; empty where it is not known."""
        if self.dataset is None:
            return self._file.class_counts
        return dict(zip(self.dataset.class_names, self.dataset.class_counts, strict=False))

    @property
    def described(self) -> str:
        """The real data in a protocol id: name, split, size and checksum."""
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

    @property
    def mirrored(self) -> bool:
        """Whether training mirrors these rows at random, which are images: mirror images are training images, too."""
        return self.dataset is not None and self.dataset.kind == "image" and self.dataset.mirrors

    @cached_property
    def trained(self) -> tuple[Tensor, ...]:
        """What training showed: the feature rows, and those of the mirror images where it mirrors; each (n, d)."""
        if self.dataset is None or self.rows is None:
            return ()
        if not self.mirrored:
            return (self.rows,)
        x = self.dataset.x
        turned = (rows for part in x.split(TURNED) for rows, _ in self.features.stream(part.flip(-1)))
        return self.rows, torch.cat(list(turned))

    @cached_property
    def paired(self) -> Tensor | None:
        """The rows that all pairs are made with."""
        return None if self.rows is None else for_pairs(self.rows)

    @cached_property
    def radii(self) -> Tensor | None:
        """The distances of each paired row to its neighbors, see `manifold.radii`."""
        return None if self.paired is None else manifold.radii(self.paired)

    @cached_property
    def statistics(self) -> distances.Statistics:
        """Mean and covariance of the features."""
        return self._file.statistics if self.rows is None else distances.statistics(self.rows)

    @cached_property
    def classifier(self) -> label_accuracy.Fitted | label_accuracy.OfFeatures | None:
        """The classifier behind the label accuracy; None without labels."""
        if self.dataset is None:
            return None
        label = self.dataset.label
        logits = None if label is None else self._extracted[1]
        if label is not None and logits is not None and logits.shape[1] == self.dataset.num_classes:
            return label_accuracy.of_features(self.features.name, logits, label)
        return label_accuracy.fit(self.dataset)

    @cached_property
    def spacing(self) -> Tensor | None:
        """The distance of real rows, a fixed random part of them, to the nearest other of `trained`, (≤ 2000,)."""
        return distances.spacing(self.trained, self._order("neighbors")) if self.trained else None

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
            return self._file.about.get("floor")
        if self.rows is None or len(self.rows) // 2 <= self.dims:
            return None
        return distances.halves(self.rows, self._order("halves"))

    @cached_property
    def checksum(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the data and its labels, or of stored statistics."""
        return self._file.fingerprint if self.dataset is None else self.dataset.checksum

    @property
    def _file(self) -> statistics_file.StoredStatistics:
        assert self.stored is not None, "an evaluator has rows or statistics"
        return self.stored

    def _order(self, stream: str) -> Tensor:
        assert self.dataset is not None
        return torch.randperm(len(self.dataset), generator=generator(0, stream))


def for_pairs(rows: Tensor) -> Tensor:
    """Return at most `PAIRS` rows, a fixed random part where there are more."""
    order = torch.randperm(len(rows), generator=generator(0, "pairs"))
    return rows if len(rows) <= PAIRS else rows[order[:PAIRS]]


def evaluator_for(dataset: Dataset, kind: features.Features | None = None) -> Evaluator:
    """Return an evaluator that compares with a data set, by default in the features that suit it.

    Image features of latents are those of the images the latents were made from. Of data that stay on the disk, a
    fixed random part of at most `PART` is used.

    Raises: TooFew where the data has too few rows for a covariance of these features; ValueError where it does not fit
        them, or the images behind latents are not there any more.
    """
    kind = kind or features.default(dataset)
    if dataset.kind == "latents" and not kind.latents:
        dataset = originals(dataset).turned(dataset.mirrors)
    if isinstance(dataset.x, Rows) and dataset.x.on_disk:
        dataset = dataset.part(PART)
    evaluator = Evaluator(dataset.name, kind, dataset.split, dataset)
    if len(dataset) <= evaluator.dims:
        raise TooFew(
            f"{dataset.name} has {len(dataset)} {'row' if dataset.kind == 'points' else 'image'}"
            f"{'s' * (len(dataset) != 1)}, and the covariance of {evaluator.dims} {kind.name} features needs at least "
            f"{evaluator.dims + 1}: add some, or choose features with fewer dimensions"
        )
    return evaluator


def originals(dataset: Dataset) -> Dataset:
    """Return the images that a data set of latents was made from.

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
    label = classes.renumbered(
        found.label, found.class_names, dataset.class_names, dataset.source, dataset.address
    )
    return replace(found, label=label, num_classes=dataset.num_classes, classes=dataset.classes)


def held_out(dataset: Dataset, features: str = "auto", device: str | torch.device | None = None) -> Evaluator:
    """Return the evaluator of finished runs: with the held-out part of their data where there is one, else all of it.

    Raises: ValueError as `evaluator_for`.
    """
    part = data_sets.held_out(dataset) or dataset
    return evaluator_for(part, library.named(features, part, device=device))


def stored_evaluator(path: Path, kind: features.Features | None = None) -> Evaluator:
    """Return the evaluator of a file of statistics: Fréchet distances only, since it holds no rows.

    Args:
        path: an .npz with mu and sigma, by `flowleap data stats`, ADM, EDM or pytorch-fid.
        kind: the features it was made with; None where the file says which.

    Raises: ValueError for a damaged file, one of other features, or one that does not say which where `kind` is None.
    """
    stored = statistics_file.read(path, kind)
    about = stored.about
    if kind is None:
        said = about.get("features")
        if said not in library.NAMES:
            raise ValueError(
                f"{path} does not say which features it was made with: name them, as in --features inception:adm"
            )
        return stored_evaluator(path, library.named(said))
    return Evaluator(str(about.get("source", path.stem)), kind, str(about.get("split", "all")), stored=stored)


def preprocessing_like(shape: Sequence[int], reference: str | None, square: Any) -> Preprocessing | None:
    """Return how to read the images of a path: as large as samples are. None where `reference` is a name."""
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
) -> Evaluator:
    """Return an evaluator by names: with a data set, a file of statistics, or by default the training data.

    Args:
        kind: features, None for what follows from the data. name: a data set, or a place.
        preprocessing: how images at a place are read.

    Raises: ValueError where the standard needs other statistics, or statistics were made with other features.
    """
    if name is None and standard.reference:
        raise ValueError(
            f"protocol {standard} compares with {standard.reference}: give that file with --reference FILE.npz"
        )
    kind = kind or "auto"
    if name is None:
        assert trained_on is not None, "a run, or a reference for images"
        return held_out(trained_on, kind, device)
    if statistics_file.is_statistics(Path(name)):
        return stored_evaluator(Path(name), None if kind == "auto" else library.named(kind, device=device))
    dataset = data_sets.load(name, preprocessing=preprocessing)
    return evaluator_for(dataset, library.named(kind, dataset, device=device))
