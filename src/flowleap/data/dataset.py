"""A data set held in memory."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples x with their labels, if there are any, and where they come from.

    `split` says which part of the source these rows are, "all" where it has no parts. `noise` is the noise that each
    row was made from, where rows are pairs of noise and sample; it travels with them into the batch. `path` is where
    they were read from, empty for what was not read; `held_out` names another split there that was kept apart from
    these rows, see `data.held_out`; `known` is the name of the published set that these images are a whole split of.

    Values are float32 also where a file has 8 bits: MNIST's 60,000 images of 28 × 28 take 188 MB.

    Shapes: x float32 (rows, *shape), images in [-1, 1]; label int64 (rows,) in [0, num_classes), or None; noise as x,
        or None.
    Raises: ValueError where the noise has another shape than x.
    """

    name: str
    x: Tensor
    label: Tensor | None = None
    num_classes: int | None = None
    kind: Literal["image", "points"] = "image"
    license: str = ""
    source: str = ""
    split: str = "all"
    noise: Tensor | None = None
    path: str = ""
    held_out: str | None = None
    known: str | None = None

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
        return self.x[rows if here is None else rows[here]]

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
        """The first 12 hexadecimal digits of the SHA-256 of the values and labels, however a file packs them."""
        digest = hashlib.sha256(self.x.detach().contiguous().cpu().numpy().data)
        if self.label is not None:
            digest.update(self.label.contiguous().cpu().numpy().data)
        return digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.x)
