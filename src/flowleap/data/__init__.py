"""Data sets by name, from files or from Hugging Face `datasets`; `batching` chooses the rows of each batch."""

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
from flowleap.data.latent_cache import is_cache
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
_HELD_OUT: WeakKeyDictionary[Dataset, Dataset | None] = WeakKeyDictionary()
"""The held-out splits of data sets in use, each loaded once."""


def load(
    text: str | Path,
    seed: int = 0,
    split: str | None = None,
    checksum: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """Load a data set by its name, or read one from a path or from hf:NAME.

    In names hyphens and underscores are the same; a name wins over a file of the same name (./digits is the file).
    Paths are those of `open_images`, but a folder may hold images of several sizes. Data that do not fit into memory
    stay on the disk, see `Dataset`.

    Args:
            seed: of the point sets that are drawn.
        split: default: the training split, where there are splits.
        checksum: the `Dataset.checksum` that the data must have, so that a run never resumes on other images.
        preprocessing: how images are cropped and resized, and how much memory they may take; not for named data sets.

    Raises: ValueError for an unknown name or path, with similar names; for an unknown split; for files that cannot be
        read or have changed.
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
                f"data set {str(text)!r} has a fixed size: --size and --square are for images at a path"
            )
    elif is_cache(Path(text)):
        dataset = latents.load(Path(text), split, address=known)
    else:
        dataset = opening.from_path(text, split, preprocessing)
    return unchanged(dataset, checksum)


def address(text: str | Path) -> str:
    """Return the `Dataset.address` of a name or path without reading the data.

    Raises: ValueError for an unknown name or path, with similar names.
    """
    if is_name(text):
        return _key(text)
    if present(text):
        return str(text)
    path = Path(text)
    if not path.suffix and len(path.parts) == 1:
        here = "or the path of images (there is no file or folder of this name here)"
        raise ValueError(f"unknown data set {str(text)!r}{suggest(_key(text), names)}, {here}")
    try:
        beside = {entry.name: str(entry) for entry in path.parent.iterdir()}
    except OSError:
        beside = {}
    similar = [beside[name] for name in difflib.get_close_matches(path.name, beside, n=3)]
    raise ValueError(
        f"data {str(text)!r}: no such file or folder (in {Path.cwd().name or '/'}/), and no data set of this name"
        f"{suggest(str(path), [*similar, *names])}"
    )


def unchanged(dataset: Dataset, checksum: str | None) -> Dataset:
    """Return a data set if its checksum is this one, or None is given; raise ValueError otherwise.

    Versions before 0.2 numbered classes differently; where that explains the difference, the data set is returned with
    the old numbers, so that old runs resume.
    """
    if checksum is None or checksum == dataset.checksum:
        return dataset
    if dataset.label is not None:
        for label, named in classes.former_labels(dataset.label, dataset.class_names):
            before = replace(dataset, label=label, num_classes=len(named), classes=named)
            if before.checksum == checksum:
                return before
    raise ValueError(
        f"the images or labels at {dataset.address} have changed: their checksum is {dataset.checksum}, and "
        f"{checksum} was expected. Restore the files, give the path where they are now, or start a new run"
    )


def held_out(dataset: Dataset) -> Dataset | None:
    """Return the held-out split of a training set, with its classes numbered as in training; None without one.

    It is loaded once for each data set.

    Raises: ValueError for images of another shape, or classes that the training set does not have.
    """
    if dataset not in _HELD_OUT:
        _HELD_OUT[dataset] = None if dataset.held_out is None else _split_of(dataset, dataset.held_out)
    return _HELD_OUT[dataset]


def _split_of(dataset: Dataset, split: str) -> Dataset:
    part = load(dataset.path, split=split, preprocessing=dataset.preprocessing)
    where = f"split {part.split!r} of {dataset.path}"
    if part.shape != dataset.shape:
        raise ValueError(
            f"{where} has images of shape {part.shape}, and those of {dataset.split!r} have {dataset.shape}"
        )
    if dataset.num_classes is None or part.label is None:
        return replace(part, label=None, num_classes=None)
    label = classes.renumbered(part.label, part.class_names, dataset.class_names, where, repr(dataset.split))
    return replace(part, label=label, num_classes=dataset.num_classes, classes=dataset.classes)


@contextmanager
def reading_ahead(dataset: Dataset, reads: Reads, last: int, workers: int | None = None) -> Iterator[Dataset]:
    """Yield the data set with worker processes that read its batches up to step `last` ahead, if it is on the disk.

    Args:
        reads: the rows of each step, see `training.loop.Reads`.
        workers: number of processes, 0 for none; default: `default_workers`.
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
    """Whether this is the name of a built-in data set."""
    return _key(text) in names


def present(text: str | Path) -> bool:
    """Whether a data set has this name or there is something at this path; hf: addresses are not looked up."""
    return is_name(text) or opening.present(text)


def place(text: str | Path) -> str:
    """Make a path, or the address of a folder, absolute; names and hub addresses are returned unchanged."""
    if is_name(text):
        return str(text)
    if not is_address(text):
        return str(Path(text).resolve())
    name = Address.of(str(text)).name
    return str(text).replace(name, str(Path(name).resolve()), 1) if Path(name).exists() else str(text)


def short(text: str | Path) -> str:
    """Return the name of the data in folder names of runs: lower case letters, digits, dots and hyphens."""
    if is_address(text):
        name = Address.of(str(text)).short
    else:
        name = _key(text) if is_name(text) else arrays.place_name(Path(text))
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split()) or "data"


def _key(text: str | Path) -> str:
    return str(text).lower().replace("_", "-")
