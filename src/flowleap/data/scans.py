"""JPEG files of one size and quality packed into an .npz: their common header once, and the scan of each image.

Image i is header + scan[end[i − 1] : end[i]] + FF D9, a whole JPEG file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowleap.data.npz import Archive
from flowleap.data.pixels import Faulty, channels_first, decode

END = b"\xff\xd9"


def splits(archive: Archive) -> tuple[str, ...]:
    """The splits whose scans an archive holds; empty for an archive of another kind."""
    return tuple(part for part in ("train", "test") if "header" in archive and f"{part}_scan" in archive)


@dataclass(frozen=True, eq=False)
class Scans:
    """The packed JPEG files of one split, decoded when they are indexed.

    Shapes: int64 (k,) -> uint8 (k, *one), all of the size of the first.
    """

    path: Path
    split: str
    header: bytes
    scan: bytes
    end: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.end)

    def __call__(self, rows: Tensor) -> Tensor:
        images = [self.image(row) for row in rows.tolist()]
        for row, image in zip(rows.tolist(), images, strict=True):
            if image.shape != self.one:
                raise ValueError(f"image {row} of {self.path} has shape {image.shape}, unlike the first")
        return torch.from_numpy(np.stack(images))

    @cached_property
    def one(self) -> tuple[int, ...]:
        """The shape of the first image, (channels, height, width)."""
        return self.image(0).shape

    def image(self, index: int) -> np.ndarray:
        """Decode an image.

        Shapes: -> uint8 (channels, height, width). Raises: ValueError for a damaged one.
        """
        start = self.end[index - 1] if index else 0
        name = f"image {index} of the {self.split} split of {self.path}"
        try:
            return channels_first(decode(self.header + self.scan[start : self.end[index]] + END, name))
        except Faulty as error:
            raise ValueError(f"{name} cannot be decoded ({error}): download the file again") from None


def scans(archive: Archive, split: str) -> Scans:
    """Read the scans of a split.

    Raises: ValueError for arrays that are missing, of another type, or do not fit one another.
    """
    header, scan, end = (archive.read(name) for name in ("header", f"{split}_scan", f"{split}_end"))
    where = f"{archive.path}, split {split}"
    if header.dtype != np.uint8 or scan.dtype != np.uint8 or header.ndim != 1 or scan.ndim != 1:
        raise ValueError(f"{where}: header and scans are expected as bytes, one row each")
    if end.ndim != 1 or not np.issubdtype(end.dtype, np.integer) or not len(end):
        raise ValueError(f"{where}: the ends of the scans are expected as whole numbers, one for each image")
    edges = end.astype(np.int64)
    if (np.diff(edges, prepend=0) <= 0).any() or edges[-1] != len(scan):
        raise ValueError(
            f"{where}: the ends of the scans must rise to {len(scan)}, their length; the last is {edges[-1]}: get the "
            "file again"
        )
    return Scans(archive.path, split, header.tobytes(), scan.tobytes(), tuple(edges.tolist()))
