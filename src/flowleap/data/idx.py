"""The IDX files of MNIST and similar sets: a magic number, sizes, and bytes; with gzip or without.

Images are named as in train-images-idx3-ubyte[.gz] and their labels as in train-labels-idx1-ubyte[.gz]; those of the
test split begin with t10k (or test). Names such as train-images.idx3-ubyte are found as well.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

IMAGES, LABELS = 0x0803, 0x0801  # unsigned bytes in three dimensions, and in one
DIMENSIONS = {IMAGES: 3, LABELS: 1}
NAME = re.compile(
    r"(?P<set>.*?)(?P<part>train|t10k|test)[-_.](?P<kind>images|labels)[-_.]idx[13][-_.]ubyte(\.gz)?",
    re.IGNORECASE,
)
SPLITS = {"train": "train", "t10k": "test", "test": "test"}
EXAMPLE = "train-images-idx3-ubyte[.gz]"
BROKEN = (gzip.BadGzipFile, EOFError, zlib.error)


@dataclass(frozen=True)
class Pair:
    """The files of one split, images and labels, and all splits that are there."""

    images: Path
    labels: Path
    split: str
    splits: tuple[str, ...]


def is_idx(path: Path) -> bool:
    """Whether a file has the name of an IDX file, or a folder holds such files."""
    if path.is_dir():
        return any(NAME.fullmatch(file.name) for file in path.iterdir())
    return NAME.fullmatch(path.name) is not None


def pair(path: Path, split: str | None = None) -> Pair:
    """Find images and labels: in a folder with up to four files, or beside one file of images.

    Args:
        split: "train" or "test"; None for that of the file, and the train split of a folder.

    Raises: ValueError for a missing file, an unknown split, a folder with several data sets.
    """
    given = None if path.is_dir() else _parsed(path)
    if given is not None and given[2] == "labels":
        raise ValueError(f"{path} holds labels: give the file of their images")
    place = path if given is None else path.parent
    found: dict[tuple[str, str, str], Path] = {}
    for file in sorted(place.iterdir()):  # a file comes before its .gz, and is faster to read
        if NAME.fullmatch(file.name) and (given is None or _parsed(file)[0] == given[0]):
            found.setdefault(_parsed(file), file)
    sets = sorted({name for name, _, _ in found})
    if len(sets) > 1:
        raise ValueError(
            f"{path} holds the files of {len(sets)} sets ({', '.join(name.strip('-_.') or 'mnist' for name in sets)}): "
            "give one file of images"
        )
    splits = tuple(part for part in ("train", "test") if any(part == there for _, there, _ in found))
    chosen = split or (given[1] if given is not None else splits[0])
    if chosen not in splits:
        raise ValueError(f"{path} has no split {chosen!r}: choose {' or '.join(splits)}")
    images, label = (found.get((sets[0], chosen, kind)) for kind in ("images", "labels"))
    images = path if given is not None and chosen == given[1] else images
    if images is None or label is None:
        there = images or label
        assert there is not None
        raise ValueError(f"{there} has no partner: {_partner(there)}[.gz] is missing beside it")
    return Pair(images, label, chosen, splits)


def _partner(path: Path) -> Path:
    """The expected file of labels for a file of images, or of images for a file of labels."""
    names = ("images", "labels"), ("idx3", "idx1")
    name = path.name.removesuffix(".gz")
    for one, other in names if "images" in name else [two[::-1] for two in names]:
        name = name.replace(one, other)
    return path.with_name(name)


def header(path: Path, magic: int = IMAGES) -> tuple[int, ...]:
    """The shape that a file states; its first entry is the number of items.

    Raises: ValueError for another magic number, and for a file that is truncated or longer than it states.
    """
    with _opened(path) as file:
        return _header(path, file, magic)


def read(path: Path, magic: int = IMAGES) -> np.ndarray:
    """The items of a file.

    Shapes: images (n, height, width), labels (n,), uint8. Raises: ValueError as `header`.
    """
    with _opened(path) as file:
        shape = _header(path, file, magic)
        held = _read(path, file, -1)
    if len(held) < prod(shape):
        raise _cut(path, f"it holds {len(held):,} of {prod(shape):,} values")
    if len(held) > prod(shape):
        raise ValueError(f"{path} holds more than the {shape[0]:,} items that it states: download it again")
    return np.frombuffer(held, dtype=np.uint8).reshape(shape)


def _parsed(path: Path) -> tuple[str, str, str]:
    """The data set, the split, and "images" or "labels", from the name of a file."""
    match = NAME.fullmatch(path.name)
    assert match is not None, path
    return match["set"].lower(), SPLITS[match["part"].lower()], match["kind"].lower()


def _opened(path: Path) -> Any:
    """Open the file, through gzip if its content is, whatever its name."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def _header(path: Path, file: IO[bytes], magic: int) -> tuple[int, ...]:
    size = 4 * (1 + DIMENSIONS[magic])
    head = _read(path, file, size)
    found = int.from_bytes(head[:4], "big")
    if len(head) >= 4 and found != magic:
        kinds = {IMAGES: "images", LABELS: "labels"}
        known = f"that of {kinds[found]}" if found in kinds else "no IDX file of 8-bit images or labels"
        raise ValueError(
            f"{path} begins with 0x{found:08x}, {known}; IDX files of {kinds[magic]} begin with 0x{magic:08x}"
        )
    if len(head) < size:
        raise _cut(path, f"it ends within its header, after {len(head)} bytes")
    shape = struct.unpack(f">{DIMENSIONS[magic]}I", head[4:])
    if not prod(shape):
        raise ValueError(f"{path} is empty: it states {' × '.join(map(str, shape))} values")
    return shape


def _read(path: Path, file: IO[bytes], size: int) -> bytes:
    try:
        return file.read(size)
    except BROKEN as error:
        raise _cut(path, str(error)) from None


def _cut(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged or was cut off ({reason}): download it again")
