"""Data sets, and which of their rows make a batch."""

from collections.abc import Callable

from torch import Tensor

from flowleap.data import batching, toy
from flowleap.data.check import check
from flowleap.data.dataset import Dataset
from flowleap.data.digits import load_digits
from flowleap.neighbors import neighbors

__all__ = ["Dataset", "batching", "check", "load", "names"]

_POINTS: dict[str, Callable[[int, int], Tensor]] = {
    "two-moons": toy.two_moons,
    "eight-gaussians": toy.eight_gaussians,
    "checkerboard": toy.checkerboard,
}
names: tuple[str, ...] = ("digits", *_POINTS)


def load(name: str, seed: int = 0) -> Dataset:
    """Load a data set by its name; hyphens and underscores are the same, `seed` draws the point sets.

    Raises: ValueError for an unknown name, with its neighbors.
    """
    known = name.lower().replace("_", "-")
    if known == "digits":
        return check(load_digits())
    if known in _POINTS:
        x = _POINTS[known](10_000, seed)
        return check(Dataset(known, x, kind="points", license="CC0", source="drawn from a seed"))
    raise ValueError(f"unknown data set {name!r}{neighbors(known, names)}")
