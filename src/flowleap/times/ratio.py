"""Pairs s < t whose ratio s/t rises in stages: s = 0 at first, which is denoising, then s → t. ECT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.interfaces import Composition, Draw, TimeLaw
from flowleap.paths import VEPath
from flowleap.randomness import RowGenerator
from flowleap.times.clocks import check_clock, clock_refusal, times_of
from flowleap.times.grid import stage
from flowleap.times.laws import LogNormal

__all__ = ["Ratio"]


@dataclass(frozen=True)
class Ratio(TimeLaw):
    """The whole batch on a noise level t and a lower one s, to the data, r = 0: s = t · max(0, 1 − n(t)/q^{stage + 1}).

    n(t) = 1 + k/(1 + e^{bt}) reaches further at low levels. Stages are equal parts of the run. With the default numbers
    s = 0 for t ≤ ln 7 in stage 0, and the largest step of the last stage is 1 − s/t = 5/256.

    Args:
        law: the law of t; levels above `high` are lowered to it.
        base: q. stages: their number, 1 to keep the first.
        reach, slope: k and b.
        high: the highest level.
        clock: "levels": times are noise levels, on `VEPath(t_min=0.0)`. "trigonometric", "linear": the times at which
            those paths have these ratios of noise to signal.

    Raises: ValueError for numbers out of range.
    Source: Geng et al. 2024 (arXiv 2406.14548), easy consistency tuning, and its code (locuslab/ect) for q = 2, k = 8,
    b = 1. There is no highest level there, and stages last 250 or 500 ticks of 12,800 images.
    """

    law: LogNormal = LogNormal(-1.1, 2.0)
    base: float = 2.0
    stages: int = 8
    reach: float = 8.0
    slope: float = 1.0
    high: float = 80.0
    clock: str = "levels"
    cites: ClassVar[tuple[str, ...]] = ("geng2024consistency",)

    def __post_init__(self) -> None:
        check_clock(self, self.clock)
        if not (self.base > 1 and self.stages >= 1):
            raise ValueError(
                f"Ratio(base={self.base}, stages={self.stages}): a base above 1 and at least one stage are expected"
            )
        if not (self.reach >= 0 and self.slope >= 0 and self.high > 0):
            raise ValueError(
                f"Ratio(reach={self.reach}, slope={self.slope}, high={self.high}): reach and slope from 0 up and a "
                "positive highest level are expected"
            )

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, self.high) if self.clock == "levels" else (0.0, 1.0)

    @property
    def highest(self) -> float:
        """The highest time that is drawn, above which nothing is trained."""
        return float(times_of(torch.tensor(self.high, dtype=torch.float64), self.clock))

    @property
    def horizon(self) -> float | None:
        """When the last stage begins, as a fraction of the run."""
        return (self.stages - 1) / self.stages or None

    def refusal(self, o: Composition) -> str | None:
        path = o.path
        if (
            self.clock == "levels"
            and isinstance(path, VEPath)
            and (path.t_min, path.t_max) != (0.0, self.high)
        ):
            return (
                f"Ratio steps down to noise level 0 from up to {self.high:g}, and {type(path).__name__} goes from "
                f"{path.t_min:g} to {path.t_max:g}: use VEPath(t_min=0.0, t_max={self.high:g})"
            )
        return clock_refusal(self, self.clock, path)

    def stage(self, progress: float) -> int:
        """Return the stage, 0 … stages − 1, once this fraction of the run has passed."""
        return stage(progress, self.stages)

    def ratio(self, levels: Tensor, progress: float) -> Tensor:
        """Return s/t at noise levels t, like them."""
        nearer = 1 + self.reach * torch.sigmoid(-self.slope * levels)
        return (1 - nearer / self.base ** (self.stage(progress) + 1)).clamp_min(0.0)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        levels = self.law.sample(generator).double().clamp_max(self.high)
        nearer = levels * self.ratio(levels, progress)
        t, s = (times_of(each, self.clock).float() for each in (levels, nearer))
        return Draw(t, s, torch.zeros_like(t), generator.total)
