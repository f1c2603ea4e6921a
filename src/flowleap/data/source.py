"""Images on a disk, read as they are needed: folders of files, archives of arrays, and IDX files."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flowleap.data import idx, pixels, scans
from flowleap.data.check import check
from flowleap.data.classes import left_out, numbered, occurring
from flowleap.data.dataset import Dataset, kept_apart
from flowleap.data.known import recognized
from flowleap.data.npz import Archive
from flowleap.data.parts import TRAIN, Parts, parts_of
from flowleap.data.prepare import GIB, Look
from flowleap.data.rows import Held, Rows, Samples, chosen, levels_of, scaled
from flowleap.data.skipped import hidden
from flowleap.data.store import Files, files_below

__all__ = ["Source", "listed", "load_any", "no_images", "of_dataset", "open_images", "training_part"]

LABELS = {"images": ("label", "labels"), "arr_0": ("arr_1",), "train_x": ("train_y",), "test_x": ("test_y",)}
UNIT = "no value of {} is below 0: floats are taken to lie in [-1, 1]; if these lie in [0, 1], store 2 x − 1"
SLACK = 1e-3  # how far beyond [-1, 1] a value may lie before it is an error rather than rounding

Reader = Callable[[Tensor, int], Iterator[Tensor]]
Labels = tuple[Tensor | None, tuple[str, ...], tuple[str, ...]]
"""Labels, the names of the classes, and what is to be said of them."""


@dataclass(frozen=True, eq=False)
class Source:
    """Images that are read when they are asked for, and no sooner.

    Args:
        name: what they are called.
        shape: of one image, (channels, height, width); of one point, (dimensions,).
        count: how many there are.
        read: (sorted indices (k,), n) -> those images in order, at most n at a time.
        label: int64 (count,), None without classes.
        classes: names of the classes, in the order of the labels; empty where they have none.
        split: the part of a data set these are, "all" where it has no parts.
        splits: all parts that are there.
        path: where they are, empty for what is in memory.
        eight_bit: whether their values are those of 8 bits.
        notes: what is to be said of how they are taken.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    read: Reader
    label: Tensor | None = None
    classes: tuple[str, ...] = ()
    split: str = "all"
    kind: Literal["image", "points", "latents"] = "image"
    splits: tuple[str, ...] = ()
    path: str = ""
    eight_bit: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def chosen(self, count: int | None = None) -> Tensor:
        """The indices of the images that `batches` gives: all, or a fixed random part of them, in order.

        A random part rather than the first or every k-th, which where files are sorted would be a few classes.
        Shapes: -> (count,), int64. Raises: ValueError where fewer than 1 or more than there are is asked for.
        """
        if count is None or count == self.count:
            return torch.arange(self.count)
        if not 1 <= count <= self.count:
            raise ValueError(f"{self.name} holds {self.count} images, and {count} were asked for")
        return chosen(self.count, count, "source")

    def batches(self, n: int, count: int | None = None) -> Iterator[Tensor]:
        """Yield float32 images in [-1, 1], n at a time (the last batch may be smaller), exactly `count` in all.

        Shapes: (≤ n, channels, height, width).
        Raises: ValueError for a file that cannot be read, another size than the first, values outside [-1, 1].
        """
        if n < 1:
            raise ValueError(f"a batch holds at least one image, got n={n}")
        index = self.chosen(count)
        for start, batch in _counted(self.read(index, n)):
            broken = ~batch.flatten(1).isfinite().all(dim=1)
            if broken.any():
                row = int(index[start + int(broken.int().argmax())])
                raise ValueError(
                    f"{int(broken.sum())} images of {self.name} hold NaN or infinity, the first is image {row}: "
                    "repair or remove them"
                )
            low, high = float(batch.min()), float(batch.max())
            if self.kind == "image" and not (low >= -1 - SLACK and high <= 1 + SLACK):
                raise ValueError(
                    f"images {int(index[start])} to {int(index[start + len(batch) - 1])} of {self.name} lie in "
                    f"[{low:g}, {high:g}]: floats must lie in [-1, 1], 8-bit values be stored as uint8"
                )
            yield batch

    def dataset(self, count: int | None = None, memory: float = Look.memory) -> Dataset:
        """Read the images into memory; whole splits of published sets are recognized.

        Args:
            memory: how many GiB of floats there may be; images of 8 bits that are more are kept as 8 bits.

        Raises: ValueError as `batches`.
        """
        index = self.chosen(count)
        x = self._held(index, count, memory)
        label = None if self.label is None else self.label[index]
        classes = None if self.label is None else len(self.classes) or int(self.label.max()) + 1
        held = Dataset(
            self.name,
            x,
            label,
            classes,
            self.kind,
            source=self.name,
            split=self.split,
            classes=self.classes,
            notes=self.notes,
        )
        if len(x) < self.count:
            return check(replace(held, split=f"{self.split}[{len(x)}]"))
        return recognized(check(replace(held, path=self.path, held_out=kept_apart(self.split, self.splits))))

    def levels(self, count: int | None = None) -> Tensor:
        """The images as 8 bits, in memory.

        Shapes: -> uint8 (count, *shape). Raises: ValueError as `batches`, and where they have other values.
        """
        if not self.eight_bit:
            raise ValueError(
                f"{self.name} holds floats: only images of 8 bits are resized; store them as uint8"
            )
        made, filled = torch.empty(len(self.chosen(count)), *self.shape, dtype=torch.uint8), 0
        for batch in self.batches(1000, count):
            made[filled : filled + len(batch)] = levels_of(batch)
            filled += len(batch)
        return made

    def _held(self, index: Tensor, count: int | None, memory: float) -> Samples:
        if self.eight_bit and 4 * len(index) * math.prod(self.shape) > memory * GIB:
            return Rows(Held(self.levels(count)), len(index), self.shape)
        x, filled = torch.empty(len(index), *self.shape), 0
        for batch in self.batches(1000, count):
            x[filled : filled + len(batch)] = batch
            filled += len(batch)
        return x.clamp_(-1, 1) if self.kind == "image" else x


