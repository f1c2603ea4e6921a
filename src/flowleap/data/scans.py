"""JPEG files of one size, quality and header, packed as that header and their scans: an .npz without anything twice.

Image i is header + scan[end[i − 1] : end[i]] + FF D9, a whole JPEG file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowleap.data.npz import Archive
from flowleap.data.pixels import Faulty, decode

__all__ = ["Scans", "scans", "splits"]

END = b"\xff\xd9"


def splits(archive: Archive) -> tuple[str, ...]:
    """The splits whose scans an archive holds; none where it is of another kind."""
    return tuple(part for part in ("train", "test") if "header" in archive and f"{part}_scan" in archive)


@dataclass(frozen=True, eq=False)
class Scans:
    """The packed JPEG files of one split."""

    path: Path
    split: str
    header: bytes
    scan: bytes
    end: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.end)

    def image(self, index: int) -> np.ndarray:
        """Decode an image.

        Shapes: -> uint8 (height, width[, 3]). Raises: ValueError where it is damaged.
        """
        start = self.end[index - 1] if index else 0
        name = f"image {index} of the {self.split} split of {self.path}"
        try:
            return decode(self.header + self.scan[start : self.end[index]] + END, name)
        except Faulty as error:
            raise ValueError(f"{name} cannot be decoded ({error}): get the file again") from None


def scans(archive: Archive, split: str) -> Scans:
    """Read the scans of a split.

    Raises: ValueError where arrays are missing, of another type, or do not fit one another.
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
