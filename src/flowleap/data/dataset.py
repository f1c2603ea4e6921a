"""The data set that training and evaluation read: tensors in memory, or images that stay on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from flowleap.data.ahead import Ahead
from flowleap.data.codec import Codec
from flowleap.data.preprocessing import Preprocessing
from flowleap.data.rows import Rows, Samples, blocks, not_finite, random_rows, some
from flowleap.randomness import RowGenerator

LOOKED_AT = 1000
"""How many images enter the checksum of a data set on the disk, a fixed random part."""
SLACK = 1e-3
"""How far outside [-1, 1] a float of a file may lie, by rounding."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples x with optional labels, and where they come from.

    Values are float32, also those of 8-bit files, as long as they fit into `Preprocessing.memory`: the 60,000 images of
    MNIST take 188 MB. Otherwise x is kept as uint8 or stays on the disk, and is indexed like the same tensor.

    Args:
        name: used in messages and protocols.
        classes: names of the classes in the order of the labels, empty where they have none; `class_names` then are
            numbers. num_classes: default: their number, with labels.
        split: the part of the source, "all" where it has no parts. held_out: its split for evaluation, see
            `data.held_out`.
        noise: the noise of each row, for pairs of noise and sample; it stays with its row in a batch.
        path: where the data were read from, "" if nowhere.
        known: name of the published data set that these images are a whole split of.
        preprocessing: how images were cropped and resized. notes: messages about that for the user.
        flip: mirror each row with probability ½ in training.
        ahead: reads the batches of coming steps.
        part_of: checksum of the data set that these rows are a fixed random part of.
        codec: the autoencoder of latents, see `data.latents`.

    Shapes: x float32 (rows, *shape), images in [-1, 1]; label int64 (rows,) in [0, num_classes), or None; noise as x,
        or None.
    Raises: ValueError where the noise has another shape than x.
    """

    name: str
    x: Samples
    label: Tensor | None = None
    num_classes: int | None = None
    kind: Literal["image", "points", "latents"] = "image"
    license: str = ""
    source: str = ""
    split: str = "all"
    noise: Tensor | None = None
    path: str = ""
    held_out: str | None = None
    known: str | None = None
    preprocessing: Preprocessing = Preprocessing()
    flip: bool = False
    ahead: Ahead | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    part_of: str | None = None
    codec: Codec | None = None

    def __post_init__(self) -> None:
        if self.num_classes is None and self.label is not None and self.classes:
            object.__setattr__(self, "num_classes", len(self.classes))
        if self.noise is not None and self.noise.shape != self.x.shape:
            raise ValueError(
                f"data set {self.name!r}: its noise is {tuple(self.noise.shape)} and its samples "
                f"{tuple(self.x.shape)}: each row brings its own noise"
            )

    def take(self, rows: Tensor, step: int, key: int, here: Tensor | None = None) -> Tensor:
        """Return x of the rows of a training batch, mirrored at random: a pure function of (rows, step, key).

        Args:
            rows: of the global batch.
            step: the training step. key: the seed of the run.
            here: places in the global batch that this process computes, None for all.

        Shapes: rows (global batch,), here (batch,) → (batch, *shape).
        """
        wanted = rows if here is None else rows[here]
        x = self.x[wanted] if self.ahead is None else self.ahead(wanted, step)
        if not self.flip:
            return x
        mirrored = RowGenerator(key, "flip", step, total=len(rows), rows=here).uniform() < 0.5
        return torch.where(mirrored.view(-1, *(1 for _ in self.shape)), x.flip(-1), x)

    @property
    def mirrors(self) -> bool:
        """Whether rows are mirrored at random in training."""
        return self.flip

    @property
    def streamed(self) -> bool:
        """Whether these are latents of images that were streamed and stored nowhere."""
        return False

    def turned(self, flip: bool | None) -> Dataset:
        """Return the data set with random mirroring on or off; None for the default, off.

        Raises: ValueError for data that cannot be mirrored.
        """
        if flip and self.kind != "image":
            raise ValueError(f"--flip mirrors images, and {self.name} holds {self.kind}: leave it out")
        return self if bool(flip) == self.flip else replace(self, flip=bool(flip))

    def chosen(self, count: int | None = None) -> Tensor:
        """The row numbers that `batches` gives: all, or a fixed random part of them, in order.

        Shapes: -> (count,), int64. Raises: ValueError for fewer than 1 or more than there are.
        """
        if count is not None and count != len(self) and not 1 <= count <= len(self):
            raise ValueError(f"{self.name} holds {len(self)} images, and {count} were asked for")
        return random_rows(len(self), len(self) if count is None else count, "source")

    def batches(self, n: int, count: int | None = None) -> Iterator[Tensor]:
        """Yield float32 images in [-1, 1], n at a time (the last batch may be smaller), exactly `count` in all.

        Shapes: (≤ n, *shape).
        Raises: ValueError for a file that cannot be read, another size than the first, values outside [-1, 1].
        """
        if n < 1:
            raise ValueError(f"a batch holds at least one image, got n={n}")
        index, start = self.chosen(count), 0
        for batch in blocks(self.x, index, n):
            here, start = index[start : start + len(batch)], start + len(batch)
            if len(broken := not_finite(batch)):
                raise ValueError(
                    f"{len(broken)} images of {self.name} hold NaN or infinity, the first is image "
                    f"{int(here[broken[0]])}: repair or remove them"
                )
            low, high = (float(edge) for edge in batch.aminmax())
            if self.kind == "image" and not -1 - SLACK <= low <= high <= 1 + SLACK:
                raise ValueError(
                    f"images {int(here[0])} to {int(here[-1])} of {self.name} lie in [{low:g}, {high:g}]: floats must "
                    "lie in [-1, 1], 8-bit values be stored as uint8"
                )
            yield batch

    def part(self, count: int) -> Dataset:
        """A fixed random part of at most `count` rows, named so by its split; nothing is read from the disk."""
        if len(self) <= count:
            return self
        rows = random_rows(len(self), count, "part")
        return replace(
            self,
            x=some(self.x, rows),
            label=None if self.label is None else self.label[rows],
            noise=None if self.noise is None else self.noise[rows],
            split=f"{self.split}[{count}]",
            part_of=self.checksum,
            ahead=None,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, its number where it has none; empty without labels."""
        if self.num_classes is None:
            return ()
        return self.classes or tuple(str(number) for number in range(self.num_classes))

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The number of rows of each class; empty without labels."""
        if self.label is None or self.num_classes is None:
            return ()
        return tuple(self.label.bincount(minlength=self.num_classes).tolist())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])

    @property
    def address(self) -> str:
        """What `data.load` finds it by: its path, or else its name."""
        return self.path or self.name

    @cached_property
    def checksum(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of values and labels, independent of the file format.

        For images on the disk: "part-" and the SHA-256 of their names and sizes, a fixed random thousand of them, and
        all labels.
        """
        digest, mark = hashlib.sha256(), ""
        if isinstance(self.x, Rows):
            rows = torch.arange(len(self))
            if self.x.stamp is not None:
                digest.update(self.x.stamp.encode())
                rows, mark = random_rows(len(self), LOOKED_AT, "checksum"), "part-"
            for part in self.x.blocks(rows, 250):
                digest.update(part.numpy().data)
        else:
            digest.update(self.x.detach().contiguous().cpu().numpy().data)
        if self.label is not None:
            digest.update(self.label.contiguous().cpu().numpy().data)
        return mark + digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.x)


