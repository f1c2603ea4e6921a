"""Memory of a device: what is free, what a computation takes at its peak, and how many rows at a time fit."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SHARE = 0.5
"""The share of the free memory that the rows of one call may take."""
TRIAL = 4
"""Rows that the memory of a row is measured on."""
Made = TypeVar("Made")


class Allocations(TorchDispatchMode):
    """A context that counts the bytes of the tensors made inside: `live` at present, `peak` the most at one time.

    A storage counts once, from the operation that returns it until its last tensor is gone. What a kernel takes and
    gives back within one operation is not seen. The count depends on shapes and types only, not on the machine, and
    fake tensors are counted as if they held numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._add(value, value.untyped_storage().nbytes())
        self.peak = max(self.peak, self.live)
        return made

    def leave_out(self, *tensors: Tensor) -> None:
        """Do not count the storages of these tensors, which were there before."""
        for tensor in tensors:
            self._add(tensor, 0)

    def _add(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._held:
            return

        def freed(_: Any) -> None:
            self.live -= size
            del self._held[place]

        self._held[place] = weakref.ref(storage, freed)
        self.live += size


def free(device: torch.device | str) -> float:
    """Return the bytes of memory that are free on a device, with those that torch holds there without use."""
    device = torch.device(device)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 8e9


def peak(make: Callable[[], object], device: torch.device) -> int:
    """Return the bytes that a computation takes at its peak, beside what was there before.

    On CUDA those of the allocator, in the second of two calls: the first one makes the workspaces that stay. Elsewhere
    those of `Allocations`.
    """
    if device.type == "cuda":
        make()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        make()
        return torch.cuda.max_memory_allocated(device) - before
    with Allocations() as found:
        make()
    return found.peak


def fitting(trial: Callable[[int], object], device: torch.device, most: int) -> int:
    """Return how many rows at a time, at most `most`, take `SHARE` of the free memory.

    Args:
        trial: computes so many rows; it is called with a few.
    """
    few = min(TRIAL, most)
    each = max(1.0, peak(lambda: trial(few), device) / few)
    return max(1, min(most, int(SHARE * free(device) / each)))


class Rows:
    """How many rows are computed at a time, `count`; half of them from where the memory of a GPU is exhausted."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"batches of {count} rows: at least 1 is needed")
        self.count = count

    def computed(self, rows: range, make: Callable[[range], Made]) -> Iterator[Made]:
        """Yield make(part) for consecutive parts of `rows`.

        Raises: torch.OutOfMemoryError where a single row does not fit.
        """
        start = rows.start
        while start < rows.stop:
            part = range(start, min(start + self.count, rows.stop))
            try:
                made = make(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.count = len(part) // 2
            else:
                start = part.stop
                yield made
                continue
            torch.cuda.empty_cache()  # out of the handler, whose error held the tensors of the call
