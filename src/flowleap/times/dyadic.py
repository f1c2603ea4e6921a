"""Dyadic steps d = 2^−b: all sizes at once (shortcut models), or level after level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.interfaces import Draw, Lands, TimeLaw
from flowleap.randomness import RowGenerator
from flowleap.times.grid import cells, check_base, reach, stage
from flowleap.times.laws import Law

__all__ = ["Curriculum", "DyadicGrid", "Halving"]


@dataclass(frozen=True)
class DyadicGrid(TimeLaw):
    """Jumps of d = 2^−b, b = 0 … log2(N) − 1, from multiples of d, in two halves; N = `base_steps`.

    r = t − d, s = t − d/2, t = 1 − j d with j uniform on {0, …, 2^b − 1}; times below the path's t_min are raised.

    Args:
        share: the share of rows that jump (k = 1/4 in the paper, 1/8 in its code).
        base_steps: N, a power of two: the number of steps of the finest sampler.
        quotas: a fixed number of rows per jump size (the remainder goes to d = 1); False draws each row's size.
        law: the law of t on the diagonal rows; None draws it on the grid {1/N, …, 1}.
        anywhere: jumps start at any multiple of 1/N from d to 1, not of d alone.

    Raises: ValueError for a base that is no power of two, or a batch too small for one row per jump size.
    Source: Frans et al. 2024 (arXiv 2410.12557) algorithm 1; the quotas are its code's (kvfrans/shortcut-models);
    `anywhere` is that of EDAPINENUT/ExplicitShortCut.
    """

    share: float = 0.25
    base_steps: int = 128
    quotas: bool = False
    law: Law | None = None
    anywhere: bool = False
    lands: ClassVar[Lands] = "anywhere"
    halves: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        check_base(self, self.base_steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"DyadicGrid(share={self.share}): a share of the rows in (0, 1] is expected")

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.law is None else reach((0.0, 1.0), self.law.support)

    @property
    def has_diagonal(self) -> bool:
        return self.share < 1

    @property
    def levels(self) -> int:
        """The number of jump sizes, log2(N)."""
        return self.base_steps.bit_length() - 1

    @property
    def finest(self) -> float:
        return 1 / self.base_steps

    def exponents(self, generator: RowGenerator, jumps: int) -> Tensor:
        """Return b of each row, the first `jumps` of which jump: quotas from fine to coarse, or uniform."""
        if not self.quotas:
            return generator.integers(self.levels)
        each = jumps // self.levels
        return (self.levels - 1 - generator.rows // each).clamp_min(0)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        size = generator.total
        jumps = int(size * self.share)
        least = self.levels if self.quotas else 1
        if jumps < least:
            raise ValueError(
                f"a batch of {size} leaves {jumps} rows for jumps (share {self.share:g}), fewer than the {least} that "
                f"{self.levels} jump sizes with quotas={self.quotas} need: use a batch of at least "
                f"{math.ceil(least / self.share)}, a larger share, or quotas=False"
            )
        count = 2.0 ** self.exponents(generator, jumps)
        jump = 1 / count
        starts = self.base_steps * (1 - jump) + 1 if self.anywhere else count
        start = (generator.uniform() * starts).float().floor().minimum(starts - 1)
        start = start / self.base_steps if self.anywhere else start * jump
        on_diagonal = cells(generator, self.base_steps)[0] if self.law is None else self.law.sample(generator)
        t, s, r = (
            torch.where(generator.rows < jumps, 1 - start - part * jump, on_diagonal) for part in (0, 0.5, 1)
        )
        return Draw(t, s, r, jumps)


@dataclass(frozen=True)
class Curriculum(TimeLaw):
    """The whole batch on steps of d = 2^−b of a line to the data, from coarse to fine: t → s = t − d, r = 0.

    b = 0, 1, …, log2(N) − 1 in equal stages of the run; t = (j + 1) d with j uniform on {0, …, 2^b − 1}. In the first
    stage t = 1 and s = r = 0.

    Args:
        base_steps: N, a power of two; the last stage steps by 2/N.

    Raises: ValueError for a base that is no power of two.
    Source: the consistency-training baseline of Frans et al. 2024 (arXiv 2410.12557), kvfrans/shortcut-models.
    """

    base_steps: int = 128
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        check_base(self, self.base_steps)

    @property
    def levels(self) -> int:
        """The number of levels, log2(N)."""
        return self.base_steps.bit_length() - 1

    @property
    def horizon(self) -> float | None:
        """When the last level begins, as a fraction of the run."""
        return (self.levels - 1) / self.levels or None

    def level(self, progress: float) -> int:
        """Return b once this fraction of the run has passed."""
        return stage(progress, self.levels)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t, s = cells(generator, 2 ** self.level(progress))
        return Draw(t, s, torch.zeros_like(t), generator.total)


@dataclass(frozen=True)
class Halving(TimeLaw):
    """The whole batch on jumps of d = 2^−b in two halves, from fine to coarse: t → s = t − d/2 → r = t − d.

    b = log2(N) − 1, …, 1, 0 in equal stages of the run, so that each level halves the steps of the one before it;
    t = (j + 1) d with j uniform on {0, …, 2^b − 1}.

    Args:
        base_steps: N, a power of two: the steps of the teacher.

    Raises: ValueError for a base that is no power of two.
    Source: Salimans and Ho 2022 (arXiv 2202.00512); the stages are those of the baseline of Frans et al. 2024
    (arXiv 2410.12557), kvfrans/shortcut-models.
    """

    base_steps: int = 128
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    lands: ClassVar[Lands] = "next"
    halves: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("salimans2022progressive", "frans2024one")

    def __post_init__(self) -> None:
        check_base(self, self.base_steps)

    @property
    def levels(self) -> int:
        """The number of levels, log2(N)."""
        return self.base_steps.bit_length() - 1

    @property
    def taught_levels(self) -> int:
        return self.levels

    @property
    def finest(self) -> float:
        return 1 / self.base_steps

    @property
    def horizon(self) -> float | None:
        """When the last level begins, as a fraction of the run."""
        return (self.levels - 1) / self.levels or None

    def level(self, progress: float) -> int:
        """Return b once this fraction of the run has passed."""
        return self.levels - 1 - stage(progress, self.levels)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t, r = cells(generator, 2 ** self.level(progress))
        return Draw(t, (t + r) / 2, r, generator.total)