def check(dataset: Dataset) -> Dataset:
    """Return the data set if it can be trained on.

    Raises: ValueError for an empty set, NaN or infinity, images outside [-1, 1], labels that do not fit.
    """
    name, x, label, classes = dataset.name, dataset.x, dataset.label, dataset.num_classes
    if not len(x):
        raise ValueError(f"data set {name!r} is empty")
    if isinstance(x, Tensor):  # uint8 values lie in [-1, 1] once scaled
        _check_values(name, x, dataset.kind)
    if (label is None) != (classes is None):
        raise ValueError(f"data set {name!r} needs both labels and their number of classes, or neither")
    if label is not None and classes is not None:
        if label.shape != (len(x),) or label.dtype != torch.int64:
            raise ValueError(f"labels are int64 of shape ({len(x)},); got {label.dtype} {tuple(label.shape)}")
        outside = (label < 0) | (label >= classes)
        if outside.any():
            row = int(outside.int().argmax())
            raise ValueError(f"labels of {name!r} lie in 0 to {classes - 1}; row {row} has {int(label[row])}")
        if dataset.classes and len(set(dataset.classes)) != classes:
            raise ValueError(
                f"data set {name!r} has {classes} classes and {len(set(dataset.classes))} different names for them "
                f"({', '.join(dataset.classes[:5])}, …): give each class a name, or none"
            )
    return dataset


def _check_values(name: str, x: Tensor, kind: str) -> None:
    if not x.is_floating_point():
        raise ValueError(f"data set {name!r} holds {x.dtype}; convert it to float32, images to [-1, 1]")
    broken = [int(row) + 1000 * block for block, part in enumerate(x.split(1000)) for row in not_finite(part)]
    if broken:
        raise ValueError(
            f"data set {name!r} holds NaN or infinity in {len(broken)} of {len(x)} rows, the first is row {broken[0]}; "
            "remove or repair them"
        )
    low, high = (float(edge) for edge in x.aminmax())
    if kind == "image" and not -1 <= low <= high <= 1:
        raise ValueError(f"images lie in [-1, 1], but those of {name!r} in [{low:g}, {high:g}]; rescale them")
