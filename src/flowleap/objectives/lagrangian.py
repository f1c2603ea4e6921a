"""The Lagrangian identity: a jump moves with the flow where it lands, ∂_r X_{t→r}(x) = v(X_{t→r}(x), r). LSD, TVM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from flowleap.derivatives import Auto, Derivative
from flowleap.flow_map import FlowMap, dtype_of
from flowleap.interfaces import Composition, Identity
from flowleap.networks import dropout
from flowleap.objectives.diagonal import singular
from flowleap.objectives.settling import settled
from flowleap.point import Point, Target
from flowleap.tensors import Image, Label, Time, repeated, squared_norm
from flowleap.velocities import Own, Teacher

__all__ = ["Lagrangian"]


@dataclass(frozen=True)
class Lagrangian(Identity):
    """∂_r X_{t→r}(x_t), the derivative of the jump in its landing time, is regressed onto sg v(X_{t→r}(x_t), r).

    For the average velocity on any path: u − (t − r) ∂_r u = v(x_t − (t − r) u, r). The gradient runs through F and
    through ∂_r F; the velocity, and the point X_{t→r}(x_t) that it is taken at, have none. No derivative is taken in x.
    Both sides are written as outputs with these velocities at (x_t, t), so that the rows r = t fit in as they are:
    F = (velocity − ∂_r a·x_t)/∂_r b, a and b at r = t.

    Nothing here compares a jump with data: the rows r = t teach the velocity, and this identity carries it on.

    Args:
        derivative: how ∂_r is taken; where it is differentiated in turn, forward mode keeps its graph.
        terminal: the velocity where a jump lands: `Own()`, that of the network which targets are made with, or a
            teacher's, which is Lagrangian map distillation.

    Exact for: every path and parameterization whose velocity is finite down to t_min.
    Source: Boffi et al. 2025 (arXiv 2505.18825), Lagrangian self-distillation; Boffi et al. 2024 (arXiv 2406.07507),
    with a teacher; the terminal term of Zhou et al. 2025 (arXiv 2511.19797), with `frozen=EMA(0.99)`.
    """

    derivative: Derivative = Auto()
    terminal: Own | Teacher = Own()
    one_landing: ClassVar[bool] = False
    differentiates_derivative: ClassVar[bool] = True
    template: ClassVar[dict[str, str]] = {
        "model type": "continuous, derivative in r",
        "first step t → s": "{output}, stopped, to s = r",
        "second step s → r": "velocity of the frozen map at r",
        "one-step prediction": "derivative of {output} in r",
    }
    cites: ClassVar[tuple[str, ...]] = ("boffi2025build", "boffi2024flow")

    @property
    def asks_velocity(self) -> tuple[str, str] | None:
        return ("terminal=Own()", "terminal=Teacher()") if self.terminal.own else None

    @property
    def driven(self) -> bool:
        return self.terminal.own

    def predicts(self, own: bool) -> bool:
        return True

    def refusal(self, o: Composition) -> str | None:
        law = type(o.times).__name__
        if o.times.lands == "nowhere":
            return None
        if o.times.lands != "anywhere" or o.times.finest > 0:
            return (
                f"Lagrangian follows a jump as its landing time changes, and {law} does not land at every time between "
                "t and the data: use times=SortedPair(diagonal=0.75)"
            )
        if self.terminal.own and not o.times.has_diagonal:
            return (
                f"Lagrangian(terminal=Own()) takes its velocity from the network, and no row of {law} has r = t to "
                "learn that from data: use SortedPair(diagonal=0.75), or terminal=Teacher()"
            )
        return singular(self, o, self._infinite(o))

    @staticmethod
    def _infinite(o: Composition) -> str | None:
        """Return where the velocity of the network is infinite, or None."""
        end = torch.full((1,), o.path.t_min, dtype=torch.float64)
        if all(bool(rate.isfinite().all()) for rate in o.parameterization.landing_rates(o.path, end)):
            return None
        return (
            f"it gives no finite velocity at t = {o.path.t_min:g}, near which jumps land: use AverageVelocity() or "
            "Velocity()"
        )

    def settled(self, flow: FlowMap, x: Image) -> tuple[Lagrangian, str]:
        derivative, reason = settled(self.derivative, flow, x, _along_the_landing)
        return replace(self, derivative=derivative), f"dX/dr by {reason}"

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p, label = point, point.network_label(flow.num_classes)
        with dropout.keyed(p.keys):
            landed, rate = _landing(self.derivative, flow, p.x_t, p.t, p.r, label)
        with dropout.keyed(p.keys), torch.no_grad():
            x_r = flow(p.x_t, p.t, p.r, label) if landed is None else landed
            v = self._velocity(frozen, x_r, p)
            value = flow.output_of_velocity(v, p.x_t, p.t)
            norm = squared_norm(rate, "mean").sqrt()
        return Target(value, flow.output_of_velocity(rate, p.x_t, p.t), norm)

    def _velocity(self, frozen: FlowMap, x: Image, p: Point) -> Image:
        """Return the velocity at points x at the landing times."""
        if self.terminal.needs_teacher:
            raise ValueError(
                "Lagrangian(terminal=Teacher()) follows the velocity of a trained map, and none is given: use "
                "objective.with_teacher(flow), or terminal=Own()"
            )
        field = self.terminal.map(frozen)
        return field.velocity(x, p.r, label=p.network_label(field.num_classes))


def _landing(
    derivative: Derivative, flow: FlowMap, x: Image, t: Time, r: Time, label: Label
) -> tuple[Image | None, Image]:
    """Return X_{t→r}(x), where the derivative comes with it, and ∂_r X_{t→r}(x), both with a graph."""

    def jump(x: Image, r: Time) -> Image:
        return flow(x, repeated(t, x), r, repeated(label, x))

    still, kind = torch.zeros_like(x), dtype_of(flow.network)
    domain = (flow.path.t_min, t)
    return derivative(jump, x, r, still, domain=domain, curve=lambda r: x, kind=kind, graph=True)


def _along_the_landing(
    derivative: Derivative, flow: FlowMap, x: Image, t: Time, r: Time, label: Label, along: Image
) -> Image:
    """Return ∂_r X_{t→r}(x), and the gradient of its sum in x, which a loss of it asks for."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        rate = _landing(derivative, flow, x, t, r, label)[1]
        slope = torch.autograd.grad(rate.sum(), x)[0]
    return torch.cat([rate.detach(), slope])
