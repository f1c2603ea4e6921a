"""A data set held in memory."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples x with their labels, if there are any, and where they come from.

    `split` says which part of the source these rows are, "all" where it has no parts.

    Shapes: x float32 (rows, *shape), images in [-1, 1]; label int64 (rows,) in [0, num_classes), or None.
    """

    name: str
    x: Tensor
    label: Tensor | None = None
    num_classes: int | None = None
    kind: Literal["image", "points"] = "image"
    license: str = ""
    source: str = ""
    split: str = "all"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])

    def __len__(self) -> int:
        return len(self.x)
