"""Data sets, by name or from files, and which of their rows make a batch."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

from flowleap.data import arrays, batching, classes, latents, opening, toy
from flowleap.data.ahead import Ahead, Reads
from flowleap.data.dataset import Dataset, check
from flowleap.data.huggingface import Address, is_address
from flowleap.data.opening import open_images
from flowleap.data.preprocessing import Preprocessing
from flowleap.data.rows import Rows, Samples
from flowleap.data.workers import default_workers
from flowleap.suggest import suggest

__all__ = [
    "Dataset",
    "Preprocessing",
    "Rows",
    "Samples",
    "address",
    "batching",
    "check",
    "held_out",
    "is_name",
    "load",
    "names",
    "open_images",
    "place",
    "present",
    "reading_ahead",
    "short",
    "unchanged",
]

names: tuple[str, ...] = ("digits", *toy.POINTS)
_APART: WeakKeyDictionary[Dataset, Dataset | None] = WeakKeyDictionary()
"""What was held out of data sets that are in use."""


def load(
    text: str | Path,
    seed: int = 0,
    split: str | None = None,
    checksum: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """Load a data set by its name, or read one from a path or from hf:NAME.

    In names hyphens and underscores are the same; a name wins over a file of the same name (./digits is the file).
    Paths are what `open_images` takes, but images in a folder may have several sizes; what does not fit into memory
    stays on the disk, see `Dataset`.

    Args:
        seed: draws the point sets.
        split: the part to take; by default that for training, where there are parts.
        checksum: `Dataset.checksum` that files must have, so that a run never goes on with other images.
        preprocessing: of images at a path, and how much memory they may take; not for data sets that go by a name.

    Raises: ValueError for what is neither a name nor a path, with the neighbors of the name; for a split that is not
        there; for files that cannot be read or have changed.
    """
    known = address(text)
    if known in names:
        dataset = check(toy.digits() if known == "digits" else toy.points(known, seed))
        if split not in (None, dataset.split):
            raise ValueError(
                f"data set {str(text)!r} has no split {split!r}, its only one is {dataset.split!r}"
            )
        if preprocessing is not None and (preprocessing.size is not None or preprocessing.square is not None):
            raise ValueError(
                f"data set {str(text)!r} is taken as it is: --size and --square are for images at a path"
            )
    elif latents.is_cache(Path(text)):
        dataset = latents.load(Path(text), split, address=known)
    else:
        dataset = opening.from_path(text, split, preprocessing)
    return unchanged(dataset, checksum)


def address(text: str | Path) -> str:
    """Return what `Dataset.address` is of the data by this name or at this path; nothing is read.

    Raises: ValueError for what is neither a name nor a path, with the neighbors of the name.
    """
    if is_name(text):
        return _key(text)
    if present(text):
        return str(text)
    path = Path(text)
    if not path.suffix and len(path.parts) == 1:
        raise ValueError(f"unknown data set {str(text)!r}{suggest(_key(text), names)}, or the path of images")
    raise ValueError(
        f"data {str(text)!r}: there is no such file or folder (seen from {Path.cwd().name or '/'}/), and it is no name"
        f"{suggest(str(path), [*_beside(path), *names])}"
    )


def _beside(path: Path) -> list[str]:
    """Return what is in the folder that a path is in, as far as its name is near: what may have been meant."""
    try:
        there = {entry.name: str(entry) for entry in path.parent.iterdir()}
    except OSError:
        return []
    return [there[name] for name in difflib.get_close_matches(path.name, there, n=3)]


def unchanged(dataset: Dataset, checksum: str | None) -> Dataset:
    """Return a data set that has the checksum a run began with, its classes numbered as they were; None accepts any.

    Earlier versions numbered classes otherwise: runs that began so go on so.

    Raises: ValueError.
    """
    if checksum in (None, dataset.checksum):
        return dataset
    if dataset.label is not None:
        for label, named in classes.former(dataset.label, dataset.class_names):
            before = replace(dataset, label=label, num_classes=len(named), classes=named)
            if before.checksum == checksum:
                return before
    raise ValueError(
        f"the images or labels at {dataset.address} have changed: their checksum is {dataset.checksum}, and "
        f"{checksum} was expected. Put back what was there, name the place where it is now, or start a new run"
    )


def held_out(dataset: Dataset) -> Dataset | None:
    """The split that was kept apart from these training rows, which samples are measured against; None without one.

    It is read once for each data set.

    Raises: ValueError where its images or classes are not those of the training rows.
    """
    if dataset not in _APART:
        _APART[dataset] = None if dataset.held_out is None else _fitted(dataset, dataset.held_out)
    return _APART[dataset]


def _fitted(dataset: Dataset, split: str) -> Dataset:
    """The images of another split, in the classes of the training rows."""
    part = load(dataset.path, split=split, preprocessing=dataset.preprocessing)
    where = f"split {part.split!r} of {dataset.path}"
    if part.shape != dataset.shape:
        raise ValueError(
            f"{where} has images of shape {part.shape}, and those of {dataset.split!r} have {dataset.shape}"
        )
    if dataset.num_classes is None or part.label is None:
        return replace(part, label=None, num_classes=None)
    label = classes.aligned(part.label, part.class_names, dataset.class_names, where, repr(dataset.split))
    return replace(part, label=label, num_classes=dataset.num_classes, classes=dataset.classes)


@contextmanager
def reading_ahead(dataset: Dataset, reads: Reads, last: int, workers: int | None = None) -> Iterator[Dataset]:
    """Yield the data set with its batches up to step `last` read ahead, where its images are on the disk.

    Args:
        reads: which rows are asked for in each step, see `training.loop.Reads`.
        workers: processes that read, 0 for none; `default_workers` unless given.
    """
    count = default_workers() if workers is None else workers
    x = dataset.x
    if not isinstance(x, Rows) or not x.on_disk or dataset.kind != "image" or count == 0:
        yield dataset
        return
    ahead = Ahead(x, reads, last, count)
    try:
        yield replace(dataset, ahead=ahead)
    finally:
        ahead.close()


def is_name(text: str | Path) -> bool:
    """Whether this is the name of a data set that ships with the package or is drawn, rather than a path or address."""
    return _key(text) in names


def present(text: str | Path) -> bool:
    """Whether there is something by this name or at this path; an address of a table is not looked up."""
    return is_name(text) or opening.present(text)


def place(text: str | Path) -> str:
    """Return a path, or the address of a folder, so that it is found from anywhere; names and hub addresses stay."""
    if is_name(text):
        return str(text)
    if not is_address(text):
        return str(Path(text).resolve())
    name = Address.of(str(text)).name
    return str(text).replace(name, str(Path(name).resolve()), 1) if Path(name).exists() else str(text)


def short(text: str | Path) -> str:
    """What runs on this data are called after: its name, or that of the file or folder, with hyphens."""
    if is_address(text):
        name = Address.of(str(text)).short
    else:
        name = _key(text) if is_name(text) else arrays.place_name(Path(text))
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split()) or "data"


def _key(text: str | Path) -> str:
    return str(text).lower().replace("_", "-")
