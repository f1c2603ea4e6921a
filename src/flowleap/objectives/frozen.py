"""Which copy of the network targets are made with: itself, an average, a teacher taken anew at each stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from flowleap.flow_map import FlowMap
from flowleap.times import stage

__all__ = ["EMA", "GridEMA", "Refreshed", "Self"]


@dataclass(frozen=True)
class Self:
    """The frozen map of a target is the network as it stands (stop-gradient, decay 0)."""


@dataclass(frozen=True)
class EMA:
    """The frozen map of a target is a moving average: decay min(μ, (1 + k)/(10 + k)) after k updates.

    Source: Frans et al. 2024 (arXiv 2410.12557): μ = 0.999, without the warm-up, which is ours.
    """

    decay: float = 0.999
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"EMA(decay={self.decay}): a decay in [0, 1) is expected")

    def at(self, updates: int) -> float:
        """Return the decay of the update after `updates` others."""
        return min(self.decay, (1 + updates) / (10 + updates))


@dataclass(frozen=True)
class GridEMA:
    """The frozen map of a target is a moving average whose decay follows the grid: μ(k) = exp(s_0 ln μ_0 / N(k)).

    N(k) is the number of times of `times.NoiseGrid` at step k, and s_0 its `start`. Without the warm-up of `EMA`.

    Args:
        decay: μ_0.

    Source: Song et al. 2023 (arXiv 2303.01469): μ_0 = 0.9 or 0.95. Its code (openai/consistency_models) divides by
    N(k) − 1.
    """

    decay: float = 0.95
    cites: ClassVar[tuple[str, ...]] = ("song2023consistency",)

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"GridEMA(decay={self.decay}): a decay in (0, 1) is expected")

    def at(self, start: int, points: int) -> float:
        """Return μ where the grid began with `start` and has so many `points`."""
        return math.exp(start * math.log(self.decay) / points)


@dataclass(frozen=True)
class Refreshed:
    """The frozen map of a target is a teacher's copy, taken anew from the student's average as each stage begins.

    The run is cut into `stages` equal parts; the first is taught by the teacher itself.

    Args:
        stages: their number, one per level of the time law it goes with.
        teacher: the map of the first stage; None until `Objective.with_teacher` puts one in.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), progressive distillation.
    """

    stages: int = 7
    teacher: FlowMap | None = field(default=None, repr=False)
    cites: ClassVar[tuple[str, ...]] = ("salimans2022progressive",)

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"Refreshed(stages={self.stages}): at least one stage is expected")

    @property
    def horizon(self) -> float | None:
        """When the last stage begins, as a fraction of the run."""
        return (self.stages - 1) / self.stages or None

    @property
    def needs_teacher(self) -> bool:
        """Whether the map of the first stage is missing."""
        return self.teacher is None

    def with_teacher(self, flow: FlowMap) -> Refreshed:
        """Return the same with this map in the first stage."""
        return replace(self, teacher=flow)

    def stage(self, progress: float) -> int:
        """Return the stage, 0 … stages − 1, at which a run is once this fraction of it has passed."""
        return stage(progress, self.stages)
