"""Several processes, one evaluation: each makes its share of the samples, all see the numbers of all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count as counter
from typing import Any

import torch
from torch import Tensor, distributed

__all__ = ["count", "gathered", "rank", "share", "together", "total"]

MEETINGS = counter()


@contextmanager
def together() -> Iterator[None]:
    """Join the processes that torchrun or `accelerate launch` started, until the context ends; alone, nothing.

    Each meeting has keys of its own: under those of an earlier one a process may find an address that is closed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    store, own, every = _meeting_place()
    store = distributed.PrefixStore(f"flowleap-{next(MEETINGS)}", store)
    distributed.init_process_group("gloo", store=store, rank=own, world_size=every)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@cache
def _meeting_place() -> tuple[distributed.Store, int, int]:
    store, own, every = next(distributed.rendezvous("env://"))
    return store, own, every


def count() -> int:
    """How many processes work together; 1 where torch.distributed is not in use."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, 0 for the first and for one alone."""
    return distributed.get_rank() if count() > 1 else 0


def share(num: int) -> range:
    """The samples of this process: consecutive, so that those of all processes in turn are 0 … num − 1."""
    own, every = rank(), count()
    return range(num * own // every, num * (own + 1) // every)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of the samples, on the CPU; every process gets all.

    Shapes: (n of this process, ...) -> (n of all, ...).
    """
    if count() == 1:
        return rows
    parts: list[Any] = [None] * count()
    distributed.all_gather_object(parts, rows.cpu())
    return torch.cat(parts)


def total(number: float) -> float:
    """The sum of a number over all processes."""
    if count() == 1:
        return number
    parts: list[Any] = [None] * count()
    distributed.all_gather_object(parts, number)
    return sum(parts)
