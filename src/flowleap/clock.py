"""Timing that is insensitive to other work on the machine.

On a CPU: the processor time of the calling thread, which takes part in all of a step. On an accelerator: the wall time
after a synchronization.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

BUSY = 1.5
"""The ratio of wall time to work from which on a machine counts as busy."""


class Moment(NamedTuple):
    """Readings of both clocks in seconds, from an arbitrary origin."""

    wall: float
    work: float

    def since(self, before: Moment) -> Moment:
        """Return the seconds since an earlier moment."""
        return Moment(self.wall - before.wall, self.work - before.work)


def now(device: torch.device, waits: bool = False) -> Moment:
    """Return the readings for a device.

    Args:
        waits: whether the timed work waits for other processes, such as those that read images; then use wall time.
    """
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    wall = time.perf_counter()
    return Moment(wall, time.thread_time() if device.type == "cpu" and not waits else wall)


def named(name: str) -> AbstractContextManager[Any]:
    """Return a context whose time has a name, such as "draw", in the traces of `torch.profiler`."""
    from torch.profiler import record_function

    return record_function(name)


def load(spans: Iterable[Moment]) -> float:
    """Return the ratio of wall time to work, summed over spans; 1 on an idle machine.

    >>> load([Moment(wall=2.0, work=1.0), Moment(wall=4.0, work=2.0)])
    2.0
    """
    wall, work = (sum(column) for column in zip(*spans, strict=True))
    return max(1.0, wall / max(work, 1e-9))
