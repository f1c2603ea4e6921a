"""Annealed: consistency over steps that shrink in the course of a run, at last the Eulerian identity. α-Flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from flowleap.derivatives import Auto, Derivative
from flowleap.flow_map import FlowMap
from flowleap.interfaces import Composition, Identity, TimeLaw
from flowleap.objectives.consistency import Consistency
from flowleap.objectives.eulerian import Eulerian
from flowleap.point import Point, Target
from flowleap.tensors import Image

__all__ = ["Annealed"]


@dataclass(frozen=True)
class Annealed(Identity):
    """Consistency while the first step t → s has a length, and its limit, the Eulerian identity, once it has none.

    For the average velocity on the linear path and s = t − α(t − r), the target is α v + (1 − α) u(x_s, s, r): at α = 1
    the velocity itself on rows r < t, too; and (u − target)/α tends to the Eulerian residual u − v + (t − r) du/dt as
    α → 0. Which of the two a step takes is one choice for all its rows r < t: times shrink the step of all at once.

    Args:
        derivative, weighting: those of `Eulerian`.
        keep_labels: rows r < t never lose their label; False drops theirs too.

    Exact for: any exact flow map, where the step t → s is exact.
    Looks at the times on the CPU.
    Source: Zhang et al. 2025 (arXiv 2510.20771), α-Flow, with `Split(at=SigmoidSchedule(1, 0, slope=25, snap=0.005))`.
    """

    derivative: Derivative = Auto()
    weighting: str = "unit"
    keep_labels: bool = False
    asks_step: ClassVar[bool] = True
    template: ClassVar[Mapping[str, str]] = {
        "model type": "discrete, then continuous",
        "first step t → s": "DDIM, {velocity} velocity",
        "second step s → r": "{output}, frozen; none where s = r",
        "one-step prediction": "{output}",
    }
    cites: ClassVar[tuple[str, ...]] = ("zhang2025alphaflow", "geng2025mean", "song2023consistency")

    def __post_init__(self) -> None:
        _ = self.continuous  # which refuses an unknown weighting

    @property
    def discrete(self) -> Consistency:
        """The identity of steps that have a length."""
        return Consistency(keep_labels=self.keep_labels)

    @property
    def continuous(self) -> Eulerian:
        """The identity of those that have none."""
        return Eulerian(self.derivative, weighting=self.weighting)

    def regresses_pairs(self, times: TimeLaw) -> bool:
        return self.discrete.regresses_pairs(times)

    def refusal(self, o: Composition) -> str | None:
        return self.discrete.refusal(o) or self.continuous.refusal(o)

    def settled(self, flow: FlowMap, x: Image) -> tuple[Identity, str]:
        continuous, words = self.continuous.settled(flow, x)
        return replace(self, derivative=continuous.derivative), words

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        t, s, _ = point.times_on_cpu()
        identity = self.discrete if bool((s < t).any()) else self.continuous
        return identity(flow, frozen, point)
