"""A data set: in memory, or on the disk where it does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from flowleap.data.ahead import Ahead
from flowleap.data.codec import Codec
from flowleap.data.parts import HELD_OUT
from flowleap.data.prepare import Look
from flowleap.data.rows import Rows, Samples, chosen, some
from flowleap.randomness import generator

LOOKED_AT = 1000
"""So many images go into the checksum of those that stay on the disk, a fixed random part."""


def kept_apart(split: str, splits: Collection[str]) -> str | None:
    """Return the part of a source that was kept apart from this one; only that for training has such.

    >>> kept_apart("train", ("train", "val")), kept_apart("val", ("train", "val"))
    ('val', None)
    """
    apart = [name for name in HELD_OUT if name in splits and split == "train"]
    return apart[0] if apart else None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples x with their labels, if there are any, and where they come from.

    `split` says which part of the source these rows are, "all" where it has no parts. `noise` is the noise that each
    row was made from, where rows are pairs of noise and sample; it travels with them into the batch. `path` is where
    they were read from, empty for what was not read; `held_out` names another split there that was kept apart from
    these rows, see `data.held_out`; `known` is the name of the published set that these images are a whole split of.
    `codec` is the autoencoder behind latents, see `data.latents`.

    `look` says how images at a path were taken, and `notes` what is to be said of that. `flip`: in training, a row is
    mirrored every other time. `ahead` reads the batches of coming steps. `classes` are the names of the classes, in the
    order of the labels, where they are given; `class_names` are these, or numbers. `part_of` is the checksum of the
    data set that these rows are a fixed random part of.

    Values are float32 also where a file has 8 bits, as long as that fits `Look.memory`: MNIST's 60,000 images of
    28 × 28 take 188 MB. Beyond it x is kept as 8 bits or stays on the disk, and is indexed like the same tensor.

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
    look: Look = Look()
    flip: bool = False
    ahead: Ahead | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    part_of: str | None = None
    codec: Codec | None = None

    def __post_init__(self) -> None:
        if self.noise is not None and self.noise.shape != self.x.shape:
            raise ValueError(
                f"data set {self.name!r}: its noise is {tuple(self.noise.shape)} and its samples "
                f"{tuple(self.x.shape)}: each row brings its own noise"
            )

    def take(self, rows: Tensor, step: int, key: int, here: Tensor | None = None) -> Tensor:
        """Return x of the rows of a batch as they look in this step: a pure function of (rows, step, key).

        Args:
            rows: those of the global batch.
            step: the training step. key: the seed of the run; random choices are drawn for all rows by (key, step).
            here: the places in the global batch that are wanted, None for all.

        Shapes: rows (global batch,), here (batch,) → (batch, *shape).
        """
        wanted = rows if here is None else rows[here]
        x = self.x[wanted] if self.ahead is None else self.ahead(wanted, step)
        if not self.flip:
            return x
        mirrored = torch.rand(len(rows), generator=generator(key, "flip", step)) < 0.5
        mirrored = mirrored if here is None else mirrored[here]
        return torch.where(mirrored.view(-1, *(1 for _ in self.shape)), x.flip(-1), x)

    @property
    def mirrors(self) -> bool:
        """Whether training sees rows mirrored every other time."""
        return self.flip

    @property
    def streamed(self) -> bool:
        """Whether these were made of images that were streamed, and are kept nowhere."""
        return False

    def turned(self, flip: bool | None) -> Dataset:
        """Return the data set with rows mirrored in training, or not; None for what is usual, which is not.

        Raises: ValueError for what cannot be mirrored.
        """
        if flip and self.kind != "image":
            raise ValueError(f"--flip mirrors images, and {self.name} holds {self.kind}: leave it out")
        return replace(self, flip=bool(flip))

    def part(self, count: int) -> Dataset:
        """A fixed random part of at most `count` rows, called so by its split; the whole where there are not more.

        What stays on the disk is not read.
        """
        if len(self) <= count:
            return self
        rows = chosen(len(self), count, "part")
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
        """How many rows each class has; empty without labels."""
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
        """The first 12 hexadecimal digits of the SHA-256 of the values and labels, however a file packs them.

        Of images that stay on the disk, it is that of their names and sizes, of a fixed random thousand of them, and of
        all labels, and begins with "part-".
        """
        digest, mark = hashlib.sha256(), ""
        if isinstance(self.x, Rows):
            rows = torch.arange(len(self))
            if self.x.stamp is not None:
                digest.update(self.x.stamp.encode())
                rows, mark = chosen(len(self), LOOKED_AT, "checksum"), "part-"
            for part in self.x.blocks(rows, 250):
                digest.update(part.numpy().data)
        else:
            digest.update(self.x.detach().contiguous().cpu().numpy().data)
        if self.label is not None:
            digest.update(self.label.contiguous().cpu().numpy().data)
        return mark + digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.x)
