"""Steps of an equally spaced grid: to its next point, to the data, along a trajectory, the steps of a solver."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from flowleap.interfaces import Composition, Draw, Lands, TimeLaw
from flowleap.randomness import RowGenerator
from flowleap.times.grid import below, cells, check_count, reach, spaced
from flowleap.times.laws import Law, LogitNormal

__all__ = ["Adjacent", "Intervals", "ToData", "Trajectories"]


@dataclass(frozen=True)
class Adjacent(TimeLaw):
    """The whole batch on single steps of a fixed grid of a line to the data: t → s = t − 1/N, r = 0.

    t = (j + 1)/N with j uniform on {0, …, N − 1}.

    Args:
        base_steps: N, at least one.

    Source: the consistency-distillation baseline of Frans et al. 2024 (arXiv 2410.12557), kvfrans/shortcut-models.
    """

    base_steps: int = 128
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        check_count(self, self.base_steps)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t, s = cells(generator, self.base_steps)
        return Draw(t, s, torch.zeros_like(t), generator.total)


@dataclass(frozen=True)
class ToData(TimeLaw):
    """A share of the rows jumps to the data in one step, s = r = 0 from t = k/N; the others have r = t.

    Args:
        share: the share of rows that jump, rounded down to whole rows.
        base_steps: N: k is uniform on {1, …, N}.
        law: the law of t on the diagonal rows; None draws it on the grid {1/N, …, 1}.

    Raises: ValueError for a batch too small for one row that jumps.
    Source: the live-reflow baseline of Frans et al. 2024 (arXiv 2410.12557), kvfrans/shortcut-models: an eighth.
    """

    share: float = 1 / 8
    base_steps: int = 128
    law: Law | None = None
    has_stop: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        check_count(self, self.base_steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"ToData(share={self.share}): a share of the rows in (0, 1] is expected")

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.law is None else reach((0.0, 1.0), self.law.support)

    @property
    def has_diagonal(self) -> bool:
        return self.share < 1

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        jumps = int(generator.total * self.share)
        if jumps < 1:
            raise ValueError(
                f"a batch of {generator.total} leaves no row to jump (share {self.share:g}): use a batch of at least "
                f"{math.ceil(1 / self.share)}, or a larger share"
            )
        jumping = generator.rows < jumps
        t, _ = cells(generator, self.base_steps)
        if self.law is not None:
            t = torch.where(jumping, t, self.law.sample(generator))
        r = torch.where(jumping, 0.0, t)
        return Draw(t, r, r, jumps)


@dataclass(frozen=True)
class Intervals(TimeLaw):
    """The whole batch on the intervals of the grid of a solver, in equal shares: from t straight to r, s = r.

    A solver of N network evaluations takes two on an interval of 2/N of the way, so that every other time of the grid
    of N steps is a stop. Where N is odd the last 1/N has a single evaluation, which leaves nothing to learn, and no
    rows.

    Args:
        steps: N, from 3 to 10.
        low, high: the ends of the path, which the grid is that of `spaced` between; [0.002, 80] for noise levels.

    Raises: ValueError for another number of evaluations, or ends that are not 0 ≤ low < high.
    Source: Zhou et al. 2023 (arXiv 2312.00094). Published odd budgets save the first evaluation of all instead, by an
    analytic first step.
    """

    steps: int = 4
    low: float = 0.0
    high: float = 1.0
    lands: ClassVar[Lands] = "next"
    has_stop: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = ("zhou2023fast",)

    def __post_init__(self) -> None:
        if not 3 <= self.steps <= 10:
            raise ValueError(
                f"Intervals(steps={self.steps}): a solver is learned for 3 to 10 network evaluations, such as steps=4"
            )
        if not 0 <= self.low < self.high:
            raise ValueError(f"Intervals(low={self.low}, high={self.high}): 0 ≤ low < high is expected")

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def finest(self) -> float:
        """One interval as a share of the way."""
        return 2 / self.steps

    def refusal(self, o: Composition) -> str | None:
        path = o.path
        if abs(self.high - path.t_max) <= 1e-6 * path.t_max and self.low <= path.t_min:
            return None
        return (
            f"Intervals(low={self.low:g}, high={self.high:g}) are not the ends of {type(path).__name__}, whose solver "
            f"goes from {path.t_max:g} to {path.t_min:g}: use Intervals(low={path.t_min:g}, high={path.t_max:g})"
        )

    @property
    def solver_steps(self) -> int:
        return self.steps

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        grid = torch.tensor(spaced(self.high, self.low, self.steps)[::2])
        count = self.steps // 2
        first = int(generator.common() * count)  # a batch may be smaller than the grid
        place = (generator.rows + first) % count
        return Draw(grid[place], grid[place + 1], grid[place + 1], generator.total)


@dataclass(frozen=True)
class Trajectories(TimeLaw):
    """A share of the rows on t > s ≥ r of a grid of N equal steps, n of them from t to s; the others have r = t.

    P(n) ∝ n on {1, …, longest}; t = i/N with i uniform on {n, …, N}, s = (i − n)/N, r = j/N with j uniform on
    {0, …, i − n}.

    Published are 18 times of Karras' grid of noise levels for small images and 40 for larger ones, as many steps at
    most, and one n for a whole batch. Here steps are equal, which leaves a smaller error of the solver on the linear
    path, and each row draws an n of its own. With the 8 by default, 1, 2, 4 and 8 equal steps of sampling are on the
    grid, and training costs 9 forward-equivalents an image rather than the 16 of 17 steps; larger images want more.

    Args:
        share: the share of rows on the grid, rounded down to whole rows.
        base_steps: N.
        longest: the largest n, None for N; the mean is (2 longest + 1)/3, and each step costs two evaluations.
        law: the law of t on the rows r = t.

    Raises: ValueError for a batch too small for one row on the grid.
    Source: Kim et al. 2023 (arXiv 2310.02279), and its code (sony/ctm) for the three laws.
    """

    share: float = 0.5
    base_steps: int = 8
    longest: int | None = None
    law: Law = LogitNormal(-0.4, 1.0)
    lands: ClassVar[Lands] = "anywhere"
    always_stops: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = ("kim2023consistency",)

    def __post_init__(self) -> None:
        check_count(self, self.base_steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"Trajectories(share={self.share}): a share of the rows in (0, 1] is expected")
        if self.longest is not None and not 1 <= self.longest <= self.base_steps:
            raise ValueError(
                f"Trajectories(longest={self.longest}): between 1 and base_steps={self.base_steps} steps are expected, "
                "or None for all of them"
            )

    @property
    def support(self) -> tuple[float, float]:
        return reach((0.0, 1.0), self.law.support)

    @property
    def has_diagonal(self) -> bool:
        return self.share < 1

    @property
    def finest(self) -> float:
        return 1 / self.base_steps

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        rows = int(generator.total * self.share)
        if rows < 1:
            raise ValueError(
                f"a batch of {generator.total} leaves no row on the grid (share {self.share:g}): use a batch of at "
                f"least {math.ceil(1 / self.share)}, or a larger share"
            )
        weights = torch.arange(1.0, (self.longest or self.base_steps) + 1)
        steps = 1 + generator.choice(weights)
        stop = below(generator, self.base_steps - steps)
        landing = below(generator, stop)
        grid = (torch.stack([stop + steps, stop, landing]) / self.base_steps).unbind()
        diagonal = self.law.sample(generator)
        t, s, r = (torch.where(generator.rows < rows, on_grid, diagonal) for on_grid in grid)
        return Draw(t, s, r, rows)
