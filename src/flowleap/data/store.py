"""Encoded images by number, not yet decoded or resized: files of a folder, rows of a table, or arrays in memory."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.data.classes import listed, natural, ordered
from flowleap.data.dataset import Dataset
from flowleap.data.parts import TRAIN, Parts, held_out_split, parts_of
from flowleap.data.pixels import Encoded, Faulty, is_own_file
from flowleap.data.rows import Samples
from flowleap.data.skipped import Skipped, hidden, kinds, made, suffix

FEW_LOOSE = 0.1
"""Images beside class folders are left out if they are at most this share of those inside, or a single one."""
LOOKED_AT = 1000
"""Up to this many images beside class folders are searched for pictures that flowleap drew."""


class Names:
    """An immutable list of strings in one buffer: 100,000 paths take some megabytes, which processes can share.

    >>> names = Names(["a", "bc", ""])
    >>> len(names), names[1], list(names)
    (3, 'bc', ['a', 'bc', ''])
    """

    def __init__(self, names: Iterator[str] | list[str]) -> None:
        packed, ends = bytearray(), array("q")
        for name in names:
            packed += os.fsencode(name)
            ends.append(len(packed))
        self.packed, self.ends = bytes(packed), np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self.ends):
            raise IndexError(index)
        return os.fsdecode(self.packed[self.ends[index - 1] if index else 0 : self.ends[index]])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


def some_of(label: Tensor | None, rows: np.ndarray) -> Tensor | None:
    """The labels of some images, None without."""
    return None if label is None else label[torch.from_numpy(rows)]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Described:
    """What all stores know of their images.

    Each store also has `notes` (messages for the user), `stamp` (identifies the images without decoding them),
    `name(index)` (an image in messages), `encoded(index)` (its file or pixels) and `only(rows)` (some of the images).

    Args:
        called: name of the data set. classes: names of the classes in the order of the labels, empty without labels.
        label, split, held_out: as of `Dataset`.
    """

    called: str
    label: Tensor | None = None
    classes: tuple[str, ...] = ()
    split: str = "all"
    held_out: str | None = None

    def dataset(self, x: Samples, path: str, **about: Any) -> Dataset:
        """Return the data set of decoded images; `about` are fields of `Dataset` that differ from the store's."""
        own = {"label": self.label, "classes": self.classes, "split": self.split, "held_out": self.held_out}
        return Dataset(self.called, x, source=self.called, path=path, **{**own, **about})


@dataclass(frozen=True, eq=False)
class Files(_Described):
    """The image files below a folder, in the order of their paths.

    Args:
        sizes: of the files, in bytes.
        folders: the sub-folders with images, whether they are classes or not.
        skipped: files and folders that are not used.
        doubt: why sub-folders are no classes, or may be none.
    """

    root: Path
    names: Names
    sizes: np.ndarray = field(repr=False)
    folders: tuple[str, ...] = ()
    skipped: Skipped = field(default_factory=Skipped)
    doubt: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The path of a file."""
        return os.path.join(self.root, self.names[index])

    def encoded(self, index: int) -> Encoded:
        """The path of a file."""
        return self.name(index)

    @property
    def stamp(self) -> str:
        """The SHA-256 of the paths of the files within the folder, and of their sizes."""
        digest = hashlib.sha256(self.names.packed)
        digest.update(self.names.ends.tobytes())
        digest.update(self.sizes.tobytes())
        return digest.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages on the images that are used and those that are not."""
        return (*filter(None, [self.unclear, self._nested()]), *self.skipped.notes(self.folders))

    @property
    def unclear(self) -> str:
        """A message on doubtful classes; empty where all images lie in sub-folders, or none does."""
        many = len(self.skipped.loose)
        loose = f"left out: {many:,} image{'s' * (many > 1)} beside the sub-folders ({listed(self.skipped.loose)})"
        return "; ".join(filter(None, [loose if many else "", self.doubt, self._splits_within()]))

    def with_doubt(self, *reasons: str) -> Files:
        """The same files with these reasons for doubt, empty ones left out."""
        return replace(self, doubt="; ".join(filter(None, reasons)))

    def _nested(self) -> str:
        """A message where the only class folder has sub-folders, which may be the classes."""
        if len(self.classes) != 1:
            return ""
        inner = {name.split("/")[1] if name.count("/") > 1 else "" for name in self.names}
        if "" in inner or len(inner) < 2:
            return ""
        return (
            f"all images lie in {self.root / self.classes[0]}, whose sub-folders are no classes "
            f"({listed(sorted(inner, key=natural))}); give its path where they are"
        )

    def _splits_within(self) -> str:
        """A message where the classes have sub-folders that are splits, as in cat/train, which are all used."""
        inner: set[str] = set()
        for name in self.names if self.classes else ():
            below = name.split("/")
            if len(below) < 3:
                return ""
            inner.add(below[1])
        if len(inner) < 2 or not parts_of(sorted(inner)).whole:
            return ""
        return (
            f"the classes have sub-folders {listed(sorted(inner))}, of which all images are used; to hold some out, "
            f"put the classes into such folders, as in {sorted(inner)[-1]}/{self.classes[0]}"
        )

    def only(self, rows: np.ndarray) -> Files:
        """Some of the images, by their numbers."""
        names = Names([self.names[index] for index in rows.tolist()])
        return replace(self, names=names, sizes=self.sizes[rows], label=some_of(self.label, rows))


