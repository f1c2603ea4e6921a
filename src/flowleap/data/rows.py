"""Images stored as uint8 in memory or on the disk, indexed like a float32 tensor of the same values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import overload

import numpy as np
import torch
from torch import Tensor

from flowleap.data.preprocessing import GIB
from flowleap.data.workers import default_workers, in_order
from flowleap.randomness import generator

MANY = 2000
"""Fewer images than this are read without worker processes: starting those would take longer."""
BLOCK = 1000

Fetch = Callable[[Tensor], Tensor]
"""Row numbers in any order, int64 (k,) -> uint8 (k, *shape), or float32 for values that are not 8 bits."""
Reader = Callable[[Tensor, int], Iterator[Tensor]]
"""(sorted row numbers (k,), n) -> these rows in order, at most n at a time."""


def scaled(levels: Tensor) -> Tensor:
    """Map uint8 to float32 in [-1, 1], x / 127.5 − 1; float values, such as latents, are returned as they are."""
    return levels if levels.is_floating_point() else levels.to(torch.float32) / 127.5 - 1


def levels_of(x: Tensor) -> Tensor:
    """Map [-1, 1] to uint8, the inverse of `scaled`: round(127.5 (x + 1)), clamped to 0 … 255."""
    return (127.5 * (x + 1)).round_().clamp_(0, 255).byte()


def not_finite(x: Tensor) -> Tensor:
    """The numbers of the rows with NaN or infinity.

    Shapes: (n, …) -> int64 (at most n,).
    """
    return (~x.flatten(1).isfinite().all(dim=1)).nonzero().flatten()


@dataclass(frozen=True, eq=False)
class Rows:
    """Images that become float32 when they are indexed: by a number, a slice, a list or a tensor of numbers.

    Args:
        fetch: reads rows as uint8, in the order in which they are asked for.
        count: the number of rows.
        one: the shape of one image.
        stamp: identifies images on the disk (names, sizes, preprocessing); None for images in memory, whose values do.
        read: reads rows in one pass, for files that are stored so; see `sequential`.
        floats: whether the values are floats, not uint8.

    Shapes: as a tensor (count, *one), float32, images in [-1, 1].
    """

    fetch: Fetch
    count: int
    one: tuple[int, ...]
    stamp: str | None = None
    read: Reader | None = None
    floats: bool = False

    dtype = torch.float32

    @property
    def shape(self) -> torch.Size:
        """(count, *one), as of a tensor."""
        return torch.Size((self.count, *self.one))

    @property
    def on_disk(self) -> bool:
        """Whether rows are read from the disk, rather than held in memory as uint8."""
        return self.stamp is not None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Tensor:
        if isinstance(index, int) or (
            isinstance(index, Tensor) and index.ndim == 0 and index.dtype != torch.bool
        ):
            return self[torch.tensor([int(index)])][0]
        return scaled(self.levels(index))

    def levels(self, index: slice | list[int] | Tensor) -> Tensor:
        """Some rows as they are stored.

        Shapes: -> uint8 (k, *one). Raises: IndexError for rows that are not there.
        """
        return self.fetch(torch.arange(self.count)[index.cpu() if isinstance(index, Tensor) else index])

    def split(self, n: int) -> Iterator[Tensor]:
        """All rows in order, n at a time, with a few blocks in memory."""
        return self.blocks(torch.arange(self.count), n)

    def blocks(self, rows: Tensor, n: int) -> Iterator[Tensor]:
        """Some rows, n at a time; many rows on the disk are read ahead by worker processes."""
        return map(scaled, self.stored(rows, n))

    def stored(self, rows: Tensor, n: int) -> Iterator[Tensor]:
        """As `blocks`, but as they are stored, uint8."""
        if self.read is not None:
            return self.read(rows, n)
        workers = default_workers() if self.on_disk and len(rows) >= MANY else 0
        return map(torch.from_numpy, in_order(partial(_array, self.fetch), rows.split(n), workers))

    def only(self, rows: Tensor) -> Rows:
        """Some of the rows, in the order of the given numbers (sorted ones for `sequential`); nothing is read."""
        stamp, whole = None if self.stamp is None else f"{self.stamp}[{len(rows)}]", self.read
        read = None if whole is None else lambda index, n: whole(rows[index], n)
        fetch = partial(_fetch_some, self.fetch, rows)
        return replace(self, fetch=fetch, count=len(rows), stamp=stamp, read=read)


def _fetch_some(fetch: Fetch, rows: Tensor, index: Tensor) -> Tensor:
    return fetch(rows[index])


def _array(fetch: Fetch, rows: Tensor) -> np.ndarray:
    return fetch(rows).numpy()


def sequential(read: Reader, count: int, one: tuple[int, ...], *, floats: bool = False) -> Rows:
    """Rows that are read from first to last, as those of an archive; reading single rows takes a pass each."""

    def fetch(rows: Tensor) -> Tensor:
        wanted, place = rows.unique(return_inverse=True)
        return torch.cat([torch.empty(0, *one, dtype=torch.uint8), *read(wanted, BLOCK)])[place]

    return Rows(fetch, count, one, read=read, floats=floats)


Samples = Tensor | Rows
"""The samples of a data set: a tensor, or `Rows`, which is indexed like one."""


def random_rows(size: int, count: int, stream: str) -> Tensor:
    """A fixed random part of `size` row numbers, sorted; all where there are not more than `count`.

    Random, since the first or every k-th row of sorted files would be of a few classes.
    Shapes: -> (min(size, count),), int64.
    """
    if count >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=generator(0, stream))[:count].sort().values


@overload
def some(x: Tensor, rows: Tensor) -> Tensor: ...
@overload
def some(x: Rows, rows: Tensor) -> Rows: ...
def some(x: Samples, rows: Tensor) -> Samples:
    """Some rows of samples; nothing is read from the disk."""
    return x[rows] if isinstance(x, Tensor) else x.only(rows)


def blocks(x: Samples, rows: Tensor, n: int) -> Iterator[Tensor]:
    """Some rows of samples, n at a time."""
    return (x[part] for part in rows.split(n)) if isinstance(x, Tensor) else x.blocks(rows, n)


def concatenated(shape: tuple[int, ...], dtype: torch.dtype, parts: Iterable[Tensor]) -> Tensor:
    """Concatenate blocks of rows into a tensor of a known shape, with one block in memory beside it.

    Shapes: (≤ n, *shape[1:]) each -> shape.
    """
    made, done = torch.empty(shape, dtype=dtype), 0
    for part in parts:
        made[done : done + len(part)] = part
        done += len(part)
    return made


def as_floats(levels: Tensor, memory: float) -> Samples:
    """Convert uint8 images to float32, unless these take more than `memory` GiB.

    Shapes: uint8 (n, *one) -> as of float32 (n, *one).
    """
    shape = tuple(levels.shape)
    if 4 * math.prod(shape) > memory * GIB:
        return Rows(levels.__getitem__, shape[0], shape[1:])
    return concatenated(shape, torch.float32, map(scaled, levels.split(BLOCK)))
