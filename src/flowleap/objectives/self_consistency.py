"""Self-consistency: one jump equals two, X_{t→r} = X_{s→r} ∘ X_{t→s}. Shortcut models, interval splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flowleap.flow_map import FlowMap
from flowleap.guidance import guided_output
from flowleap.interfaces import Composition, Identity, TimeLaw
from flowleap.objectives.diagonal import singular
from flowleap.point import Point, Target
from flowleap.tensors import Image, Label, Time

__all__ = ["SelfConsistency"]


@dataclass(frozen=True)
class SelfConsistency(Identity):
    """F* = the output whose jump lands where two frozen jumps land: X_{s→r}(X_{t→s}(x_t)).

    On the linear path with the average velocity this is F* = ½ (u(x_t, t, s) + u(x_s, s, r)) for s half-way.
    Jumps no longer than `point.finest` ask the network on the diagonal, u(x, t, t), as shortcut models do.

    Args:
        clip: bound on |F*| and on |x_s| as the second jump's network sees it (4 in the shortcut code, for its latents);
            x_s itself stays where it is, so that F* is the mean of two outputs there too. None for none.
        keep_labels: rows that jump never lose their label (as in the shortcut code); False drops theirs too.

    `guidance=FinestLevel(w)` of the objective guides the finest jumps, which all others inherit.

    Exact for: any exact flow map, where no jump is at the finest level.
    Source: Frans et al. 2024 (arXiv 2410.12557) eq. 4.
    """

    clip: float | None = None
    keep_labels: bool = True
    asks_step: ClassVar[bool] = True
    one_landing: ClassVar[bool] = False
    guides_jumps: ClassVar[bool] = True
    template: ClassVar[dict[str, str]] = {
        "model type": "discrete",
        "first step t → s": "{output}, frozen",
        "second step s → r": "{output}, frozen",
        "one-step prediction": "{output}",
    }
    cites: ClassVar[tuple[str, ...]] = ("frans2024one",)

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"SelfConsistency(clip={self.clip}): a positive bound is expected, or None")

    def refusal(self, o: Composition) -> str | None:
        found = None if o.times.lands == "nowhere" else self._untrained(o.times)
        if found is None and o.times.taught_levels is not None and o.frozen.copy != "snapshot":
            return (
                f"{type(o.times).__name__} trains one level of jumps at a time, which the level before it teaches: use "
                f"frozen=Refreshed(stages={o.times.taught_levels})"
            )
        return found or singular(self, o, o.parameterization.euler_refusal(o.path))

    @staticmethod
    def _untrained(times: TimeLaw) -> str | None:
        """Return which of the two jumps no row of these times trains, or None."""
        law = type(times).__name__
        rather = "use times=DyadicGrid(), or target=Consistency(), whose first step is made with a velocity"
        if not times.has_stop:
            return (
                f"SelfConsistency makes two jumps of one, and {law} has s = r: its second jump goes nowhere, and rows "
                f"are regressed onto themselves: {rather}"
            )
        if not times.always_stops:
            return (
                f"SelfConsistency makes two jumps of one, and some rows of {law} have s = r, whose second jump goes "
                f"nowhere: {rather}"
            )
        if times.lands == "data":
            return (
                f"SelfConsistency asks for jumps t → s that end above the data, and {law} trains jumps to the data "
                f"only: {rather}"
            )
        if not times.has_diagonal and times.taught_levels is None:
            return (
                f"SelfConsistency compares jumps with jumps, and no row of {law} has r = t to say where they lead: use "
                "times with such rows, as DyadicGrid with share < 1"
            )
        return None

    @torch.no_grad()
    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p, label = point, point.network_label(frozen.num_classes)
        x_s = self._jump(frozen, p, p.x_t, p.t, p.s, label)
        x_r = self._jump(frozen, p, x_s, p.s, p.r, label, seen=self._clipped(x_s))
        return Target(self._clipped(flow.output_for(x_r, p.x_t, p.t, p.r)))

    def _jump(
        self, frozen: FlowMap, p: Point, x: Image, t: Time, r: Time, label: Label, seen: Image | None = None
    ) -> Image:
        """Return where the jump t → r leads from x, by the output at x, or at `seen` in its place."""
        seen = x if seen is None else seen
        instant = (t - r) <= 1.001 * p.finest
        asked = torch.where(instant, t, r)
        rows = p.guided
        if p.jump_scale == 1 or rows is None or len(rows) == 0 or label is None:
            return frozen.step(frozen.output(seen, t, asked, label), x, t, r)
        output = guided_output(frozen, p.jump_scale, rows, seen, t, asked, label)
        return frozen.step(output, x, t, r)

    def _clipped(self, x: Image) -> Image:
        return x if self.clip is None else x.clamp(-self.clip, self.clip)
