"""A data set from a path or an address, as a look says: whatever is there, made into images of one size."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flowleap.data import idx
from flowleap.data.check import check
from flowleap.data.classes import described, left_out, occurring
from flowleap.data.classes import listed as listed_names
from flowleap.data.dataset import Dataset, kept_apart
from flowleap.data.huggingface import is_address, open_table
from flowleap.data.known import recognized
from flowleap.data.parts import parts_of
from flowleap.data.prepare import FEW_IMAGES, Look, Prepared, prepare
from flowleap.data.source import listed, no_images, open_images, training_part
from flowleap.data.store import Arrays, Files, Store, files_below

__all__ = ["from_path", "present", "store_of"]

REMEMBERED = 2
_RECENT: dict[Hashable, Dataset] = {}
"""What was read last: a command asks for its data more than once."""


def present(text: str | Path) -> bool:
    """Whether there is something at a path, or this is the address of a table."""
    return is_address(text) or Path(text).exists()


def from_path(text: str | Path, split: str | None = None, look: Look | None = None) -> Dataset:
    """Read or open the images at a path or an address.

    Args:
        split: the part to take; that for training by default, where there are parts.
        look: how images are taken; as `Look` does by default.

    Raises: ValueError for what cannot be read, or is refused by the look.
    """
    look = look or Look()
    if is_address(text):
        return _table(str(text), split, look)
    path = Path(text)
    if path.is_dir() and not idx.is_idx(path):
        part, beside = (split, "") if split else training_part(path)
        return _folder(path, str(text), part, look, beside)
    source = open_images(path, split)
    alike = source.shape[1:] == (look.size, look.size) or (look.size is None and look.square is None)
    if alike:
        return introduced(replace(source.dataset(memory=look.memory), look=look, path=str(text)))
    store = Arrays(source.levels(), str(path), source.notes)
    whole = prepare(store, look, source.label, source.classes, str(path))
    return _made(whole, _about(source.name, source.split, source.splits, str(text)))


def store_of(text: str | Path, split: str | None = None) -> tuple[Store, Tensor | None, tuple[str, ...]]:
    """The images at a path or an address as they are encoded, their labels and the names of their classes.

    Of a folder with parts of which none is named, all images, with their parts as classes.

    Raises: ValueError for what holds no images, and for a split that is not there.
    """
    if is_address(text):
        table = open_table(str(text), split)
        return table, table.label, table.classes
    path = Path(text)
    if path.is_dir() and not idx.is_idx(path):
        if split is not None:
            files = listed(path, split)[0]
        else:
            files = files_below(path)
            files = replace(files, doubt="; ".join(filter(None, [files.doubt, _about_parts(files)])))
        if not len(files):
            raise ValueError(no_images(files))
        return files, files.label, files.classes
    source = open_images(path, split)
    return Arrays(source.levels(), str(path), source.notes), source.label, source.classes


def _about_parts(files: Files) -> str:
    """Say that some sub-folders are parts of the data, or may be, where they are taken as classes."""
    found = parts_of(files.folders)
    if found.whole:
        return (
            f"{listed_names([*found.folders.values()])} are parts of the data, counted as classes here; --split looks "
            "at one of them"
        )
    doubt = found.doubt(files.names)
    return f"{doubt}: a run would ask which is meant" if doubt else ""


def _folder(path: Path, text: str, split: str | None, look: Look, beside: str = "") -> Dataset:
    """The images of a folder or a part of it; `beside` is what is to be said of what lies beside the parts."""
    files, part, parts = listed(path, split)
    files = replace(files, doubt="; ".join(filter(None, [beside, files.doubt])))
    if look.strict and files.unclear:
        raise ValueError(f"{files.unclear}; leave out --strict to go on")
    key = ("folder", str(path.resolve()), split, look, files.stamp, files.changed, files.notes)
    if key not in _RECENT:
        whole = prepare(files, look, files.label, files.classes, text)
        name = path.name or path.resolve().name
        _remember(key, _made(whole, _about(name, part, parts, text)))
    return replace(_RECENT[key], path=text)


def _table(text: str, split: str | None, look: Look) -> Dataset:
    table = open_table(text, split)
    key = ("table", text, table.split, look, table.rows._fingerprint)
    if key not in _RECENT:
        whole = prepare(table, look, table.label, table.classes, text)
        _remember(key, _made(whole, _about(table.called, table.split, table.splits, text)))
    return _RECENT[key]


def _remember(key: Hashable, dataset: Dataset) -> None:
    while len(_RECENT) >= REMEMBERED:
        _RECENT.pop(next(iter(_RECENT)))
    _RECENT[key] = dataset


def _about(name: str, split: str, splits: Collection[str], text: str) -> Dataset:
    """What is known of a data set before its images are read."""
    return Dataset(name, torch.empty(0), split=split, path=text, held_out=kept_apart(split, splits))


def _made(whole: Prepared, about: Dataset) -> Dataset:
    """The data set of images that were prepared, with what is to be said of it."""
    x, left = whole.held()
    label, classes = left.label, left.classes
    empty: tuple[str, ...] = ()
    if label is not None:
        label, classes, empty = occurring(label, classes)  # decoding may have cost the last image of a class
    made = replace(
        about,
        x=x,
        label=label,
        num_classes=None if label is None else len(classes),
        classes=classes,
        source=about.name,
        look=left.look,
        notes=(*left.notes, *left_out(empty)),
    )
    return introduced(recognized(check(made)))


def introduced(dataset: Dataset) -> Dataset:
    """Return data that was read, with notes on its classes and on how few its images are."""
    notes = [*dataset.notes]
    if dataset.label is not None:
        notes.append(described(dataset.label, dataset.class_names))
    if len(dataset) < FEW_IMAGES:
        notes.append(f"only {len(dataset):,} images: a generator may memorize them")
    return replace(dataset, notes=tuple(notes))
