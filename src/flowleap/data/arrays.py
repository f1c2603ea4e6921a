"""Images in .npz archives and IDX files, opened as data sets whose images are not read yet."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.data import idx, scans
from flowleap.data.classes import numbered, without_empty
from flowleap.data.dataset import Dataset
from flowleap.data.npz import Archive
from flowleap.data.parts import held_out_split
from flowleap.data.rows import Rows, as_floats, concatenated, sequential
from flowleap.data.store import Arrays

LABELS = {"images": ("label", "labels"), "arr_0": ("arr_1",), "train_x": ("train_y",), "test_x": ("test_y",)}
UNIT = "no value of {} is below 0: floats are taken to lie in [-1, 1]; if these lie in [0, 1], store 2 x − 1"

Labels = tuple[Tensor | None, tuple[str, ...], tuple[str, ...]]
"""Labels, the names of the classes, and messages about them."""


def open_arrays(path: Path, split: str | None = None) -> Dataset:
    """Open an .npz (.npz.xz) of arrays or IDX files without reading the images.

    An .npz holds `images` (uint8 (n, height, width[, channels]) or float (n, channels, height, width) in [-1, 1]), or
    `arr_0` as ADM's samples, or train_x and test_x, with labels in label, arr_1, train_y, test_y; or packed JPEG files,
    see `scans`. IDX files are those of MNIST: a folder of them, or one file of images with its labels beside it.

    Raises: ValueError for files without images, other shapes and types, an unknown split.
    """
    if idx.is_idx(path):
        return _idx(path, split)
    if path.suffix in (".npz", ".xz"):
        return _archive(path, split)
    raise ValueError(
        f"{path} is neither a folder of images nor an .npz, nor an IDX file named as {idx.EXAMPLE}"
    )


def levels_in(images: Dataset) -> Arrays:
    """Read opened uint8 images into memory, to be resized.

    Raises: ValueError for floats.
    """
    assert isinstance(images.x, Rows)
    if images.x.floats:
        raise ValueError(
            f"{images.name} holds floats: only images of 8 bits are resized; store them as uint8"
        )
    return Arrays(
        concatenated(tuple(images.x.shape), torch.uint8, images.x.stored(images.chosen(), 1000)),
        images.path,
        called=images.name,
        label=images.label,
        classes=images.classes,
        split=images.split,
        held_out=images.held_out,
        notes=images.notes,
    )


def in_memory(images: Dataset, memory: float) -> Dataset:
    """Read opened images into memory: as floats, or as uint8 where floats take more than `memory` GiB.

    Raises: ValueError as `Dataset.batches`.
    """
    assert isinstance(images.x, Rows)
    if images.x.floats:
        values = concatenated(tuple(images.x.shape), torch.float32, images.batches(1000))
        return replace(images, x=values.clamp_(-1, 1))
    return replace(images, x=as_floats(levels_in(images).levels, memory))


def place_name(path: Path) -> str:
    """The name of a data set at a path: that of the file without suffixes; that of its folder for IDX files."""
    if not path.is_dir() and idx.is_idx(path):
        return place_name(path.resolve().parent)
    if path.name.lower() == "raw":  # where torchvision keeps the files of MNIST
        return place_name(path.resolve().parent)
    return path.name.removesuffix(".xz").removesuffix(".npz") or path.resolve().name


def _dataset(path: Path, x: Rows, labels: Labels, split: str, splits: Sequence[str]) -> Dataset:
    label, classes, notes = labels
    name, held_out = place_name(path), held_out_split(split, splits)
    about: dict[str, Any] = {"source": name, "path": str(path), "split": split, "held_out": held_out}
    return Dataset(name, x, label, classes=classes, notes=notes, **about)


def _idx(path: Path, split: str | None) -> Dataset:
    pair = idx.pair(path, split)
    count, height, width = idx.header(pair.images)

    def read(index: Tensor, n: int) -> Iterator[Tensor]:
        images = idx.read(pair.images)
        return (_channels_first(images[part.numpy()]) for part in index.split(n))

    labels = _labels(pair.labels, "in it", idx.read(pair.labels, idx.LABELS), count)
    return _dataset(path, sequential(read, count, (1, height, width)), labels, pair.split, pair.splits)


def _archive(path: Path, split: str | None) -> Dataset:
    archive = Archive(path)
    whole = path.suffix == ".xz"  # unpacking takes long, so it is kept in memory until the images are read
    with nullcontext(archive) if whole else archive:
        if splits := scans.splits(archive):
            part = splits[0] if split is None else _known(path, split, splits)
            packed = scans.scans(archive, part)
            labels = _labels_in(archive, (f"{part}_y",), len(packed))
            return _dataset(path, Rows(packed, len(packed), packed.one), labels, part, splits)
        splits = tuple(part for part in ("train", "test") if f"{part}_x" in archive)
        key = _image_key(archive) if split is None else f"{_known(path, split, splits)}_x"
        shape, dtype = archive.header(key)
        one = _image_shape(path, key, shape, dtype)
        labels = _labels_in(archive, LABELS[key], shape[0])
    floats = bool(np.issubdtype(dtype, np.floating))

    def read(index: Tensor, n: int) -> Iterator[Tensor]:
        least = 0.0
        with nullcontext(archive) if whole else Archive(path) as opened:
            for block in _picked(opened.blocks(key, n), index, n):
                least = min(least, float(block.min())) if floats else 0.0
                yield _channels_first(block)
        if floats and least >= 0:
            warnings.warn(UNIT.format(path), stacklevel=2)

    part = key.removesuffix("_x") if key in ("train_x", "test_x") else "all"
    return _dataset(path, sequential(read, shape[0], one, floats=floats), labels, part, splits)


def _known(path: Path, split: str, splits: Sequence[str]) -> str:
    if split not in splits:
        raise ValueError(
            f"{path} has no split {split!r}: "
            + (f"choose {' or '.join(splits)}" if splits else "leave --split out, it has no parts")
        )
    return split


def _image_key(archive: Archive) -> str:
    """The first array of images in an archive."""
    for key in LABELS:
        if key in archive:
            return key
    if "mu" in archive and "sigma" in archive:
        raise ValueError(f"{archive.path} holds statistics (mu, sigma), no images: give it as --reference")
    raise ValueError(
        f"{archive.path} holds {', '.join(archive.names) or 'no arrays'}; images are expected as images, arr_0, or "
        "train_x and test_x"
    )


def _image_shape(path: Path, key: str, shape: Sequence[int], dtype: Any) -> tuple[int, int, int]:
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
    """The labels in the first of some arrays that is there; an array `classes` of strings names the classes."""
    name = next((name for name in names if name in archive), None)
    if name is None:
        return None, (), ()
    named = archive.read("classes") if "classes" in archive else np.zeros(0)
    called = tuple(named.tolist()) if named.ndim == 1 and named.dtype.kind == "U" else ()
    return _labels(archive.path, name, archive.read(name), rows, called)


def _labels(path: Path, name: str, held: np.ndarray, rows: int, called: tuple[str, ...] = ()) -> Labels:
    """Convert an array of labels to consecutive labels from 0 up.

    Args:
        called: names of the classes 0, 1, …; empty where the values are the names.

    Raises: ValueError for values that are no labels, labels of which some are −1, and a label without a name.
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
    return without_empty(torch.from_numpy(held.astype(np.int64)), called)


def _picked(blocks: Iterator[np.ndarray], index: Tensor, n: int) -> Iterator[np.ndarray]:
    """The rows with the given sorted numbers, n at a time; blocks after the last of them are not read."""
    start = done = 0
    held: list[np.ndarray] = []
    for block in blocks:
        stop = int(torch.searchsorted(index, start + len(block)))
        held.append(block[index[done:stop].numpy() - start])
        start, done = start + len(block), stop
        last = done == len(index)
        while (many := sum(map(len, held))) >= n or (last and many):
            joined = np.concatenate(held)
            yield joined[:n]
            held = [joined[n:]]
        if last:
            return


def _channels_first(values: np.ndarray) -> Tensor:
    """Images as a tensor with the channels first.

    Shapes: uint8 (n, height, width[, channels]) or float (n, channels, height, width) -> (n, channels, height, width).
    """
    if values.dtype != np.uint8:
        return torch.from_numpy(values.astype(np.float32))
    levels = values[:, None] if values.ndim == 3 else values.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(levels))
