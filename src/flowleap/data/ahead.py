"""The images of coming batches, read by other processes while a step is computed.

The rows of a batch are a pure function of (seed, step), so these processes know what will be asked for, and what they
give is what would have been read anyway: nothing depends on their number, and a run that goes on needs nothing of them.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flowleap.data.rows import Rows, scaled
from flowleap.data.workers import in_order

__all__ = ["Ahead", "Law"]

MOST_STARTS = 3


class Law(Protocol):
    """Which rows make a batch, see `batching`."""

    def indices(self, label: Tensor | None, size: int, batch: int, step: int, key: int) -> Tensor: ...


@dataclass(eq=False)
class Ahead:
    """Reads the batches from the first step that is asked for up to `last`, each before its turn.

    Which seed, batch and part of it are wanted is seen from the first call. What does not follow, such as the same step
    again, is read directly; after some new starts nothing is read ahead any more.

    Args:
        x, label: the data, of which the rows stay on the disk.
        law: how rows are chosen for a batch.
        last: the step after the last one.
        workers: processes that read.
    """

    x: Rows
    label: Tensor | None
    law: Law
    last: int
    workers: int
    _made: Generator[tuple[int, np.ndarray, np.ndarray], None, None] | None = field(default=None, repr=False)
    _next: tuple[int, int, int, tuple[int, ...] | None] | None = field(default=None, repr=False)
    _starts: int = field(default=0, repr=False)

    def __call__(self, rows: Tensor, step: int, key: int, here: Tensor | None = None) -> Tensor:
        """Return the images of the rows of this step, as `Dataset.take`.

        Shapes: rows (global batch,), here (batch,) → (batch, *shape).
        """
        wanted = rows if here is None else rows[here]
        asked = (step, key, len(rows), None if here is None else tuple(here.tolist()))
        if asked != self._next:
            if self._starts == MOST_STARTS or step >= self.last:
                return self.x[wanted]
            self._start(step, key, len(rows), here)
        assert self._made is not None
        found, levels = next(self._made)[1:]
        self._next = (step + 1, *asked[1:]) if step + 1 < self.last else None
        if not np.array_equal(found, wanted.numpy()):  # these rows follow another law
            self._starts = MOST_STARTS
            self.close()
            return self.x[wanted]
        return scaled(torch.from_numpy(levels))

    def close(self) -> None:
        """End the processes that read; a later call starts them again."""
        if self._made is not None:
            self._made.close()
        self._made = self._next = None

    def _start(self, step: int, key: int, batch: int, here: Tensor | None) -> None:
        self.close()
        self._starts += 1
        task = _Batch(self.x, self.label, self.law, batch, key, here)
        self._made = _numbered(task, range(step, self.last), self.workers)


def _numbered(
    task: _Batch, steps: range, workers: int
) -> Generator[tuple[int, np.ndarray, np.ndarray], None, None]:
    for step, (rows, levels) in zip(steps, in_order(task, steps, workers), strict=True):
        yield step, rows, levels


@dataclass(frozen=True, eq=False)
class _Batch:
    """The rows of the batch of a step and their images, as 8 bits: a quarter to be sent."""

    x: Rows
    label: Tensor | None
    law: Law
    batch: int
    key: int
    here: Tensor | None

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.law.indices(self.label, len(self.x), self.batch, step, self.key)
        rows = rows if self.here is None else rows[self.here]
        return rows.numpy(), self.x.levels(rows).numpy()
