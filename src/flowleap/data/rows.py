"""Images that are kept as 8 bits, or stay on the disk, and are indexed like a float32 tensor of the same values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from torch import Tensor

from flowleap.data.preprocessing import GIB
from flowleap.data.workers import default_workers, in_order
from flowleap.randomness import generator

__all__ = [
    "MANY",
    "Fetch",
    "Reader",
    "Rows",
    "Samples",
    "blocks",
    "chosen",
    "filled",
    "kept",
    "levels_of",
    "not_finite",
    "passing",
    "scaled",
    "some",
]

MANY = 2000
"""Fewer images than this are read by this process: starting others would take longer."""
BLOCK = 1000

Fetch = Callable[[Tensor], Tensor]
"""Sorted or not, repeated or not: int64 (k,) -> uint8 (k, *shape), or float32 where there are no 8 bits."""
Reader = Callable[[Tensor, int], Iterator[Tensor]]
"""(sorted numbers (k,), n) -> the same of these rows in order, at most n at a time."""


def scaled(levels: Tensor) -> Tensor:
    """Images in [-1, 1]: x / 127.5 − 1; what is no 8 bits, such as latents, as it is.

    Shapes: uint8 or float32, kept.
    """
    if levels.is_floating_point():
        return levels
    return levels.to(torch.float32) / 127.5 - 1


def levels_of(x: Tensor) -> Tensor:
    """The 8 bits that `scaled` made x from: round(127.5 (x + 1)), within 0 to 255."""
    return (127.5 * (x + 1)).round_().clamp_(0, 255).byte()


def not_finite(x: Tensor) -> Tensor:
    """The numbers of the rows that hold NaN or infinity.

    Shapes: (n, …) -> int64 (at most n,).
    """
    return (~x.flatten(1).isfinite().all(dim=1)).nonzero().flatten()


@dataclass(frozen=True, eq=False)
class Rows:
    """Images of which only those are floats, and in memory, that are asked for.

    Indexed by a number, a slice, a list or a tensor of numbers; `split` goes through all of them in blocks.

    Args:
        fetch: reads rows as 8 bits, in the order in which they are asked for.
        count: how many there are.
        one: the shape of one.
        stamp: what tells these from others where they stay on the disk: names, sizes and the way they are taken;
            None in memory, where the values themselves do.
        read: goes through rows in one pass, where that is how they are stored; see `passing`.
        floats: whether their values are other than those of 8 bits.

    Shapes: as of a tensor (count, *one), float32, images in [-1, 1].
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
        """(rows, *shape of one), as of a tensor."""
        return torch.Size((self.count, *self.one))

    @property
    def on_disk(self) -> bool:
        """Whether rows are read when they are asked for, rather than held in memory as 8 bits."""
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
        """Some rows as they are stored, 8 bits.

        Shapes: -> uint8 (k, *one). Raises: IndexError for rows that are not there.
        """
        rows = torch.arange(self.count)[index.cpu() if isinstance(index, Tensor) else index]
        return self.fetch(rows)

    def split(self, n: int) -> Iterator[Tensor]:
        """All rows in order, n at a time, of which a few blocks are in memory."""
        return self.blocks(torch.arange(self.count), n)

    def blocks(self, rows: Tensor, n: int) -> Iterator[Tensor]:
        """Some rows, n at a time; many of them are read from the disk by other processes while a block is used."""
        return map(scaled, self.stored(rows, n))

    def stored(self, rows: Tensor, n: int) -> Iterator[Tensor]:
        """The same as they are stored, 8 bits."""
        if self.read is not None:
            return self.read(rows, n)
        workers = default_workers() if self.on_disk and len(rows) >= MANY else 0
        return map(torch.from_numpy, in_order(_Read(self.fetch), rows.split(n), workers))

    def only(self, rows: Tensor) -> Rows:
        """Some of the rows, in the order of the given numbers (sorted ones of `passing` rows); nothing is read."""
        stamp, whole = None if self.stamp is None else f"{self.stamp}[{len(rows)}]", self.read
        read = None if whole is None else lambda index, n: whole(rows[index], n)
        return replace(self, fetch=_Some(self.fetch, rows), count=len(rows), stamp=stamp, read=read)


def passing(read: Reader, count: int, one: tuple[int, ...], *, floats: bool = False) -> Rows:
    """Rows that are gone through from the first to the last, as those of an archive; single ones take a pass each."""

    def fetch(rows: Tensor) -> Tensor:
        wanted, place = rows.unique(return_inverse=True)
        return torch.cat([torch.empty(0, *one, dtype=torch.uint8), *read(wanted, BLOCK)])[place]

    return Rows(fetch, count, one, read=read, floats=floats)


@dataclass(frozen=True, eq=False)
class _Some:
    """Rows by their place in a list of numbers."""

    fetch: Fetch
    rows: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        return self.fetch(self.rows[rows])


@dataclass(frozen=True, eq=False)
class _Read:
    fetch: Fetch

    def __call__(self, rows: Tensor) -> np.ndarray:
        return self.fetch(rows).numpy()


Samples = Tensor | Rows
"""What a data set holds: a tensor, or what is indexed like one."""


def chosen(size: int, count: int, stream: str) -> Tensor:
    """A fixed random part of `size` rows, or all where there are not more: sorted numbers.

    A random part rather than the first or every k-th, which where files are sorted would be a few classes.
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
    """Some rows of samples, of what stays on the disk without reading them."""
    return x[rows] if isinstance(x, Tensor) else x.only(rows)


def blocks(x: Samples, rows: Tensor, n: int) -> Iterator[Tensor]:
    """Some rows of samples, n at a time."""
    return (x[part] for part in rows.split(n)) if isinstance(x, Tensor) else x.blocks(rows, n)


def filled(shape: tuple[int, ...], dtype: torch.dtype, parts: Iterable[Tensor]) -> Tensor:
    """A tensor made of blocks of rows, of which one is in memory beside it.

    Shapes: (≤ n, *shape[1:]) each -> shape.
    """
    made, done = torch.empty(shape, dtype=dtype), 0
    for part in parts:
        made[done : done + len(part)] = part
        done += len(part)
    return made


def kept(levels: Tensor, memory: float) -> Samples:
    """8 bits as floats, or where these take more than so many GiB as they are.

    Shapes: uint8 (n, *one) -> as of float32 (n, *one).
    """
    shape = tuple(levels.shape)
    if 4 * math.prod(shape) > memory * GIB:
        return Rows(levels.__getitem__, shape[0], shape[1:])
    return filled(shape, torch.float32, map(scaled, levels.split(BLOCK)))
