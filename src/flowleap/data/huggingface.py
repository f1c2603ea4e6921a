"""Data sets of Hugging Face `datasets`: from the hub, from its cache, or from a folder.

hf:NAME, hf:NAME:CONFIG, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT; NAME may be a folder that `save_to_disk` wrote, or one
of Parquet or Arrow files. Tables are memory-mapped; images are decoded when they are indexed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.data.classes import numbered
from flowleap.data.parts import HELD_OUT, held_out_split
from flowleap.data.store import Table

PREFIX = "hf:"
SPLITS = ("train", *HELD_OUT)
LABELS = ("label", "labels", "target", "targets", "class", "classes", "category", "cls", "y")
"""Names of columns of classes that are not of type ClassLabel; the first that is there is used."""
WHOLE = ("int", "uint", "bool", "string", "large_string")
"""Prefixes of the types of columns that may be classes."""
FEW_TEXTS = 50
"""Up to this many distinct strings may be classes; more only if they are less than half of the rows."""
FILES = ("parquet", "arrow")


def is_address(text: str | Path) -> bool:
    """Whether this is an hf: address."""
    return str(text).startswith(PREFIX)


@dataclass(frozen=True)
class Address:
    """The parts of an address hf:….

    >>> Address.of("hf:mnist:test"), Address.of("hf:you/faces:small:train").split
    (Address(name='mnist', config=None, split='test'), 'train')
    """

    name: str
    config: str | None = None
    split: str | None = None

    @classmethod
    def of(cls, text: str) -> Address:
        """Parse an address; a single part after the name is a split if it has the name of one, else a config.

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
        """The name of the data set, without its owner or folder."""
        return Path(self.name).name


def library(text: str) -> Any:
    """Import `datasets`.

    Raises: ValueError if it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{text} needs the library datasets: pip install 'flowleap[hub]'") from None
    return datasets


def open_table(text: str, split: str | None = None) -> Table:
    """Open a split: the one asked for, that of the address, or train if there is one.

    Raises: ValueError without the library, for a data set that cannot be found, and for a table without images.
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
    """Return the split that is asked for, by default train if there is one.

    Raises: ValueError for an unknown split.
    """
    chosen = asked or ("train" if "train" in splits else splits[0])
    if chosen not in splits:
        raise ValueError(f"{text} has no split {chosen!r}: choose {' or '.join(splits)}")
    return chosen


def saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def loaded(address: Address, text: str, **options: Any) -> Any:
    """Load all splits, with the options of `datasets.load_dataset`.

    Raises: ValueError if they cannot be loaded, with what to do.
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
            f"{text} is not in the cache of Hugging Face datasets ({datasets.config.HF_DATASETS_CACHE}), and the hub "
            f"did not provide it ({reason}). On a machine with internet access: "
            f"datasets.load_dataset({address.name!r}).save_to_disk({address.short!r}); then give hf:{address.short}"
        ) from None
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(
            f"{text} cannot be read ({error.__cause__ or error}): copy or download it again"
        ) from None


def _table(rows: Any, address: Address, text: str, split: str, splits: tuple[str, ...]) -> Table:
    import datasets

    column, notes = image_column(rows.features, text)
    if not len(rows):
        raise ValueError(f"{text}, split {split}, is empty")
    named, classes, said = label_column(rows.features)
    label = None
    if named is not None:
        held = rows.with_format(None).select_columns([named])[:][named]
        label, classes, hidden = labels_of(held, named, classes, text)
        said = hidden or said
    rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    apart = held_out_split(split, splits)
    return Table(
        rows,
        column,
        (*notes, *said),
        called=address.short,
        label=label,
        classes=classes,
        split=split,
        held_out=apart,
    )


def image_column(features: Mapping[str, Any], text: str) -> tuple[str, list[str]]:
    """Return the column of images, and a message if there are others.

    Raises: ValueError if there is none.
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
    """Return the column of classes, the names of its classes if it has them, and messages.

    It is the one of type ClassLabel, or else one of integers, booleans or strings with a usual name, `LABELS`.
    """
    import datasets

    kinds = {
        name: kind.dtype if isinstance(kind, datasets.Value) else type(kind).__name__
        for name, kind in features.items()
        if not isinstance(kind, datasets.Image)
    }
    usual = sorted(
        (name for name in kinds if name.lower() in LABELS), key=lambda name: LABELS.index(name.lower())
    )
    named = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    fitting = [
        *sorted(named, key=lambda name: name.lower() not in LABELS),
        *(name for name in usual if kinds[name].startswith(WHOLE)),
    ]
    odd = [
        f"column {name} holds {kinds[name]}, and classes are whole numbers, truth values or texts: passed over"
        for name in usual
        if name not in fitting
    ]
    if not fitting:
        others = ", ".join(f"{name} ({kind})" for name, kind in kinds.items() if name not in usual)
        missing = f"no labels: no column is a ClassLabel or called {', '.join(LABELS[:-1])} or {LABELS[-1]}"
        return None, (), [*odd, f"{missing}; passed over: {others}"] if others else odd
    taken = fitting[0]
    if len(fitting) > 1:
        odd.append(f"of the columns of classes {', '.join(fitting)}, {taken} is taken")
    if taken not in named and not taken.startswith("label"):
        odd.append(f"labels are those of column {taken} ({kinds[taken]})")
    return taken, tuple(features[taken].names) if taken in named else (), odd


def labels_of(
    held: Sequence[Any], column: str, classes: tuple[str, ...], text: str
) -> tuple[Tensor | None, tuple[str, ...], list[str]]:
    """Return the labels of a column, the names of all classes, and messages.

    None if some labels are missing or negative, as those of a test split may be, or if nearly every row has a string of
    its own.

    Args:
        held: integers, booleans or strings, None for a missing one.
        classes: the names of numbered classes; empty if the values are the names.

    Shapes: -> int64 (n,).
    """
    where = f"column {column} of {text}"
    missing = sum(value is None for value in held)
    if missing:
        return None, (), [f"{where} has no value in {missing:,} of {len(held):,} rows: taken as unlabeled"]
    values = np.asarray(held)
    if values.dtype.kind in "iu" and bool((values < 0).any()):
        return None, (), [f"{where} has labels below 0: taken as unlabeled"]
    if classes:
        return torch.from_numpy(values.astype(np.int64)), classes, []
    label, names = numbered(values)
    if values.dtype.kind == "U" and len(names) > max(FEW_TEXTS, len(held) // 2):
        told = f"{where} holds {len(names):,} different texts in {len(held):,} rows"
        return None, (), [f"{told}, too many for classes: taken as unlabeled"]
    return label, names, []
