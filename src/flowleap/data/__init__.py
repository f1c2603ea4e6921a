"""Data sets, by name or from files, and which of their rows make a batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from flowleap.data import batching, source, toy
from flowleap.data.check import check
from flowleap.data.dataset import Dataset
from flowleap.data.digits import load_digits
from flowleap.neighbors import neighbors

__all__ = ["Dataset", "batching", "check", "held_out", "load", "names", "short"]

_POINTS: dict[str, Callable[[int, int], Tensor]] = {
    "two-moons": toy.two_moons,
    "eight-gaussians": toy.eight_gaussians,
    "checkerboard": toy.checkerboard,
}
names: tuple[str, ...] = ("digits", *_POINTS)


def load(text: str | Path, seed: int = 0, split: str | None = None, checksum: str | None = None) -> Dataset:
    """Load a data set by its name, or read one from a path as `source.open_images` does.

    In names hyphens and underscores are the same; a name wins over a file of the same name (./digits is the file).

    Args:
        seed: draws the point sets.
        split: the part to take; by default that for training, where there are parts.
        checksum: `Dataset.checksum` that files must have, so that a run never goes on with other images.

    Raises: ValueError for what is neither a name nor a path, with the neighbors of the name; for a split that is not
        there; for files that cannot be read or have changed.
    """
    known = _key(text)
    if known in names:
        dataset = _named(known, seed)
        if split not in (None, dataset.split):
            raise ValueError(
                f"data set {str(text)!r} has no split {split!r}, its only one is {dataset.split!r}"
            )
        return dataset
    path = Path(text)
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise ValueError(
                f"data {str(text)!r}: there is no such file or folder (seen from {Path.cwd().name or '/'}/), and it is "
                f"no name; known: {', '.join(names)}"
            )
        raise ValueError(f"unknown data set {str(text)!r}{neighbors(known, names)}, or the path of images")
    opened = source.open_images(path, split or ("train" if source.has_parts(path) else None))
    dataset = replace(opened, path=str(text)).dataset()
    if checksum is not None and dataset.checksum != checksum:
        raise ValueError(
            f"the images or labels at {text} have changed: their checksum is {dataset.checksum}, and {checksum} was "
            "expected. Put back what was there, or start a new run"
        )
    return dataset


def held_out(dataset: Dataset) -> Dataset | None:
    """The split that was kept apart from these training rows, which samples are measured against; None without one.

    Raises: ValueError where its images or classes are not those of the training rows.
    """
    if dataset.held_out is None:
        return None
    part = load(dataset.path, split=dataset.held_out)
    where = f"split {part.split!r} of {dataset.path}"
    if part.shape != dataset.shape:
        raise ValueError(
            f"{where} has images of shape {part.shape}, and those of {dataset.split!r} have {dataset.shape}"
        )
    if dataset.num_classes is None or part.label is None:
        return replace(part, label=None, num_classes=None)
    return check(replace(part, num_classes=dataset.num_classes))


def short(text: str | Path) -> str:
    """What runs on this data are called after: its name, or that of the file or folder, with hyphens."""
    known = _key(text)
    name = known if known in names else source.place_name(Path(text))
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split()) or "data"


def _key(text: str | Path) -> str:
    return str(text).lower().replace("_", "-")


def _named(known: str, seed: int) -> Dataset:
    if known == "digits":
        return check(load_digits())
    x = _POINTS[known](10_000, seed)
    return check(Dataset(known, x, kind="points", license="CC0", source="drawn from a seed"))
