"""The Eulerian identity: X_{t→r}(x_t) does not change along the flow, d/dt X_{t→r}(x_t) = 0. MeanFlow, ESC, sCM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flowleap.derivatives import Derivative, TwoPass
from flowleap.flow_map import FlowMap
from flowleap.point import Point, Target
from flowleap.tensors import like, squared_norm
from flowleap.velocities import VelocitySource

__all__ = ["Eulerian"]


@dataclass(frozen=True)
class Eulerian:
    """F* = −(w ȧ·x_t + a·v + w b·dF/dt)/ḃ, dots for ∂_t, dF/dt along (v, 1) at fixed landing time, w the warm-up.

    For the average velocity this is the MeanFlow identity u* = v − (t − r) du/dt on any path; for `Velocity` on the
    trigonometric path it is F* = v − tan(θ)(x + dF/dt), whose cos² form is sCM's tangent.

    Args:
        derivative: how dF/dt is taken.
        warmup: a horizon as a fraction of the run over which w rises from 0 to 1; 0 for none (w = 1).
        weighting: "unit" regresses F*; "cos2" regresses F + ḃ²(F* − F), finite where ḃ = 0 (sCM's form).
        tangent: the velocity along which dF/dt is taken, where it differs from the regressed one; None: the same.

    Exact for: every path and parameterization where ∂_t b ≠ 0 (elsewhere "cos2" is asked for).
    Source: Geng et al. 2025 (arXiv 2505.13447) eq. 6, 11; Lu and Song 2024 (arXiv 2410.11081) eq. 6, 8.
    """

    derivative: Derivative = TwoPass()
    warmup: float = 0.0
    weighting: str = "unit"
    tangent: VelocitySource | None = None
    keep_labels: ClassVar[bool] = False
    template: ClassVar[dict[str, str]] = {
        "model type": "continuous, s → t",
        "first step t → s": "DDIM, {velocity} velocity",
        "second step s → r": "{output}, frozen",
        "one-step prediction": "{output}",
    }
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean",)

    def __post_init__(self) -> None:
        if self.weighting not in ("unit", "cos2"):
            raise ValueError(f'Eulerian(weighting={self.weighting!r}): expected "unit" or "cos2"')
        if not self.warmup >= 0:
            raise ValueError(
                f"Eulerian(warmup={self.warmup}): a fraction of the run, 0 for none, is expected"
            )

    @property
    def horizon(self) -> float | None:
        return self.warmup or None

    def refusal(self, flow: FlowMap) -> str | None:
        """Return why F* is infinite somewhere on this path, or None."""
        reason = flow.parameterization.eulerian_singularity(flow.path)
        if reason is None or self.weighting == "cos2":
            return None
        return f'{reason}, where the Eulerian target is infinite: use AverageVelocity(), or weighting="cos2"'

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p, path = point, flow.path
        assert p.v is not None
        label = p.network_label(flow.num_classes)
        own = self.derivative.single_pass and frozen.network is flow.network
        source = flow if own else frozen
        along = p.v if self.tangent is None else self.tangent(p, frozen)
        with torch.set_grad_enabled(own and torch.is_grad_enabled()):
            prediction, rate = self.derivative(
                lambda x, t: source.output(x, t, p.r, label),
                p.x_t,
                p.t,
                along,
                domain=(p.r, path.t_max),
                curve=lambda t: path.point(p.x, p.noise, t),
            )
        with torch.no_grad():
            warm = min(1.0, p.progress / self.warmup) if self.warmup else 1.0
            a, b = (like(c, rate) for c in flow.parameterization.coefficients(path, p.t, p.r))
            a_rate, b_rate = (like(c, rate) for c in flow.parameterization.departure_rates(path, p.t, p.r))
            drift = warm * (a_rate * p.x_t + b * rate) + a * p.v
            if self.weighting == "unit":
                value = -drift / b_rate
            else:
                output = frozen.output(p.x_t, p.t, p.r, label)
                value = output - b_rate * (drift + b_rate * output)
        norm = squared_norm(rate, "mean").sqrt()
        return Target(value, prediction if own else None, norm)
