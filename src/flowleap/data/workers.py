"""Map a function over items in worker processes, in order and some items ahead."""

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

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 8
AHEAD = 2


def default_workers() -> int:
    """Number of worker processes: one less than the cores of this process, 1 to 8; see `threads.share`."""
    return max(1, min(MOST, share() - 1))


@dataclass(frozen=True, eq=False)
class _Jobs(Dataset[Any]):
    """The task as a PyTorch data set: the result for an item, its exception and its warnings."""

    task: Callable[[Any], Any]
    items: Sequence[Any]

    def __getitem__(self, place: int) -> tuple[Any, Exception | None, tuple[str, ...]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                made, error = self.task(self.items[place]), None
            except Exception as failure:  # raised again by `in_order`
                made, error = None, failure
        return made, error, tuple(str(w.message) for w in caught if issubclass(w.category, UserWarning))

    def __len__(self) -> int:
        return len(self.items)


def in_order(
    task: Callable[[Item], Result], items: Sequence[Item], workers: int, ahead: int = AHEAD
) -> Iterator[Result]:
    """Yield task(item) for each item, in order; at most `ahead` results of each of the `workers` are waiting.

    Results should be NumPy arrays, which travel through a pipe: tensors would need shared memory, which is often small
    in containers. Exceptions and warnings of tasks are raised here. Without workers, tasks run in this process.
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
                collate_fn=_identity,
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


def _identity(item: Any) -> Any:
    return item


def _begin(number: int) -> None:
    """Ignore Ctrl-C, which is for the training process; that ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
