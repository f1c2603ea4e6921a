"""Worker processes that read the images of coming batches while a step is computed.

The rows of a batch are a pure function of (seed, step), so the workers know what will be asked for. Results do not
depend on their number, and a checkpoint needs no state of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flowleap.data.rows import Rows, scaled
from flowleap.data.workers import in_order

MOST_STARTS = 3


class Reads(Protocol):
    """The order in which rows are read: `turns` reads in each step."""

    @property
    def turns(self) -> int: ...

    def rows(self, turn: int) -> Tensor:
        """The rows of a read; the first read of step k has the number k · `turns`. Shapes: → int64 (rows,)."""
        ...


@dataclass(eq=False)
class Ahead:
    """Reads images ahead in the given order, from the first step that is asked for up to `last`.

    When a step is asked for out of order, such as the same one again, the workers start anew, at most `MOST_STARTS`
    times; after that, or when other rows are asked for, images are read without workers.

    Args:
        x: images on the disk.
        last: the step after the last one.
        workers: number of processes.
    """

    x: Rows
    reads: Reads
    last: int
    workers: int
    _results: Iterator[tuple[np.ndarray, np.ndarray]] | None = field(default=None, repr=False)
    _turn: int = field(default=-1, repr=False)
    _starts: int = field(default=0, repr=False)

    def __call__(self, rows: Tensor, step: int) -> Tensor:
        """Return the images of these rows, which are those of one read of this step.

        Shapes: rows (batch,) → (batch, *shape).
        """
        turns = self.reads.turns
        if self._results is None or self._turn // turns != step:
            if self._starts == MOST_STARTS or step >= self.last:
                return self.x[rows]
            self._start(step * turns)
        while self._results is not None and self._turn // turns == step:
            found, levels = next(self._results)
            self._turn += 1
            if np.array_equal(found, rows.numpy()):
                return scaled(torch.from_numpy(levels))
        self._starts = MOST_STARTS
        self.close()
        return self.x[rows]

    def close(self) -> None:
        """Stop the workers; a later call starts them again."""
        if isinstance(self._results, Generator):
            self._results.close()
        self._results, self._turn = None, -1

    def _start(self, turn: int) -> None:
        self.close()
        self._starts += 1
        coming = range(turn, self.last * self.reads.turns)
        self._results, self._turn = in_order(partial(_read, self.x, self.reads), coming, self.workers), turn


def _read(x: Rows, reads: Reads, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a read and their images as uint8, a quarter of the bytes of float32 to send between processes."""
    rows = reads.rows(turn)
    return rows.numpy(), x.levels(rows).numpy()
