"""Data sets of Hugging Face `datasets`: from the hub, from its Arrow cache, or from a folder.

hf:NAME, hf:NAME:CONFIG, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT; NAME may be a folder that `save_to_disk` wrote, or one
of Parquet or Arrow files. Tables stay on the disk, mapped into memory; images are decoded when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.data.classes import numbered
from flowleap.data.parts import HELD_OUT
from flowleap.data.pixels import Encoded, Faulty

__all__ = [
    "PREFIX",
    "Address",
    "Table",
    "chosen_split",
    "image_column",
    "is_address",
    "label_column",
    "library",
    "loaded",
    "named_labels",
    "open_table",
    "saved",
    "shown_labels",
]

PREFIX = "hf:"
SPLITS = ("train", *HELD_OUT)
LABELS = ("label", "labels")
FILES = ("parquet", "arrow")


def is_address(text: str | Path) -> bool:
    """Whether this names a data set of Hugging Face."""
    return str(text).startswith(PREFIX)


@dataclass(frozen=True)
class Address:
    """What hf:… names.

    >>> Address.of("hf:mnist:test"), Address.of("hf:you/faces:small:train").split
    (Address(name='mnist', config=None, split='test'), 'train')
    """

    name: str
    config: str | None = None
    split: str | None = None

    @classmethod
    def of(cls, text: str) -> Address:
        """Read an address; one part after the name is a split where it is called as one is.

        Raises: ValueError for no name, or more than three parts.
        """
        rest = text.removeprefix(PREFIX)
        if rest and Path(rest).exists():
            return cls(rest)
        name, *parts = rest.split(":")
        if not name or len(parts) > 2:
            raise ValueError(
                f"{text!r}: expected hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, or hf:FOLDER"
            )
        if len(parts) == 1:
            parts = [parts[0], ""] if parts[0] not in SPLITS else ["", parts[0]]
        config, split = (*parts, "", "")[:2]
        return cls(name, config or None, split or None)

    @property
    def short(self) -> str:
        """What the data set is called."""
        return Path(self.name).name


@dataclass(frozen=True, eq=False)
class Table:
    """The images of one split, which stay in their table.

    Args:
        rows: the table, images not decoded.
        column: that of the images.
        called: what it is called in messages.
        notes: which columns were taken, where that could have been others.
    """

    rows: Any
    column: str
    called: str
    split: str
    splits: tuple[str, ...]
    label: Tensor | None
    classes: tuple[str, ...]
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
        """Some of these images, by their numbers."""
        label = None if self.label is None else self.label[torch.from_numpy(rows)]
        return replace(self, rows=self.rows.select(rows), label=label)

    @property
    def stamp(self) -> str:
        """The SHA-256 of the number of rows and of the columns; pixels and labels are looked at elsewhere."""
        return hashlib.sha256(f"{len(self)} {self.rows.features}".encode()).hexdigest()


def library(text: str) -> Any:
    """Return the library datasets.

    Raises: ValueError where it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{text} needs the library datasets: pip install 'flowleap[hub]'") from None
    return datasets


def open_table(text: str, split: str | None = None) -> Table:
    """Open a split: the one asked for, that of the address, or train where there is one.

    Raises: ValueError without the library, for a data set that is neither here nor to be had, and for a table without
        images.
    """
    datasets = library(text)
    address = Address.of(text)
    found = loaded(address, text)
    if isinstance(found, datasets.Dataset):
        found = datasets.DatasetDict({str(found.split or "train"): found})
    splits = tuple(str(name) for name in found)
    chosen = chosen_split(text, split or address.split, splits)
    return _table(found[chosen], address, text, chosen, splits)


def chosen_split(text: str, asked: str | None, splits: tuple[str, ...]) -> str:
    """Return the split that is meant: the one asked for, or train where there is one.

    Raises: ValueError where it is not there.
    """
    chosen = asked or ("train" if "train" in splits else splits[0])
    if chosen not in splits:
        raise ValueError(f"{text} has no split {chosen!r}: choose {' or '.join(splits)}")
    return chosen


def saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def loaded(address: Address, text: str, **options: Any) -> Any:
    """All splits that there are, or what `datasets.load_dataset` gives with more options.

    Raises: ValueError where they cannot be had, saying how they can.
    """
    import datasets

    folder = Path(address.name)
    try:
        if saved(folder):
            return datasets.load_from_disk(str(folder))
        if folder.exists() and not any(any(folder.rglob(f"*.{kind}")) for kind in FILES):
            raise ValueError(
                f"{text}: {folder} holds neither what save_to_disk writes nor Parquet or Arrow files; a folder of "
                "image files is given without hf:"
            )
        return datasets.load_dataset(address.name, address.config, **options)
    except (ConnectionError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{text} is neither in the cache of Hugging Face datasets ({datasets.config.HF_DATASETS_CACHE}) nor to be "
            f"had from the hub ({reason}). Where there is a network: "
            f"datasets.load_dataset({address.name!r}).save_to_disk({address.short!r}); then give hf:{address.short}"
        ) from None
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(
            f"{text} cannot be read ({error.__cause__ or error}): copy or get it again"
        ) from None


def _table(rows: Any, address: Address, text: str, split: str, splits: tuple[str, ...]) -> Table:
    import datasets

    column, notes = image_column(rows.features, text)
    if not len(rows):
        raise ValueError(f"{text}, split {split}, is empty")
    named, classes, said = label_column(rows.features)
    label = None
    if named is not None:
        held = rows.with_format("numpy").select_columns([named])[:][named]
        label, hidden = shown_labels(np.asarray(held), named, text)
        said = [*hidden, *(said if label is not None else [])]
    label, classes = named_labels(label, classes)
    rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return Table(rows, column, address.short, split, splits, label, classes, (*notes, *said))


def image_column(features: Mapping[str, Any], text: str) -> tuple[str, list[str]]:
    """Return the column of images, and what is to be said where it could have been another.

    Raises: ValueError where there is none.
    """
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if not images:
        raise ValueError(
            f"{text} has no column of images; its columns are "
            + ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
        )
    if len(images) == 1:
        return images[0], []
    return images[0], [f"of the columns of images {', '.join(images)}, {images[0]} is taken"]


def label_column(features: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...], list[str]]:
    """Return the column of classes by its type, or else whole numbers of the usual name; the names of the classes; and
    what is to be said where it could have been another.
    """
    import datasets

    named = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    plain = [
        name
        for name, kind in features.items()
        if name in LABELS and isinstance(kind, datasets.Value) and "int" in kind.dtype
    ]
    columns = sorted(named, key=lambda name: name not in LABELS) or plain
    if not columns:
        return None, (), []
    notes = [f"of the columns of classes {', '.join(named)}, {columns[0]} is taken"] if len(named) > 1 else []
    return columns[0], tuple(features[columns[0]].names) if named else (), notes


def named_labels(label: Tensor | None, classes: tuple[str, ...]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return labels with the names of all classes; numbers without names are numbered from 0 up, and are the names.

    Shapes: (n,), int64, kept.
    """
    if label is None:
        return None, ()
    return (label, classes) if classes else numbered(label.numpy())


def shown_labels(held: np.ndarray, column: str, text: str) -> tuple[Tensor | None, list[str]]:
    """Return labels, or None and what is to be said where they are hidden, as those of a test split may be.

    Shapes: (n,), whole numbers -> int64 (n,).
    """
    label = torch.from_numpy(held.astype(np.int64))
    if bool((label < 0).any()):
        return None, [f"column {column} of {text} has labels below 0: taken as unlabeled"]
    return label, []
