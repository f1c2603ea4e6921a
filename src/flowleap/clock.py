"""How long work takes, so that other work on the machine does not count.

On a CPU that is the processor time of the thread that asks, which takes part in all of a step; on an accelerator it is
the wall time, when all that was asked of it is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

__all__ = ["BUSY", "Moment", "load", "now"]

BUSY = 1.5
"""How much longer than the work the wall time may be, before a machine is called busy."""


class Moment(NamedTuple):
    """Readings of both clocks, in seconds from any beginning; two of them subtract."""

    wall: float
    work: float

    def since(self, before: Moment) -> Moment:
        """Return the seconds from an earlier moment to this one."""
        return Moment(self.wall - before.wall, self.work - before.work)


def now(device: torch.device, waits: bool = False) -> Moment:
    """Return the present moment of a device.

    Args:
        waits: whether what is timed waits for others, such as processes that read images; then wall time counts.
    """
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    wall = time.perf_counter()
    return Moment(wall, time.thread_time() if device.type == "cpu" and not waits else wall)


def load(spans: Iterable[Moment]) -> float:
    """Return by how much the wall time of some spans was longer than the work in them; 1 on an idle machine.

    >>> load([Moment(wall=2.0, work=1.0), Moment(wall=4.0, work=2.0)])
    2.0
    """
    wall, work = (sum(column) for column in zip(*spans, strict=True))
    return max(1.0, wall / max(work, 1e-9))
