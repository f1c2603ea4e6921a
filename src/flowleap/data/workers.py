"""The same task for many items in background processes, in order, some of them ahead of what is asked for."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from flowleap.threads import share

__all__ = ["default_workers", "in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 8
AHEAD = 2


def default_workers() -> int:
    """How many processes read for this one: a core less than it has, shared with the others on this machine, 1 to 8."""
    return max(1, min(MOST, share() - 1))


@dataclass(frozen=True, eq=False)
class _Jobs(Dataset[Any]):
    """The task of the item at a place, with what went wrong and what was warned of."""

    task: Callable[[Any], Any]
    items: Sequence[Any]

    def __getitem__(self, place: int) -> tuple[Any, Exception | None, tuple[str, ...]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                made, error = self.task(self.items[place]), None
            except Exception as failure:  # raised again by whoever asks for it
                made, error = None, failure
        return made, error, tuple(str(w.message) for w in caught if issubclass(w.category, UserWarning))

    def __len__(self) -> int:
        return len(self.items)


def in_order(
    task: Callable[[Item], Result], items: Sequence[Item], workers: int, ahead: int = AHEAD
) -> Iterator[Result]:
    """Yield the task of each item, in order; with `workers` processes at most `ahead` of each are waiting.

    Results travel through a pipe: give them as NumPy arrays, which shared memory, often small in containers, need
    not hold. What a task raises or warns of is raised or warned of here. Without workers it is all done here.
    """
    jobs = _Jobs(task, items)
    made: Any = map(jobs.__getitem__, range(len(items)))
    if workers and len(items) > 1:
        made = iter(
            DataLoader(
                jobs,
                batch_size=None,
                sampler=range(len(items)),
                num_workers=min(workers, len(items)),
                prefetch_factor=ahead,
                collate_fn=_same,
                worker_init_fn=_begin,
                multiprocessing_context="fork" if sys.platform == "linux" else None,
                generator=torch.Generator(),  # its seeds are not taken from the global random state
            )
        )
    for result, error, said in made:
        for message in said:
            warnings.warn(message, UserWarning, stacklevel=2)
        if error is not None:
            raise error
        yield result


def _same(item: Any) -> Any:
    return item


def _begin(number: int) -> None:
    """A Ctrl-C is for the process that trains, which finishes its step; this one ends when it is told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
