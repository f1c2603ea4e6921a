"""Consistency: two points of one flow line lead to the same end, X_{t→r}(x_t) = X_{s→r}(x_s). CT, CD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flowleap.flow_map import FlowMap
from flowleap.interfaces import Composition, Identity, TimeLaw
from flowleap.networks import dropout
from flowleap.point import Point, Target
from flowleap.tensors import Image, like

__all__ = ["SHORT", "Consistency"]

SHORT = 'Adjacent(128), NoiseGrid(clock="linear") or Ratio(clock="linear") to the data, Particles() anywhere'
"""Times with short steps t → s, for messages."""


@dataclass(frozen=True)
class Consistency(Identity):
    """F* = the output whose jump t → r lands where the frozen map takes the next point s on the line: X_{s→r}(x_s).

    x_s = a x_t + b v is the path's DDIM step with the velocity that drives the target. With the pair's own velocity
    (`Conditional`) it is the exact point of the same pair, which is consistency training; with a teacher's
    (`Teacher`) it is one step of the teacher, which is consistency distillation. Where s = r the frozen map is not
    asked and the target is plain regression of the end of the pair: on the linear path F* = v.

    Args:
        space: "output" compares F with F*; "map" compares the points X_{t→r}(x_t) and X_{s→r}(x_s) themselves, as
            consistency models do.
        keep_labels: rows r < t never lose their label; False drops theirs too.

    Exact for: any exact flow map, where the step t → s is exact. A teacher's step is of order (t − s)², so that the
    fixed point of a chain of steps h differs from the teacher's flow by O(h).
    Source: Song et al. 2023 (arXiv 2303.01469), consistency distillation and training, for any path and landing time.
    """

    space: str = "output"
    keep_labels: bool = True
    asks_step: ClassVar[bool] = True
    template: ClassVar[dict[str, str]] = {
        "model type": "discrete",
        "first step t → s": "DDIM, {velocity} velocity",
        "second step s → r": "{output}, frozen; none where s = r",
        "one-step prediction": "{output}",
    }
    cites: ClassVar[tuple[str, ...]] = ("song2023consistency",)

    def __post_init__(self) -> None:
        if self.space not in ("output", "map"):
            raise ValueError(f'Consistency(space={self.space!r}): expected "output" or "map"')

    def regresses_pairs(self, times: TimeLaw) -> bool:
        return not times.has_stop

    def refusal(self, o: Composition) -> str | None:
        law = type(o.times).__name__
        if o.times.lands == "nowhere":
            return None
        if o.times.finest > 0:
            return (
                "Consistency makes its first step t → s at once with the velocity, and the steps of "
                f"{law} are up to half of the way or more, where that leaves the flow: use target=SelfConsistency() or "
                f"Trajectory(), or times such as {SHORT}"
            )
        tied = o.coupling.ties_noise and not o.velocity.marginal
        if o.times.has_stop or tied:
            return None
        return (
            f"Consistency on {law}, which has s = r, regresses the end of one step with the velocity, whose mean is "
            "the mean of the data and no point of the flow, unless noise and data are tied: use coupling=LivePairs() "
            f"or StoredPairs() with velocity=Conditional(), times such as {SHORT}, or target=Eulerian()"
        )

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p = point
        with torch.no_grad():
            x_r = self._landing(frozen, p)
        if self.space == "output":
            return Target(flow.output_for(x_r, p.x_t, p.t, p.r))
        assert p.output is not None
        return Target(x_r, flow.step(p.output, p.x_t, p.t, p.r), space="map")

    def _landing(self, frozen: FlowMap, p: Point) -> Image:
        """Return X_{s→r}(x_s), and x_s itself where s = r."""
        rows = p.onward
        assert p.v is not None and rows is not None
        a, b = frozen.path.transfer(p.t, p.s)
        x_s = like(a, p.x_t) * p.x_t + like(b, p.x_t) * p.v
        if not len(rows):
            return x_s
        label = p.network_label(frozen.num_classes)
        with dropout.only(rows):
            landed = frozen(x_s[rows], p.s[rows], p.r[rows], None if label is None else label[rows])
        return x_s.index_copy(0, rows, landed.to(x_s.dtype))