def _counted(batches: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for batch in batches:
        yield start, batch
        start += len(batch)


def of_dataset(dataset: Dataset) -> Source:
    """A data set in memory, to be read like images on a disk."""

    def read(index: Tensor, n: int) -> Iterator[Tensor]:
        x = dataset.x
        return x.blocks(index, n) if isinstance(x, Rows) else (x[part] for part in index.split(n))

    return Source(
        dataset.name,
        dataset.shape,
        len(dataset),
        read,
        dataset.label,
        dataset.class_names,
        dataset.split,
        dataset.kind,
        path=dataset.path,
    )


def load_any(text: str | Path, split: str | None = None, look: Look | None = None) -> Dataset:
    """Load a data set by its name, or read one from a path: `data.load`."""
    from flowleap import data

    return data.load(text, split=split, look=look)


def open_images(path: Path | str, split: str | None = None) -> Source:
    """Open images without reading them: a folder of image files, an .npz (.npz.xz) of arrays, or IDX files.

    A folder is searched through, in the order of its paths; where all files lie in sub-folders, the first of these
    is the class. An .npz holds `images` (uint8 (n, height, width[, channels]) or float (n, channels, height, width)
    in [-1, 1]), or `arr_0` as ADM's samples, or train_x and test_x, with labels in label, arr_1, train_y, test_y;
    or JPEG files in parts, as `scans` takes them. IDX files are those of MNIST: a folder of them, or one of images
    with its labels beside it.

    Args:
        split: "train" or "test": the sub-folder, arrays or files to take; None takes all of a folder of images, the
            split of an IDX file, and train of everything else.

    Raises: ValueError for what holds no images, for other shapes and types, for a split that is not there.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: give a folder of images, an .npz, or IDX files")
    if idx.is_idx(path):
        source = _idx(path, split)
    elif path.is_dir():
        source = _folder(path, split)
    elif path.suffix in (".npz", ".xz"):
        source = _archive(path, split)
    else:
        raise ValueError(
            f"{path} is neither a folder of images nor an .npz, nor an IDX file named as {idx.EXAMPLE}"
        )
    return replace(source, path=str(path))


def training_part(path: Path) -> tuple[str | None, str]:
    """The part of a folder of images for training where all its sub-folders are parts, and what lies beside them.

    Returns: its name, None where the folder has no parts; what is to be said of images beside them, empty without any.
    """
    if idx.is_idx(path) or TRAIN not in _parts_in(path).folders:
        return None, ""
    files = files_below(path)
    return (TRAIN, files.unclear) if parts_of(files.folders).whole else (None, "")


def _parts_in(path: Path) -> Parts:
    """The parts among the sub-folders of a folder, with images or without."""
    with os.scandir(path) as entries:
        return parts_of(sorted(entry.name for entry in entries if entry.is_dir() and not hidden(entry.name)))


def listed(path: Path, split: str | None) -> tuple[Files, str, tuple[str, ...]]:
    """The files of a folder of images, or of one of its parts; the name of that, and all the parts that it has.

    Raises: ValueError without images, for parts of which none is chosen, for a part that is not there, and where
        folders may be parts or classes.
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
        raise ValueError(no_images(files))
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
    return files, "all" if split is None else parts.name(split), tuple(sorted(parts.folders))


def no_images(files: Files) -> str:
    """What is to be said of a folder without images: what else it holds."""
    return "; ".join([f"{files.root} holds no images that Pillow reads", *files.notes])


def _folder(path: Path, split: str | None) -> Source:
    files, name, parts = listed(path, split)
    first = _decode(files.name(0))

    def read(index: Tensor, n: int) -> Iterator[Tensor]:
        for part in index.split(n):
            yield torch.stack([_alike(files.name(i), files.name(0), first.shape) for i in part.tolist()])

    channels, height, width = first.shape
    return Source(
        path.name,
        (channels, height, width),
        len(files),
        read,
        files.label,
        files.classes,
        name,
        splits=parts,
        eight_bit=True,
        notes=files.notes,
    )


def _alike(file: str, first: str, shape: torch.Size) -> Tensor:
    """The image of a file, which must look like that of the first file; grey ones fit among colored ones."""
    image = _decode(file)
    if image.shape[1:] != shape[1:]:
        side = 1 << (min(*image.shape[1:], *shape[1:]).bit_length() - 1)
        raise ValueError(
            f"images must have one size: {first} has {shape[2]} × {shape[1]}, {file} has "
            f"{image.shape[2]} × {image.shape[1]}; crop and resize all to one square, such as {side} × {side}"
        )
    if len(image) > shape[0]:
        raise ValueError(f"{first} is grey and {file} is colored: store all in color, or all in grey")
    return image.expand(shape[0], -1, -1)


def _decode(file: str) -> Tensor:
    """The values of an image file, x / 127.5 − 1.

    Shapes: -> (1 or 3, height, width). Raises: ValueError naming the file where it cannot be read.
    """
    return _scaled(pixels.decode(file, file)[None])[0]


def _idx(path: Path, split: str | None) -> Source:
    pair = idx.pair(path, split)
    count, height, width = idx.header(pair.images)
    label, classes, _ = _labels(pair.labels, "in it", idx.labels(pair.labels), count)

    def read(index: Tensor, n: int) -> Iterator[Tensor]:
        blocks = (torch.from_numpy(block.copy()) for block in idx.blocks(pair.images, n))
        for block in _regrouped(_picked(blocks, index), n):
            yield _scaled(block.numpy())

    return Source(
        place_name(path),
        (1, height, width),
        count,
        read,
        label,
        classes,
        pair.split,
        splits=pair.splits,
        eight_bit=True,
    )


def place_name(path: Path) -> str:
    """What images at a path are called: its name without endings; that of its folder for IDX files."""
    if not path.is_dir() and idx.is_idx(path):
        return place_name(path.resolve().parent)
    if path.name.lower() == "raw":  # where torchvision keeps the files of MNIST
        return place_name(path.resolve().parent)
    return path.name.removesuffix(".xz").removesuffix(".npz") or path.resolve().name


def _archive(path: Path, split: str | None) -> Source:
    archive = Archive(path)
    whole = path.suffix == ".xz"  # unpacked into memory, which takes long: kept until the images are read
    with nullcontext(archive) if whole else archive:
        if scans.splits(archive):
            return _scans(archive, split)
        key = _key(archive, split)
        shape, dtype = archive.header(key)
        image = _layout(path, key, shape, dtype)
        label, classes, notes = _labels_in(archive, LABELS[key], shape[0])

    def read(index: Tensor, n: int) -> Iterator[Tensor]:
        with nullcontext(archive) if whole else Archive(path) as opened:
            blocks = (torch.from_numpy(block.copy()) for block in opened.blocks(key, n))
            least = 0.0
            for block in _regrouped(_picked(blocks, index), n):
                least = min(least, float(block.min()))
                yield _scaled(block.numpy())
        if np.issubdtype(dtype, np.floating) and least >= 0:
            warnings.warn(UNIT.format(path), stacklevel=2)

    part = key.removesuffix("_x") if key in ("train_x", "test_x") else "all"
    splits, eight_bit = _halves(archive), dtype == np.uint8
    return Source(
        place_name(path),
        image,
        shape[0],
        read,
        label,
        classes,
        part,
        splits=splits,
        eight_bit=eight_bit,
        notes=notes,
    )


def _scans(archive: Archive, split: str | None) -> Source:
    splits = scans.splits(archive)
    part_taken = splits[0] if split is None else _there(archive.path, split, splits)
    held = scans.scans(archive, part_taken)
    label, classes, notes = _labels_in(archive, (f"{part_taken}_y",), len(held))
    first = _scaled(held.image(0)[None])[0]
    channels, height, width = first.shape

    def read(index: Tensor, n: int) -> Iterator[Tensor]:
        for part in index.split(n):
            images = [held.image(i) for i in part.tolist()]
            for i, image in zip(part.tolist(), images, strict=True):
                if image.shape != images[0].shape or image.shape[:2] != (height, width):
                    raise ValueError(f"image {i} of {archive.path} has shape {image.shape}, unlike the first")
            yield _scaled(np.stack(images))

    name = place_name(archive.path)
    one = (channels, height, width)
    return Source(
        name, one, len(held), read, label, classes, part_taken, splits=splits, eight_bit=True, notes=notes
    )


def _halves(archive: Archive) -> tuple[str, ...]:
    return tuple(part for part in ("train", "test") if f"{part}_x" in archive)


def _there(path: Path, split: str, splits: Sequence[str]) -> str:
    """The split, which must be one of those that are there."""
    if split not in splits:
        raise ValueError(
            f"{path} has no split {split!r}: "
            + (f"choose {' or '.join(splits)}" if splits else "leave --split out, it has no parts")
        )
    return split


def _key(archive: Archive, split: str | None) -> str:
    """Which array holds the images that are asked for."""
    if split is not None:
        return f"{_there(archive.path, split, _halves(archive))}_x"
    for key in LABELS:
        if key in archive:
            return key
    if "mu" in archive and "sigma" in archive:
        raise ValueError(f"{archive.path} holds statistics (mu, sigma), no images: give it as --reference")
    raise ValueError(
        f"{archive.path} holds {', '.join(archive.names) or 'no arrays'}; images are expected as images, arr_0, or "
        "train_x and test_x"
    )


def _layout(path: Path, key: str, shape: Sequence[int], dtype: Any) -> tuple[int, int, int]:
    """The shape (channels, height, width) of one image of an array."""
    where = f"array {key!r} of {path}"
    if len(shape) and shape[0] == 0:
        raise ValueError(f"{where} is empty")
    if dtype == np.uint8 and len(shape) in (3, 4):
        channels = shape[3] if len(shape) == 4 else 1
        image, wanted = (channels, shape[1], shape[2]), "uint8 (n, height, width, 1 or 3)"
    elif np.issubdtype(dtype, np.floating) and len(shape) == 4:
        channels = shape[1]
        image, wanted = (channels, shape[2], shape[3]), "floats (n, 1 or 3, height, width)"
    else:
        raise ValueError(
            f"{where} is {dtype} of shape {tuple(shape)}; images are uint8 (n, height, width[, channels]) or floats "
            "(n, channels, height, width) in [-1, 1]"
        )
    if channels not in (1, 3):
        raise ValueError(f"{where} has shape {tuple(shape)}, {channels} channels: expected {wanted}")
    return image


def _labels_in(archive: Archive, names: Sequence[str], rows: int) -> Labels:
    """The labels in the first of some arrays of an archive that is there; their names where it has `classes`, texts."""
    name = next((name for name in names if name in archive), None)
    if name is None:
        return None, (), ()
    named = archive.read("classes") if "classes" in archive else np.zeros(0)
    called = tuple(named.tolist()) if named.ndim == 1 and named.dtype.kind == "U" else ()
    return _labels(archive.path, name, archive.read(name), rows, called)


def _labels(path: Path, name: str, held: np.ndarray, rows: int, called: tuple[str, ...] = ()) -> Labels:
    """Labels from 0 up of what a file holds as labels, the names of the classes, and what is to be said of them.

    Args:
        called: what classes are called that are numbered from 0 up; empty where their values are their names.

    Raises: ValueError for what are no labels, for labels of which some are hidden, and for one without a name.
    """
    where = f"labels {name!r} of {path}"
    if held.shape != (rows,) or held.dtype.kind not in "iubU":
        raise ValueError(
            f"{where} are {held.dtype} of shape {held.shape}; expected whole numbers from 0 up, one for each of "
            f"{rows} images, or texts"
        )
    if held.dtype.kind == "i" and (held < 0).any():
        if (held == -1).all():
            return None, (), ("labels are all −1, which means none: taken as unlabeled",)
        below = int((held < 0).sum())
        raise ValueError(
            f"{where} lie below 0 in {below:,} of {rows:,} rows, where whole numbers from 0 up are expected: −1 means "
            "no label, and either all images have one or none; remove these images, or the labels"
        )
    if not called or held.dtype.kind == "U":
        return *numbered(held), ()
    if int(held.max()) >= len(called):
        raise ValueError(
            f"{where} reach {int(held.max())}, and its array 'classes' names {len(called)}: name each class"
        )
    label, there, empty = occurring(torch.from_numpy(held.astype(np.int64)), called)
    return label, there, tuple(left_out(empty))


def _picked(blocks: Iterator[Tensor], index: Tensor) -> Iterator[Tensor]:
    """The rows with the given sorted indices, block by block; blocks after the last of them are not read."""
    start = done = 0
    for block in blocks:
        stop = int(torch.searchsorted(index, start + len(block)))
        if stop > done:
            yield block[index[done:stop] - start]
        start, done = start + len(block), stop
        if done == len(index):
            return


def _regrouped(parts: Iterator[Tensor], n: int) -> Iterator[Tensor]:
    """The same rows, n at a time."""
    held: list[Tensor] = []
    for part in parts:
        held.append(part)
        while sum(map(len, held)) >= n:
            joined = torch.cat(held)
            yield joined[:n]
            held = [joined[n:]] if len(joined) > n else []
    if held:
        yield torch.cat(held)


def _scaled(values: np.ndarray) -> Tensor:
    """Images in [-1, 1]: uint8 as x / 127.5 − 1 with the channels moved to the front, floats as they are.

    Shapes: uint8 (n, height, width[, channels]) or float (n, channels, height, width) -> (n, channels, height, width).
    """
    if values.dtype != np.uint8:
        return torch.from_numpy(values.astype(np.float32))
    levels = values[:, None] if values.ndim == 3 else values.transpose(0, 3, 1, 2)  # channels first
    return scaled(torch.from_numpy(np.array(levels, order="C")))  # some are not writable
