"""Several processes, one piece of work: started by torchrun or `accelerate launch`, they meet here.

What is shared is small: a number, a decision, the features of samples. Gradients are the business of
`training.distributed`. Alone, every function here returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import count as counter
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

__all__ = [
    "Elsewhere",
    "any_of",
    "count",
    "every",
    "first",
    "from_first",
    "gathered",
    "launched",
    "rank",
    "share",
    "together",
    "total",
    "wait",
]

Made = TypeVar("Made")
MEETINGS = counter()
PATIENCE = timedelta(seconds=5)
"""How long a process that failed waits for the first one to say the same."""


class Elsewhere(RuntimeError):
    """This process stops because of another one, which says why."""


def launched() -> int:
    """How many processes were started together, whether they have met or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def together(device: str = "cpu") -> Iterator[None]:
    """Join the processes that torchrun or `accelerate launch` started, until the context ends; alone, nothing.

    Each meeting has keys of its own: under those of an earlier one a process may find an address that is closed.

    Args:
        device: "cpu" exchanges everything by gloo; anything else exchanges tensors of a GPU by NCCL where there is one,
            and takes the GPU of this process.

    Raises: Elsewhere where another process has said already what this one would, or stopped for a reason of its own.
    """
    if launched() == 1 or distributed.is_initialized():
        yield
        return
    store, own, size = _meeting_place()
    store = distributed.PrefixStore(f"flowleap-{next(MEETINGS)}", store)
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    distributed.init_process_group(backend, store=store, rank=own, world_size=size)
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        store.set(f"stopped/{own}", text)
        if _said(store, own, size, text, lost=_lost(error)):
            raise Elsewhere(f"process {own} of {size} stopped with the others") from error
        raise
    finally:
        distributed.destroy_process_group()


@cache
def _meeting_place() -> tuple[distributed.Store, int, int]:
    store, own, size = next(distributed.rendezvous("env://"))
    return store, own, size


def _lost(error: Exception) -> bool:
    """Whether an error is only that another process is gone."""
    told = str(error).lower()
    network = ("connection closed", "connection reset", "gloo", "nccl", "socket", "recv", "broken pipe")
    return isinstance(error, Elsewhere) or (
        isinstance(error, RuntimeError) and any(word in told for word in network)
    )


def _said(store: distributed.Store, own: int, size: int, text: str, *, lost: bool) -> bool:
    """Whether another process has an error of its own, or one before this one has the same.

    A process that is gone without a word was killed: then the loss is what there is to say.
    """
    others = [other for other in range(size) if other != own] if lost else [0] if own else []
    for other in others:
        try:
            store.wait([f"stopped/{other}"], PATIENCE if other == others[0] else timedelta(milliseconds=100))
        except Exception:  # not said in time: torch raises a type of its own
            continue
        said = store.get(f"stopped/{other}").decode()
        if lost or said == text:
            return True
    return False


def count() -> int:
    """How many processes work together; 1 where torch.distributed is not in use."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, 0 for the first and for one alone."""
    return distributed.get_rank() if count() > 1 else 0


def first() -> bool:
    """Whether this is the first process, which alone writes, prints and draws."""
    return rank() == 0


def share(num: int) -> range:
    """The samples of this process: consecutive, so that those of all processes in turn are 0 … num − 1."""
    own, size = rank(), count()
    return range(num * own // size, num * (own + 1) // size)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of the samples, on the CPU; every process gets all.

    Shapes: (n of this process, ...) -> (n of all, ...).
    """
    return rows if count() == 1 else torch.cat(every(rows.cpu()))


def every(value: Any) -> list[Any]:
    """The values of all processes, in their order; every process gets all."""
    if count() == 1:
        return [value]
    parts: list[Any] = [None] * count()
    distributed.all_gather_object(parts, value)
    return parts


def total(number: float) -> float:
    """The sum of a number over all processes."""
    return number if count() == 1 else sum(every(number))


def any_of(flag: bool) -> bool:
    """Whether any process says yes; all get the same answer."""
    if count() == 1:
        return flag
    found = torch.tensor(int(flag))
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found)


def wait() -> None:
    """Wait until all processes are here."""
    any_of(False)


def from_first(make: Callable[[], Made]) -> Made:
    """What the first process makes, in every process; the others make nothing and wait for it.

    Raises: in the first process what `make` raises; Elsewhere in the others.
    """
    if count() == 1:
        return make()
    held: list[Any] = [None, None]
    failure: Exception | None = None
    if first():
        try:
            held[0] = make()
        except Exception as error:
            failure, held[1] = error, f"{type(error).__name__}: {error}"
    distributed.broadcast_object_list(held)
    if failure is not None:
        raise failure
    if held[1] is not None:
        raise Elsewhere(held[1])
    made: Made = held[0]
    return made
