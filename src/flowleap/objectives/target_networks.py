"""Target networks: the network itself, an average of it, a teacher copied at each stage, two networks in one.

| target network | targets of the rows r < t are made with                              | used by                   |
|----------------|----------------------------------------------------------------------|---------------------------|
| Self           | the network as it stands, without a gradient                         | MeanFlow, ESC, most       |
| EMA            | a moving average of its weights                                      | shortcut                  |
| GridEMA        | the same, whose decay follows a growing grid                         | consistency training      |
| Refreshed      | a teacher, then a copy of the student as each stage began            | progressive distillation  |
| FirstStage     | a finished map below a time, the network above it                    | TCM                       |
| AuxiliaryNetwork | another network, trained in alternation (`objectives.auxiliary`) | SiD                       |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch

from flowleap.flow_map import FlowMap, Network, dtype_of
from flowleap.interfaces import Composition, TargetNetwork, TimeLaw
from flowleap.networks.truncated import chosen
from flowleap.tensors import Image, Label, Time
from flowleap.times import stage

__all__ = ["EMA", "FirstStage", "GridEMA", "Refreshed", "Self"]


@dataclass(frozen=True)
class Self(TargetNetwork):
    """The frozen map of a target is the network as it stands (stop-gradient, decay 0)."""


@dataclass(frozen=True)
class EMA(TargetNetwork):
    """The frozen map of a target is a moving average: decay min(μ, (1 + k)/(10 + k)) after k updates.

    Source: Frans et al. 2024 (arXiv 2410.12557): μ = 0.999, without the warm-up, which is ours.
    """

    decay: float = 0.999
    copy: ClassVar[Literal["average"]] = "average"
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"EMA(decay={self.decay}): a decay in [0, 1) is expected")

    def at(self, updates: int) -> float:
        """Return the decay of the update after `updates` others."""
        return min(self.decay, (1 + updates) / (10 + updates))

    def decay_at(self, times: TimeLaw, updates: int, progress: float) -> float:
        return self.at(updates)


@dataclass(frozen=True)
class GridEMA(TargetNetwork):
    """The frozen map of a target is a moving average whose decay follows the grid: μ(k) = exp(s_0 ln μ_0 / N(k)).

    N(k) is the number of times of `times.NoiseGrid` at step k, and s_0 its `start`. Without the warm-up of `EMA`.

    Args:
        decay: μ_0.

    Source: Song et al. 2023 (arXiv 2303.01469): μ_0 = 0.9 or 0.95. Its code (openai/consistency_models) divides by
    N(k) − 1.
    """

    decay: float = 0.95
    copy: ClassVar[Literal["average"]] = "average"
    cites: ClassVar[tuple[str, ...]] = ("song2023consistency",)

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"GridEMA(decay={self.decay}): a decay in (0, 1) is expected")

    def decay_at(self, times: TimeLaw, updates: int, progress: float) -> float:
        grid = times.grid_points(progress)
        assert grid is not None, "refused without a grid"
        start, points = grid
        return math.exp(start * math.log(self.decay) / points)

    def refusal(self, o: Composition) -> str | None:
        if o.times.grid_points(0.0) is not None:
            return None
        return (
            f"GridEMA: its decay follows the grid of NoiseGrid, and the times are {type(o.times).__name__}: use "
            "EMA(0.999), or times=NoiseGrid()"
        )


@dataclass(frozen=True)
class Refreshed(TargetNetwork):
    """The frozen map of a target is a copy of the student's average, taken as each stage begins (first: the teacher).

    The run is cut into `stages` equal parts; the first is taught by the teacher itself.

    Args:
        stages: their number, one per level of the time law it goes with.
        teacher: the map of the first stage; None until `Objective.with_teacher` puts one in.

    Source: Salimans and Ho 2022 (arXiv 2202.00512), progressive distillation.
    """

    stages: int = 7
    teacher: FlowMap | None = field(default=None, repr=False)
    copy: ClassVar[Literal["snapshot"]] = "snapshot"
    holds_teacher: ClassVar[bool] = True
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
        return self.teacher is None

    def with_teacher(self, flow: FlowMap) -> Refreshed:
        return replace(self, teacher=flow)

    def stage(self, progress: float) -> int:
        return stage(progress, self.stages)

    def refusal(self, o: Composition) -> str | None:
        law, levels = type(o.times).__name__, o.times.taught_levels
        if o.times.lands == "nowhere":
            return None
        if levels is None:
            return (
                "Refreshed is a teacher that knows its velocity in the first stage and one level of jumps in each "
                f"other, and {law} has no levels: use times=Halving() with Refreshed(stages=…), or frozen=EMA(0.999)"
            )
        if levels != self.stages:
            return (
                f"{law} has {levels} levels and Refreshed {self.stages} stages, but each level is taught by the one "
                f"before it: use Refreshed(stages={levels})"
            )
        if o.steps is not None and o.steps < self.stages:
            least = f"it has {self.stages} stages, so at least {self.stages} steps are expected"
            return f"{o.name} in {o.steps} steps: {least}"
        return None

    def resolve(self, o: Composition, flow: FlowMap, given: FlowMap | None, progress: float) -> FlowMap:
        if self.teacher is None:
            raise ValueError(
                f"{o.name} is taught by a trained map, and none is given: use objective.with_teacher(flow)"
            )
        first = o.steps is not None and self.stage(progress) == 0
        return self.teacher if first else super().resolve(o, flow, given, progress)


@dataclass(frozen=True)
class FirstStage(TargetNetwork):
    """The frozen map of a target is the network as it stands, and below the boundary of its times a finished map.

    X_{s→r} of a target is that of the network where s ≥ t' and that of the teacher where s < t', t' = `times.boundary`.
    The network is trained on times from t' on, and its targets on the boundary come from the teacher, which is what
    keeps it from collapsing. `networks.Truncated` is both in one network, for sampling from any time.

    Args:
        taught_by: the method that a run trains its own first stage by.
        teacher: the finished map; None until `Objective.with_teacher` puts one in.

    Source: Lee et al. 2024 (arXiv 2410.14895): the first stage is a consistency model, frozen.
    """

    taught_by: str = "ect"
    teacher: FlowMap | None = field(default=None, repr=False)
    holds_teacher: ClassVar[bool] = True
    network_kind: ClassVar[str] = "Truncated"
    cites: ClassVar[tuple[str, ...]] = ("lee2024truncated",)

    @property
    def needs_teacher(self) -> bool:
        return self.teacher is None

    def with_teacher(self, flow: FlowMap) -> FirstStage:
        return replace(self, teacher=flow)

    def refusal(self, o: Composition) -> str | None:
        if not o.starts_from_teacher:
            return f"{o.name} keeps the weights of its first stage below the boundary: use starts_from_teacher=True"
        if o.times.boundary is not None:
            return None
        return f"FirstStage is frozen below a boundary, and {type(o.times).__name__} has none: use times=Truncation()"

    def resolve(self, o: Composition, flow: FlowMap, given: FlowMap | None, progress: float) -> FlowMap:
        """Return a map with the teacher below the boundary and the network above it."""
        if self.teacher is None:
            raise ValueError(
                "times above a boundary are learned from a finished first stage below it, and none is given: use "
                "objective.with_teacher(flow) with a trained consistency model"
            )
        above = super().resolve(o, flow, given, progress)
        boundary = o.times.boundary
        assert boundary is not None, "refused without a boundary"
        return above.with_network(_Composite(above.network, self.teacher.network, boundary))


@dataclass(frozen=True)
class _Composite:
    """One network above a boundary of times, another below it."""

    above: Network = field(repr=False)
    below: Callable[..., Image] = field(repr=False)
    boundary: float

    @property
    def guidance_input(self) -> bool:
        return getattr(self.above, "guidance_input", False)

    @property
    def num_classes(self) -> int | None:
        classes: int | None = getattr(self.above, "num_classes", None)
        return classes

    @property
    def dtype(self) -> torch.dtype | None:
        return dtype_of(self.above)

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        with torch.no_grad():
            return chosen(self.above, self.below, self.boundary, x, t, r, label)
