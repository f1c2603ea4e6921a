"""The images of coming batches, read by other processes while a step is computed.

The rows of a batch are a pure function of (seed, step), so these processes know what will be asked for, and what they
give is what would have been read anyway: nothing depends on their number, and a run that goes on needs nothing of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flowleap.data.rows import Rows, scaled
from flowleap.data.workers import in_order

__all__ = ["Ahead", "Reads"]

MOST_STARTS = 3


class Reads(Protocol):
    """Which rows are asked for one after the other, `turns` times in each step."""

    @property
    def turns(self) -> int: ...

    def rows(self, turn: int) -> Tensor:
        """The rows of a turn, the first of step k being turn k · `turns`. Shapes: → int64 (rows,)."""
        ...


@dataclass(eq=False)
class Ahead:
    """Reads what is asked for from the first step that is seen up to `last`, each turn before it comes.

    What does not follow, such as the same step again, is found by starting anew there; after some new starts, or where
    other rows are asked for, nothing is read ahead any more.

    Args:
        x: the data, of which the rows stay on the disk.
        reads: which rows are asked for.
        last: the step after the last one.
        workers: processes that read.
    """

    x: Rows
    reads: Reads
    last: int
    workers: int
    _made: Iterator[tuple[np.ndarray, np.ndarray]] | None = field(default=None, repr=False)
    _turn: int = field(default=-1, repr=False)
    _starts: int = field(default=0, repr=False)

    def __call__(self, rows: Tensor, step: int) -> Tensor:
        """Return the images of these rows, which are those of a turn of this step.

        Shapes: rows (batch,) → (batch, *shape).
        """
        turns = self.reads.turns
        if self._made is None or self._turn // turns != step:
            if self._starts == MOST_STARTS or step >= self.last:
                return self.x[rows]
            self._start(step * turns)
        while self._made is not None and self._turn // turns == step:
            found, levels = next(self._made)
            self._turn += 1
            if np.array_equal(found, rows.numpy()):
                return scaled(torch.from_numpy(levels))
        self._starts = MOST_STARTS
        self.close()
        return self.x[rows]

    def close(self) -> None:
        """End the processes that read; a later call starts them again."""
        if isinstance(self._made, Generator):
            self._made.close()
        self._made, self._turn = None, -1

    def _start(self, turn: int) -> None:
        self.close()
        self._starts += 1
        coming = range(turn, self.last * self.reads.turns)
        self._made, self._turn = in_order(_Turn(self.x, self.reads), coming, self.workers), turn


@dataclass(frozen=True, eq=False)
class _Turn:
    """The rows of a turn and their images, as 8 bits: a quarter to be sent."""

    x: Rows
    reads: Reads

    def __call__(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.reads.rows(turn)
        return rows.numpy(), self.x.levels(rows).numpy()
