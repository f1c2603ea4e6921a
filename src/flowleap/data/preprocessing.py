"""Preprocessing of images: the size they are resized to, and how they are made square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from flowleap.fields import check

if TYPE_CHECKING:
    from PIL.Image import Image

Square = Literal["crop", "resize"]
FILTER = "Lanczos"
"""The filter for resizing; its support grows with the scale, so that nothing aliases."""
GAP = 3.0
"""JPEG files are decoded at 1/2, 1/4 or 1/8 of their size if that leaves this many times the wanted side, which
according to Pillow cannot be distinguished from decoding all pixels."""
AS_THEY_ARE = 256
"""Images of one size stay as they are up to this side."""
LARGEST, SMALLEST = 64, 8
FEW = 0.05
GIB = 2**30


@dataclass(frozen=True)
class ResizeCrop:
    """Make an image a square of `size` pixels: "crop" the largest centered square, or "resize" without cropping.

    crop keeps the aspect ratio; resize keeps all of the image and distorts it. Both resize with `FILTER`, antialiased.

    Args:
        enlarge: whether smaller images are enlarged; otherwise they are left out.

    Raises: ValueError for another policy or a size below 1.
    """

    square: Square
    size: int
    enlarge: bool = False

    def __post_init__(self) -> None:
        if self.square not in ("crop", "resize"):
            raise ValueError(f"square={self.square!r}: expected crop or resize")
        if self.size < 1:
            raise ValueError(f"size={self.size}: an image has at least one pixel")

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of an image that is used: left, upper, right, lower."""
        if self.square == "resize":
            return 0, 0, width, height
        side = min(width, height)
        left, upper = (width - side) // 2, (height - side) // 2
        return left, upper, left + side, upper + side

    def small(self, width: int, height: int) -> bool:
        """Whether an image is too small in one direction, and is left out."""
        return not self.enlarge and min(width, height) < self.size

    def drafted(self, image: Image) -> None:
        """Let Pillow decode a JPEG file at a fraction of its size where that makes no difference, see `GAP`."""
        width, height = image.size
        across, down = (min(width, height),) * 2 if self.square == "crop" else (width, height)
        wanted = (int(GAP * self.size * width / across), int(GAP * self.size * height / down))
        image.draft(None, wanted)

    def __call__(self, image: Image) -> Image:
        """Return the square.

        Shapes: any size -> size × size.
        """
        from PIL import Image as pillow

        box = self.box(*image.size)
        cut = image if box == (0, 0, *image.size) else image.crop(box)
        if cut.size == (self.size, self.size):
            return cut
        return cut.resize((self.size, self.size), pillow.Resampling.LANCZOS)

    @property
    def stamp(self) -> str:
        """Its part of the checksums of data sets, in which version 0.1 called this class View."""
        return f"View(square={self.square!r}, size={self.size})"

    @property
    def words(self) -> str:
        """What is done, in words."""
        how = "cut to the square in their middle" if self.square == "crop" else "squeezed into squares"
        return f"{how} and resized to {self.size} × {self.size} ({FILTER}, antialiased)"


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing and memory of images at a path.

    Args:
        square: "crop" or "resize", see `ResizeCrop`; None: crop, but images of one size may stay as they are.
        size: the side that they are resized to; None: `default_size`, or as they are.
        strict: raise an error for unusable images, instead of leaving them out.
        memory: GiB that images may take: as float32, or else as uint8, or else they stay on the disk.

    Raises: ValueError for values out of range.
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


def default_size(short: np.ndarray) -> int:
    """The default side that images are resized to: the largest power of two from 8 to 64 that at most a twentieth of
    the images are smaller than.

    64 is what a network of pixels learns in reasonable time; larger sides are given by --size.

    Shapes: short (n,), the shorter side of each image.
    """
    side = int(np.quantile(short, FEW, method="lower"))
    return max(SMALLEST, min(LARGEST, 1 << (max(1, side).bit_length() - 1)))
