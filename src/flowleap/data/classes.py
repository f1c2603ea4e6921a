"""Names and numbers of classes.

Labels are int64 in [0, classes), and every class has rows. The name of a class is that of its folder, or its number or
string in the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from flowleap.suggest import suggest

SHOWN, MANY = 12, 50
"""Names shown in a list; up to `MANY` are all listed after a wrong one."""
MOST = 1_000_000
"""Numbers below this may have been labels of earlier versions; larger ones are names, such as product numbers."""


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key for names: numbers within them by value, everything else by its characters.

    >>> sorted(["10", "2", "img10", "1", "img9"], key=natural)
    ['1', '2', '10', 'img9', 'img10']
    """
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def numbered(values: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    """Number the distinct values in the natural order of their names; return labels and names.

    Shapes: integers, booleans or strings (n,) -> int64 (n,).

    >>> numbered(np.array([7, 0, 2, 7]))
    (tensor([2, 0, 1, 2]), ('0', '2', '7'))
    """
    found, place = np.unique(values, return_inverse=True)
    return ordered(torch.from_numpy(place.reshape(-1)), [str(value) for value in found.tolist()])


def ordered(label: Tensor, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Renumber classes in the natural order of their names; every class has rows.

    Shapes: int64 (n,), kept.
    """
    order = sorted(range(len(names)), key=lambda index: natural(names[index]))
    return torch.tensor(order).argsort()[label], tuple(names[index] for index in order)


def without_empty(label: Tensor, classes: Sequence[str]) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Drop classes without rows: return labels, the names of the classes that are left, and a message on the others.

    Shapes: (n,), int64, kept.
    """
    there = label.bincount(minlength=len(classes)) > 0
    names: tuple[list[str], list[str]] = [], []
    for name, found in zip(classes, there.tolist(), strict=True):
        names[not found].append(name)
    said = (f"classes without images are left out: {listed(names[1])}",) if names[1] else ()
    return (there.long().cumsum(0) - 1)[label], tuple(names[0]), said


def find(name: str, classes: Sequence[str]) -> int:
    """The number of a class by its name, or by its number where no name is a number.

    >>> find("10", ("0", "1", "10")), find("1", ("bag", "shoe"))
    (2, 1)

    Raises: ValueError for an unknown class, with similar names.
    """
    if name in classes:
        return list(classes).index(name)
    if name.isdecimal() and int(name) < len(classes) and not any(known.isdecimal() for known in classes):
        return int(name)
    known = suggest(name, classes) if len(classes) <= MANY else f"; known: {listed(classes)}"
    raise ValueError(f"there is no class {name!r}{known}")


def places(names: Sequence[str], classes: Sequence[str]) -> Tensor:
    """The number of each class of one data set in another, −1 for classes that the other does not have, see `find`.

    Shapes: -> int64 (names,).
    """

    def place(name: str) -> int:
        try:
            return find(name, classes)
        except ValueError:
            return -1

    return torch.tensor([place(name) for name in names], dtype=torch.int64)


def renumbered(label: Tensor, names: Sequence[str], classes: Sequence[str], where: str, other: str) -> Tensor:
    """Renumber labels of classes `names` as another data set numbers its `classes`, see `find`.

    Args:
        where, other: the two data sets in the message of the error.

    Shapes: (n,), int64, kept. Raises: ValueError for a class that the other does not have.
    """
    place = places(names, classes)
    if bool((place < 0).any()):
        new = names[int((place < 0).int().argmax())]
        raise ValueError(
            f"{where} has the class {new!r}, which {other} does not have; it has {listed(classes)}"
        )
    return place[label]


def former_labels(label: Tensor, classes: Sequence[str]) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    """Yield labels and names as versions before 0.2 numbered them, so that their runs and caches still load.

    Folders were numbered in the order of their characters ("10" before "2"), and numbers were kept, with a class for
    each number below the largest.
    """
    order = sorted(classes)
    yield torch.tensor([order.index(name) for name in classes])[label], tuple(order)
    if all(name.isdecimal() for name in classes):
        values = [int(name) for name in classes]
        if max(values) < MOST:
            yield torch.tensor(values)[label], tuple(str(number) for number in range(max(values) + 1))


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and the number of the others."""
    more = len(names) - SHOWN
    return ", ".join(islice(names, SHOWN)) + (f" and {more:,} more" if more > 0 else "")


def described(label: Tensor, classes: Sequence[str]) -> str:
    """A message on the number, sizes and names of classes."""
    counts = label.bincount(minlength=len(classes))
    if len(counts) == 1:
        return f"all images are of one class ({classes[0]}): labels make no difference"
    low, high = int(counts.min()), int(counts.max())
    size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"labels: {len(counts):,} classes of {size} images: {listed(classes)}"
