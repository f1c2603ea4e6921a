"""Data sets, by name or from files, and which of their rows make a batch."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from flowleap.data import batching, classes, latents, opening, source, toy
from flowleap.data.ahead import Ahead, Reads
from flowleap.data.check import check
from flowleap.data.dataset import Dataset
from flowleap.data.digits import load_digits
from flowleap.data.huggingface import Address, is_address
from flowleap.data.prepare import Look
from flowleap.data.rows import Rows, Samples
from flowleap.data.workers import default_workers
from flowleap.neighbors import neighbors

__all__ = [
    "Dataset",
    "Look",
    "Rows",
    "Samples",
    "batching",
    "check",
    "held_out",
    "is_name",
    "load",
    "names",
    "place",
    "present",
    "reading_ahead",
    "short",
    "unchanged",
]

_POINTS: dict[str, Callable[[int, int], Tensor]] = {
    "two-moons": toy.two_moons,
    "eight-gaussians": toy.eight_gaussians,
    "checkerboard": toy.checkerboard,
}
names: tuple[str, ...] = ("digits", *_POINTS)


def beside(path: Path) -> list[str]:
    """Return what is in the folder that a path is in, as far as its name is near: what may have been meant."""
    try:
        there = {entry.name: str(entry) for entry in path.parent.iterdir()}
    except OSError:
        return []
    return [there[name] for name in difflib.get_close_matches(path.name, there, n=3)]


def load(
    text: str | Path,
    seed: int = 0,
    split: str | None = None,
    checksum: str | None = None,
    look: Look | None = None,
) -> Dataset:
    """Load a data set by its name, or read one from a path or from hf:NAME.

    In names hyphens and underscores are the same; a name wins over a file of the same name (./digits is the file).
    Paths are what `source.open_images` takes, but images in a folder may have several sizes; what does not fit into
    memory stays on the disk, see `Dataset`.

    Args:
        seed: draws the point sets.
        split: the part to take; by default that for training, where there are parts.
        checksum: `Dataset.checksum` that files must have, so that a run never goes on with other images.
        look: how images at a path become alike, and how much memory they may take; names are taken as they are.

    Raises: ValueError for what is neither a name nor a path, with the neighbors of the name; for a split that is not
        there; for files that cannot be read or have changed.
    """
    known = _key(text)
    if is_name(text):
        dataset = _named(known, seed)
        if split not in (None, dataset.split):
            raise ValueError(
                f"data set {str(text)!r} has no split {split!r}, its only one is {dataset.split!r}"
            )
        if look is not None and (look.size is not None or look.square is not None):
            raise ValueError(
                f"data set {str(text)!r} is taken as it is: --size and --square are for images at a path"
            )
        return unchanged(dataset, checksum)
    if not present(text):
        path = Path(text)
        if path.suffix or len(path.parts) > 1:
            raise ValueError(
                f"data {str(text)!r}: there is no such file or folder (seen from {Path.cwd().name or '/'}/), and it is "
                f"no name{neighbors(str(path), [*beside(path), *names])}"
            )
        raise ValueError(f"unknown data set {str(text)!r}{neighbors(known, names)}, or the path of images")
    if latents.is_cache(path := Path(text)):
        dataset = latents.load(path, split, address=str(text))
    else:
        dataset = opening.from_path(text, split, look)
    return unchanged(dataset, checksum)


def unchanged(dataset: Dataset, checksum: str | None) -> Dataset:
    """Return a data set that has the checksum a run began with, its classes numbered as they were; None accepts any.

    Raises: ValueError.
    """
    if checksum in (None, dataset.checksum):
        return dataset
    for before in _numbered_before(dataset):
        if before.checksum == checksum:
            return before
    raise ValueError(
        f"the images or labels at {dataset.address} have changed: their checksum is {dataset.checksum}, and "
        f"{checksum} was expected. Put back what was there, name the place where it is now, or start a new run"
    )


def _numbered_before(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the same data with its classes as earlier versions numbered them: runs that began so go on so."""
    if dataset.label is None:
        return
    for label, named in classes.former(dataset.label, dataset.class_names):
        yield replace(dataset, label=label, num_classes=len(named), classes=named)


def held_out(dataset: Dataset) -> Dataset | None:
    """The split that was kept apart from these training rows, which samples are measured against; None without one.

    Raises: ValueError where its images or classes are not those of the training rows.
    """
    if dataset.held_out is None:
        return None
    part = load(dataset.path, split=dataset.held_out, look=dataset.look)
    where = f"split {part.split!r} of {dataset.path}"
    if part.shape != dataset.shape:
        raise ValueError(
            f"{where} has images of shape {part.shape}, and those of {dataset.split!r} have {dataset.shape}"
        )
    if dataset.num_classes is None or part.label is None:
        return replace(part, label=None, num_classes=None)
    label = classes.aligned(part.label, part.class_names, dataset.class_names, where, repr(dataset.split))
    fitted = replace(part, label=label, num_classes=dataset.num_classes, classes=dataset.classes)
    if part.kind == "latents":  # checked when they are encoded
        return fitted
    try:
        return check(fitted)
    except ValueError as error:
        raise ValueError(f"{where} does not fit {dataset.split!r}: {error}") from None


@contextmanager
def reading_ahead(dataset: Dataset, reads: Reads, last: int, workers: int | None = None) -> Iterator[Dataset]:
    """Yield the data set with its batches up to step `last` read ahead, where its images are on the disk.

    Args:
        reads: which rows are asked for in each step, see `training.loop.Reads`.
        workers: processes that read, 0 for none; `default_workers` unless given.
    """
    count = default_workers() if workers is None else workers
    stays = isinstance(dataset.x, Rows) and dataset.x.on_disk and dataset.kind == "image"
    if not isinstance(dataset.x, Rows) or not stays or count == 0:
        yield dataset
        return
    ahead = Ahead(dataset.x, reads, last, count)
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
    known = _key(text)
    if is_address(text):
        return _hyphened(Address.of(str(text)).short)
    return _hyphened(known if known in names else source.place_name(Path(text)))


def _hyphened(name: str) -> str:
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split()) or "data"


def _key(text: str | Path) -> str:
    return str(text).lower().replace("_", "-")


def _named(known: str, seed: int) -> Dataset:
    if known == "digits":
        return check(load_digits())
    x = _POINTS[known](10_000, seed)
    return check(Dataset(known, x, kind="points", license="CC0", source="drawn from a seed"))
