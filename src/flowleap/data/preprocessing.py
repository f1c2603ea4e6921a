"""How images are taken: in which size, and how those of several sizes become squares of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from flowleap.fields import check

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["AS_THEY_ARE", "FILTER", "GAP", "GIB", "Preprocessing", "ResizeCrop", "Square", "suggested"]

Square = Literal["crop", "resize"]
FILTER = "Lanczos"
"""The filter that images are resized with, whose support grows with the scale, so that nothing aliases."""
GAP = 3.0
"""JPEG files are decoded at a half, a quarter or an eighth of their size where that leaves so many times the pixels
that are wanted, which by Pillow's account cannot be told from decoding all of them."""
AS_THEY_ARE = 256
"""Images of one size are taken as they are up to this side."""
LARGEST, SMALLEST = 64, 8
FEW = 0.05
GIB = 2**30


@dataclass(frozen=True)
class ResizeCrop:
    """A square of `size` pixels: the largest one in the middle of an image ("crop"), or all of it ("resize").

    crop keeps the proportions and loses what lies outside; resize keeps everything and squeezes it. Both resize with
    `FILTER`, antialiased.

    Args:
        enlarge: whether images with fewer pixels may be enlarged; they are left out otherwise.

    Raises: ValueError for another policy or a size below 1.
    """

    square: Square
    size: int
    enlarge: bool = field(default=False, repr=False)  # the words of a view are part of checksums

    def __post_init__(self) -> None:
        if self.square not in ("crop", "resize"):
            raise ValueError(f"square={self.square!r}: expected crop or resize")
        if self.size < 1:
            raise ValueError(f"size={self.size}: an image has at least one pixel")

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """What is kept of an image of some size: left, upper, right, lower."""
        if self.square == "resize":
            return 0, 0, width, height
        side = min(width, height)
        left, upper = (width - side) // 2, (height - side) // 2
        return left, upper, left + side, upper + side

    def small(self, width: int, height: int) -> bool:
        """Whether an image of some size has fewer pixels in a direction than are asked for, and is left out for it."""
        return not self.enlarge and min(width, height) < self.size

    def drafted(self, image: Image) -> None:
        """Let a JPEG file be decoded at a fraction of its size where that makes no difference."""
        width, height = image.size
        across, down = (min(width, height),) * 2 if self.square == "crop" else (width, height)
        wanted = (int(GAP * self.size * width / across), int(GAP * self.size * height / down))
        image.draft(None, wanted)

    def __call__(self, image: Image) -> Image:
        """Return the square of an image in grey or colors.

        Shapes: any size -> size × size.
        """
        from PIL import Image as pillow

        box = self.box(*image.size)
        cut = image if box == (0, 0, *image.size) else image.crop(box)
        if cut.size == (self.size, self.size):
            return cut
        return cut.resize((self.size, self.size), pillow.Resampling.LANCZOS)

    @property
    def words(self) -> str:
        """What is done, for the eye."""
        how = "cut to the square in their middle" if self.square == "crop" else "squeezed into squares"
        return f"{how} and resized to {self.size} × {self.size} ({FILTER}, antialiased)"


@dataclass(frozen=True)
class Preprocessing:
    """How images at a path are taken.

    Args:
        square: "crop" or "resize", see `ResizeCrop`; None where images of one size may stay as they are.
        size: the side that they are resized to; None for `suggested`, or as they are.
        strict: refuse data of which something cannot be used, rather than leaving that out.
        memory: how many GiB images may take: as 32-bit floats, or else as 8 bits, or else they stay on the disk.

    Raises: ValueError for values that mean nothing.
    """

    square: Square | None = None
    size: int | None = None
    strict: bool = False
    memory: float = 1.0

    def __post_init__(self) -> None:
        if self.square is not None:
            ResizeCrop(self.square, 1)
        check(self)
        if self.size is not None:
            ResizeCrop(self.square or "crop", self.size)
        if self.memory < 0:
            raise ValueError(f"memory={self.memory}: expected GiB, 0 to read everything when it is needed")


def suggested(short: np.ndarray) -> int:
    """The side that images are resized to where none is named: a power of two.

    The largest that at most a twentieth of the images fall short of, from 8 to 64: what a network of pixels learns
    in reasonable time. More is asked for by name.

    Shapes: short (n,), the shorter side of each image.
    """
    side = int(np.quantile(short, FEW, method="lower"))
    return max(SMALLEST, min(LARGEST, 1 << (max(1, side).bit_length() - 1)))
