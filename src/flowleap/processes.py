"""Communication between processes that torchrun or `accelerate launch` started, of numbers, flags and features.

Gradients are exchanged by `training.distributed`. With a single process, every function returns its input.
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

Made = TypeVar("Made")
MEETINGS = counter()
PATIENCE = timedelta(seconds=5)
"""How long a process that failed waits for the same error of the first process."""


class Elsewhere(RuntimeError):
    """This process stops because another one failed, which prints the error."""


def launched() -> int:
    """Number of processes that were started together, whether they are joined yet or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def together(device: str = "cpu") -> Iterator[None]:
    """Initialize torch.distributed with the processes that were started together, for this context.

    Each context has its own keys in the store, since those of an earlier one may hold closed addresses.

    Args:
        device: "cpu" uses gloo; otherwise tensors on a GPU use NCCL if there is one, and the GPU of this process is
            selected.

    Raises: Elsewhere if another process failed with the same error, or with another one that stopped this process.
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
    """Whether an error only says that another process is gone."""
    told = str(error).lower()
    network = ("connection closed", "connection reset", "gloo", "nccl", "socket", "recv", "broken pipe")
    return isinstance(error, Elsewhere) or (
        isinstance(error, RuntimeError) and any(word in told for word in network)
    )


def _said(store: distributed.Store, own: int, size: int, text: str, *, lost: bool) -> bool:
    """Whether another process has reported the error: its own if this one is `lost`, else the same one.

    A process that is gone without an error was killed; then this process reports the lost connection.
    """
    others = [other for other in range(size) if other != own] if lost else [0] if own else []
    for other in others:
        try:
            store.wait([f"stopped/{other}"], PATIENCE if other == others[0] else timedelta(milliseconds=100))
        except Exception:  # timeout, for which torch raises a type of its own
            continue
        said = store.get(f"stopped/{other}").decode()
        if lost or said == text:
            return True
    return False


def count() -> int:
    """Number of joined processes; 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The rank of this process, 0 for a single one."""
    return distributed.get_rank() if count() > 1 else 0


def first() -> bool:
    """Whether this is the first process, the only one that writes files and prints."""
    return rank() == 0


def share(num: int) -> range:
    """The consecutive sample numbers of this process; those of all processes in order are 0 … num − 1."""
    own, size = rank(), count()
    return range(num * own // size, num * (own + 1) // size)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes in order, on the CPU, in every process.

    Shapes: (n of this process, ...) -> (n of all, ...).
    """
    return rows if count() == 1 else torch.cat(every(rows.cpu()))


def every(value: Any) -> list[Any]:
    """The values of all processes in order, in every process."""
    if count() == 1:
        return [value]
    parts: list[Any] = [None] * count()
    distributed.all_gather_object(parts, value)
    return parts


def total(number: float) -> float:
    """The sum of a number over all processes."""
    return number if count() == 1 else sum(every(number))


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process, in every process."""
    if count() == 1:
        return flag
    found = torch.tensor(int(flag))
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found)


def wait() -> None:
    """A barrier."""
    any_of(False)


def from_first(make: Callable[[], Made]) -> Made:
    """Call `make` in the first process and return the result in every process.

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