@dataclass(frozen=True, eq=False)
class Arrays(_Described):
    """Images in memory, uint8 (n, channels, height, width), read from the path `place`."""

    levels: Tensor
    place: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.levels)

    def name(self, index: int) -> str:
        """The number of an image and its path."""
        return f"image {index} of {self.place}"

    def encoded(self, index: int) -> Encoded:
        """The pixels of an image, channels last where there are several."""
        levels = self.levels[index].numpy()
        return levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))

    def only(self, rows: np.ndarray) -> Arrays:
        """Some of the images, by their numbers."""
        return replace(self, levels=self.levels[torch.from_numpy(rows)], label=some_of(self.label, rows))

    @property
    def stamp(self) -> str:
        """The SHA-256 of the pixels."""
        return hashlib.sha256(self.levels.contiguous().numpy().data).hexdigest()


@dataclass(frozen=True, eq=False)
class Table(_Described):
    """The images of one split of a Hugging Face data set, which stay in their table.

    Args:
        rows: the `datasets.Dataset`, images not decoded. column: that of the images.
    """

    rows: Any
    column: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The number of an image."""
        return f"image {index} of {self.called}"

    def encoded(self, index: int) -> Encoded:
        """The file of an image: its bytes, or its path where the table only names it.

        Raises: Faulty where there is none.
        """
        found = self.rows[index][self.column]
        if found is None or (found["bytes"] is None and not found["path"]):
            raise Faulty("unreadable", f"{self.name(index)} is empty")
        return found["bytes"] if found["bytes"] is not None else found["path"]

    def only(self, rows: np.ndarray) -> Table:
        """Some of the images, by their numbers."""
        return replace(self, rows=self.rows.select(rows), label=some_of(self.label, rows))

    @property
    def stamp(self) -> str:
        """The SHA-256 of the number of rows and of the columns; pixels and labels are looked at elsewhere."""
        return hashlib.sha256(f"{len(self)} {self.rows.features}".encode()).hexdigest()


Store = Files | Table | Arrays

# ---------------------------------------------------------------- folders


def training_files(path: Path, split: str | None = None, *, strict: bool = False) -> Files:
    """The training images in a folder: of the split that is named, or of the training split where all sub-folders are
    splits, or else all.

    Raises: ValueError as `split_files`; with `strict` also where it is not clear what the classes are.
    """
    files: Files | None = None
    if split is None and TRAIN in _parts_in(path).folders:
        whole = files_below(path)
        if parts_of(whole.folders).whole:
            files = split_files(path, TRAIN)
            files = files.with_doubt(whole.unclear, files.doubt)
    files = split_files(path, split) if files is None else files
    if strict and files.unclear:
        raise ValueError(f"{files.unclear}; leave out --strict to go on")
    return files


def files_to_check(path: Path, split: str | None = None) -> Files:
    """The images in a folder for `flowleap data check`: of the split that is named, or all, with splits as classes.

    Raises: ValueError without images, and for an unknown split.
    """
    if split is not None:
        return split_files(path, split)
    files = files_below(path)
    if not len(files):
        raise ValueError(_no_images(files))
    found = parts_of(files.folders)
    doubt = found.doubt(files.names)
    if found.whole:
        return files.with_doubt(
            files.doubt,
            f"{listed([*found.folders.values()])} are parts of the data, counted as classes here; --split looks at one "
            "of them",
        )
    return files.with_doubt(files.doubt, f"{doubt}: training will refuse this" if doubt else "")


def split_files(path: Path, split: str | None = None) -> Files:
    """The images in a folder, or in one of its splits.

    Raises: ValueError without images, for splits of which none is chosen, for an unknown split, and for folders that
        may be splits or classes.
    """
    parts, within = Parts({}), path
    if split is not None:
        parts = _parts_in(path)
        within = path / parts.folders.get(split, split)
        if not within.is_dir():
            there = f"choose {' or '.join(parts.folders)}, or leave" if parts else "leave"
            raise ValueError(f"{path} has no folder {split!r}: {there} --split out")
    files = files_below(within)
    if not len(files):
        raise ValueError(_no_images(files))
    found = parts_of(files.folders)
    if files.classes and found.whole:
        raise ValueError(
            f"{within} has the parts {', '.join(sorted(found.folders.values()))}: choose one with --split, as in "
            f"--split {next(iter(found.folders))}, or give its own path"
        )
    if doubt := found.doubt(files.names):
        raise ValueError(
            f"{within}: {doubt}. Give the path of one folder, as in {within / next(iter(found.folders.values()))}, or "
            "move what does not belong here elsewhere; a class of such a name needs another"
        )
    if split is None:
        return files
    name = parts.name(split)
    return replace(files, called=_called(path), split=name, held_out=held_out_split(name, parts.folders))


def _parts_in(path: Path) -> Parts:
    """The splits among the sub-folders of a folder."""
    with os.scandir(path) as entries:
        return parts_of(sorted(entry.name for entry in entries if entry.is_dir() and not hidden(entry.name)))


def _called(path: Path) -> str:
    return path.name or path.resolve().name


def _no_images(files: Files) -> str:
    """The error message for a folder without images, with what else it holds."""
    return "; ".join([f"{files.root} holds no images that Pillow reads", *files.notes])


def files_below(root: Path) -> Files:
    """List the images below a folder without reading them.

    The first sub-folder is the class. A few images beside such folders are left out (`FEW_LOOSE`); where there are more
    of them, there are no classes. Splits count as classes here.

    Raises: OSError for folders that cannot be read; ValueError for one that flowleap made.
    """
    kind = made(root, os.listdir(root))
    if kind is not None:
        raise ValueError(
            f"{root} is a {kind} that flowleap made, no data set: name a folder of images. A run goes on with "
            "--resume, and another begins with its weights with --init"
        )
    sizes, heads = array("q"), array("q")
    number: dict[str, int] = {}
    skipped = Skipped()

    def listing() -> Iterator[str]:
        for name, entry in _walk(root, "", frozenset(), skipped):
            sizes.append(entry.stat().st_size)
            head, slash, _ = name.partition("/")
            heads.append(number.setdefault(head, len(number)) if slash else -1)
            yield name

    names = Names(listing())
    held = np.array(heads, dtype=np.int64)
    about: dict[str, Any] = {"called": _called(root), "folders": tuple(number), "skipped": skipped}
    whole = Files(root, names, np.array(sizes, np.int64), **about)
    if not number:
        return whole
    inside, doubt = _inside(whole, held)
    whole = whole.only(inside) if len(inside) < len(held) else whole
    if doubt:
        return whole.with_doubt(doubt)
    label, classes = ordered(torch.from_numpy(held[inside]), list(number))
    return replace(whole, classes=classes, label=label)


def _inside(files: Files, held: np.ndarray) -> tuple[np.ndarray, str]:
    """The numbers of the images that are used where some lie in sub-folders; if those are no classes, also the reason.

    Shapes: held (n,), the number of the folder of each image, -1 for none.
    """
    loose = (held < 0).nonzero()[0]
    drawn = [row for row in loose.tolist() if is_own_file(files.name(row))] if len(loose) <= LOOKED_AT else []
    files.skipped.drawn += [files.names[row] for row in drawn]
    left, loose = np.setdiff1d(np.arange(len(held)), drawn), np.setdiff1d(loose, drawn)
    many, inside = len(loose), len(left) - len(loose)
    few = len(files.folders) > 1 and many <= max(1, FEW_LOOSE * inside)
    if many and not few and not parts_of(files.folders).whole:
        return left, (
            f"no labels: {many:,} image{'s' * (many > 1)} of {files.root} lie in no sub-folder and {inside:,} in "
            f"{listed(files.folders)}; sub-folders are classes where all images lie in them"
        )
    files.skipped.loose += [files.names[row] for row in loose.tolist()]
    return np.setdiff1d(left, loose), ""


def _walk(
    folder: Path, below: str, above: frozenset[str], skipped: Skipped
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield image files in the order of their paths; links to folders above are not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    kind = made(folder, {entry.name for entry in found}) if below else None
    if kind is not None:
        skipped.made[below.rstrip("/")] = kind
        return
    for entry in found:
        if hidden(entry.name):
            skipped.hide(entry.name, folder=entry.is_dir())
        elif entry.is_dir():
            if not below:
                skipped.folders.append(entry.name)
            yield from _walk(Path(entry.path), f"{below}{entry.name}/", above | {real}, skipped)
        elif suffix(entry.name) not in kinds():
            skipped.kinds[suffix(entry.name)] += 1
        elif entry.is_file():
            yield below + entry.name, entry
        else:
            skipped.broken.append(below + entry.name)
