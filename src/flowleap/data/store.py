"""Encoded images by number: the files below a folder, the rows of a table, or pixels in memory."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flowleap.data.classes import ordered
from flowleap.data.pixels import Encoded

__all__ = ["EXTENSIONS", "Arrays", "Files", "Names", "Store", "files_below"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


class Store(Protocol):
    """What images are read from."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an image is called in messages."""
        ...

    def encoded(self, index: int) -> Encoded:
        """The file of an image."""
        ...

    @property
    def stamp(self) -> str:
        """Tells these images from others without reading them."""
        ...


class Names:
    """Many names in one piece of memory: the listing of 100,000 files takes some megabytes, and is shared by processes.

    >>> names = Names(["a", "bc", ""])
    >>> len(names), names[1], list(names)
    (3, 'bc', ['a', 'bc', ''])
    """

    def __init__(self, names: Iterator[str] | list[str]) -> None:
        packed, ends = bytearray(), array("q")
        for name in names:
            packed += os.fsencode(name)
            ends.append(len(packed))
        self.packed, self.ends = (
            bytes(packed),
            np.frombuffer(ends, dtype=np.int64) if ends else np.zeros(0, np.int64),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self.ends):
            raise IndexError(index)
        return os.fsdecode(self.packed[self.ends[index - 1] if index else 0 : self.ends[index]])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class Files:
    """The images below a folder, in the order of their paths.

    `classes` are the sub-folders that all of them lie in, none where some lie in none; `label` is int64 (n,) then.
    `changed` is the last time that one of them was.
    """

    root: Path
    names: Names
    sizes: np.ndarray = field(repr=False)
    changed: float
    classes: tuple[str, ...]
    label: Tensor | None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The path of a file."""
        return os.path.join(self.root, self.names[index])

    def encoded(self, index: int) -> Encoded:
        """The file of an image, by its path."""
        return self.name(index)

    @cached_property
    def stamp(self) -> str:
        """The SHA-256 of the paths of the files within the folder, and of their sizes."""
        digest = hashlib.sha256(self.names.packed)
        digest.update(self.names.ends.tobytes())
        digest.update(self.sizes.tobytes())
        return digest.hexdigest()


def files_below(root: Path) -> Files:
    """List the images below a folder; nothing of them is read.

    Raises: OSError for folders that cannot be read.
    """
    sizes, heads, changed = array("q"), array("q"), 0.0
    number: dict[str, int] = {}

    def listed() -> Iterator[str]:
        nonlocal changed
        for name, entry in _walk(root, "", frozenset()):
            about = entry.stat()
            sizes.append(about.st_size)
            changed = max(changed, about.st_mtime)
            head, slash, _ = name.partition("/")
            heads.append(number.setdefault(head, len(number)) if slash else -1)
            yield name

    names = Names(listed())
    held = np.frombuffer(heads, dtype=np.int64) if heads else np.zeros(0, np.int64)
    inside = bool(len(held)) and bool((held >= 0).all())
    label, classes = ordered(torch.from_numpy(held.copy()), list(number)) if inside else (None, ())
    return Files(root, names, np.array(sizes, dtype=np.int64), changed, classes, label)


def _walk(folder: Path, below: str, above: frozenset[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Image files in the order of their paths, folders at the place of their names; links to folders above end."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{below}{entry.name}/", above | {real})
        elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            yield below + entry.name, entry


@dataclass(frozen=True, eq=False)
class Arrays:
    """Pixels that are in memory, uint8 (n, channels, height, width)."""

    levels: Tensor
    called: str

    def __len__(self) -> int:
        return len(self.levels)

    def name(self, index: int) -> str:
        """Image i of what they are called."""
        return f"image {index} of {self.called}"

    def encoded(self, index: int) -> Encoded:
        """The pixels of an image, channels last where there are several."""
        levels = self.levels[index].numpy()
        return levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))

    @property
    def stamp(self) -> str:
        """The SHA-256 of the pixels."""
        return hashlib.sha256(self.levels.contiguous().numpy().data).hexdigest()
