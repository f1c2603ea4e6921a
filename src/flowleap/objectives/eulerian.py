"""The Eulerian identity: X_{t→r}(x_t) does not change along the flow, d/dt X_{t→r}(x_t) = 0. MeanFlow, ESC, sCM."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flowleap.derivatives import Auto, Derivative
from flowleap.flow_map import FlowMap, dtype_of
from flowleap.interfaces import Composition, Identity
from flowleap.networks import dropout
from flowleap.objectives.diagonal import singular
from flowleap.objectives.settling import settled
from flowleap.point import Point, Target
from flowleap.tensors import Image, Label, Time, like, repeated, squared_norm
from flowleap.velocities import VelocitySource

__all__ = ["Eulerian"]


@dataclass(frozen=True)
class Eulerian(Identity):
    """F* = −(w ȧ·x_t + a·v + w b·dF/dt)/ḃ, dots for ∂_t, dF/dt along (v, 1) at fixed landing time, w the warm-up.

    For the average velocity this is the MeanFlow identity u* = v − (t − r) du/dt on any path; for `Velocity` on the
    trigonometric path it is F* = v − tan(θ)(x + dF/dt), whose cos² form is sCM's tangent.

    It is the limit s → t of `Consistency`: with the same loss, `replace(objective, target=Consistency(), times=…)`
    is the discrete variant of a method, for any law with s < t.

    Args:
        derivative: how dF/dt is taken.
        warmup: a horizon as a fraction of the run over which w rises from 0 to 1; 0 for none (w = 1).
        weighting: "unit" regresses F*; "cos2" regresses F + k²(F* − F), k = ∂_t b(t, r)/∂_t b(t, t), finite where
            ḃ = 0. On the trigonometric path k = cos(θ), whatever the gain of the parameterization: sCM's form. Its
            tangents are multiplied by k·b/∂_t b(t, t), sin(θ) cos(θ) there, before F is differentiated along them.
        velocity: the regressed velocity v of the rows r < t, where it differs from that of the objective; None: the
            same. With `Own()` the rows r < t know of the data only what the rows r = t have taught the network.
        tangent: the velocity along which dF/dt is taken, where it differs from the regressed one; None: the same.
            `Own()`, the network's velocity, or `Head()`, that of its velocity head, is that of improved MeanFlow: it
            does not depend on the pair of the row.
        space: "output" as above; "velocity" differentiates and regresses the average velocity u in the place of F,
            u* = v − (t − r) du/dt, whatever F means and also where ∂_t b = 0.
        through_time: whether the gradient also runs through ∂_t F; (∇_x F) v and v have none. The values of prediction
            and target are the same.
        normalize: c, in units of F: the target is F + Δ/(rms(Δ) + c), Δ what would be added to F without, rms over the
            dimensions of a row; None for F + Δ. It bounds the step that a row asks for, however large its derivative.
        clip: a bound on |Δ| in each dimension instead; None for none.

    With `velocity=Own()` and `through_time` it is Eulerian self-distillation, ‖∂_t X_{t→r}(x_t) + sg[(∇_x X) v]‖² for
    the average velocity. Its paper leaves it open where the gradient stops; here it runs through the derivative in
    time, as in `Lagrangian`, and neither through the derivative in x nor through the velocity.

    Exact for: every path and parameterization where ∂_t b ≠ 0 (elsewhere "cos2" is asked for).
    Source: Geng et al. 2025 (arXiv 2505.13447) eq. 6, 11; Lu and Song 2024 (arXiv 2410.11081) eq. 6, 8, and its tangent
    normalization g/(‖g‖ + c), c = 0.1, or clipping of g to [−1, 1]. Its g is σ_d Δ for an F per angle, so that c here
    is 0.1/σ_d. NVlabs/FastGen (by default) and EDAPINENUT/ExplicitShortCut take the rms over the dimensions for ‖g‖.
    Boffi et al. 2025 (arXiv 2505.18825) for self-distillation.
    """

    derivative: Derivative = Auto()
    warmup: float = 0.0
    weighting: str = "unit"
    tangent: VelocitySource | None = None
    normalize: float | None = None
    clip: float | None = None
    velocity: VelocitySource | None = None
    through_time: bool = False
    space: Literal["output", "velocity"] = "output"
    template: ClassVar[dict[str, str]] = {
        "model type": "continuous, s → t",
        "first step t → s": "DDIM, {velocity} velocity",
        "second step s → r": "{output}, frozen",
        "one-step prediction": "{output}",
    }

    def __post_init__(self) -> None:
        if self.weighting not in ("unit", "cos2"):
            raise ValueError(f'Eulerian(weighting={self.weighting!r}): expected "unit" or "cos2"')
        if not self.warmup >= 0:
            raise ValueError(
                f"Eulerian(warmup={self.warmup}): a fraction of the run, 0 for none, is expected"
            )
        for name in ("normalize", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(
                    f"Eulerian({name}={value}): a positive number is expected, or None for none of it"
                )
        if self.normalize is not None and self.clip is not None:
            raise ValueError(
                f"Eulerian(normalize={self.normalize}, clip={self.clip}): each bounds the tangent, and one is "
                "enough: use normalize=0.2 or clip=2.0 alone"
            )

        if self.through_time and self._moves_output:
            raise ValueError(
                "Eulerian(through_time=True): the gradient through ∂_t F belongs to the plain target, and this one is "
                f"moved by weighting={self.weighting!r}, normalize={self.normalize}, clip={self.clip}: use "
                'weighting="unit" alone, or through_time=False'
            )

    @property
    def cites(self) -> tuple[str, ...]:
        improved = self.tangent is not None and self.tangent.own
        return ("geng2025mean", *(("geng2025improved",) if improved else ()))

    @property
    def horizon(self) -> float | None:
        return self.warmup or None

    @property
    def differentiates_derivative(self) -> bool:
        return self.through_time

    @property
    def asks_velocity(self) -> tuple[str, str] | None:
        asked = {"velocity": self.velocity, "tangent": self.tangent}
        own = (name for name, source in asked.items() if source is not None and source.own)
        return next(((f"{name}=Own()", f"{name}=None") for name in own), None)

    def refusal(self, o: Composition) -> str | None:
        if o.times.boundary is not None:
            return (
                f"Eulerian ties the map at t to the map just below it, and {type(o.times).__name__} trains none below "
                'its boundary, so that the first stage is never asked: use target=Consistency(space="map")'
            )
        return self._untaught(o) or self._headless(o) or self._misled(o) or self._singular(o)

    def _headless(self, o: Composition) -> str | None:
        """Return why the velocity head that is asked is not trained, or None."""
        trained = any(loss.velocity_head for loss in o.loss.chain())
        if self.tangent is not None and self.tangent.head and not trained:
            return (
                "tangent=Head() asks a velocity head that nothing trains: use loss=VelocityHead(AdaptivePower()), or "
                "tangent=Own()"
            )
        return None

    def _untaught(self, o: Composition) -> str | None:
        """Return why no row learns from data, or None."""
        own = self.velocity is not None and self.velocity.own
        if not own or o.times.lands == "nowhere" or o.times.has_diagonal:
            return None
        return (
            "Eulerian(velocity=Own()) regresses the velocity of the network, and no row of "
            f"{type(o.times).__name__} has r = t to learn that from data: use SortedPair(diagonal=0.75), or "
            "velocity=None with tangent=Own()"
        )

    def _misled(self, o: Composition) -> str | None:
        """Return why the derivative is not taken along the velocity that is asked for, or None."""
        if o.times.lands == "nowhere" or not self.derivative.follows_pair:
            return None
        guided = o.velocity.teacher_scale not in (None, 1.0) or (o.guidance is not None and o.guidance.drives)
        other = self.tangent or self.velocity
        if not guided and other is None:
            return None
        field = "velocity" if self.tangent is None else "tangent"
        part = "guidance" if guided else f"{field}={type(other).__name__}()"
        return (
            f'CentralDifference(along="path") differs along the velocity of the pair itself, and {part} asks for '
            'another: use CentralDifference(along="tangent")'
        )

    def _singular(self, o: Composition) -> str | None:
        """Return where F* is infinite, or nothing is left to regress, or None."""
        if self.space == "velocity":
            return None
        if self.weighting == "unit":
            reason = o.parameterization.eulerian_singularity(o.path)
            way = 'where the Eulerian target is infinite: use AverageVelocity(), or weighting="cos2"'
            return singular(self, o, reason and f"{reason}, {way}")
        slope = o.parameterization.slope_singularity(o.path)
        if slope is None or o.times.lands == "anywhere":
            return None
        return (
            f'Eulerian(weighting="cos2") does not fit {type(o.parameterization).__name__} on {type(o.path).__name__}: '
            f"{slope}, where nothing is left to regress: use AverageVelocity() or Velocity()"
        )

    def predicts(self, own: bool) -> bool:
        return own and self.derivative.single_pass

    def settled(self, flow: FlowMap, x: Image) -> tuple[Eulerian, str]:
        derivative, reason = settled(self.derivative, flow, x, _rate)
        return replace(self, derivative=derivative), f"du/dt by {reason}"

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        p = point if self.velocity is None else replace(point, v=self.velocity(point, frozen))
        assert p.v is not None
        label = p.network_label(flow.num_classes)
        same = frozen.network is flow.network
        own = self.predicts(same)
        source = flow if own else frozen
        along = p.v if self.tangent is None else self.tangent(p, frozen)
        terms = _Terms.at(flow, p)

        def field(x: Image, t: Time) -> Image:
            return source.output(x, t, repeated(p.r, x), repeated(label, x))

        with dropout.keyed(p.keys), torch.set_grad_enabled(own and torch.is_grad_enabled()):
            output, rate = self.derivative(
                field,
                p.x_t,
                p.t,
                along,
                domain=(p.r, p.path.t_max),
                curve=lambda t: p.path.point(p.x, p.noise, t),
                scale=terms.scale if self.weighting == "cos2" else None,
                kind=dtype_of(source.network),
            )
        with dropout.keyed(p.keys), torch.no_grad():
            if output is None and self._moves_output:
                output = p.output if same and p.output is not None else field(p.x_t, p.t)
            value = self._value(terms.over(rate), p, output, rate)
        prediction = output if own else None
        if self.through_time:
            prediction = self._with_slope(flow, p, prediction)
        return Target(value, prediction, squared_norm(rate, "mean").sqrt(), self.space)

    def _with_slope(self, flow: FlowMap, p: Point, output: Image | None) -> Image:
        """Return the prediction with the gradient of w b/ḃ · ∂_t F added to its own, and the same value."""
        output = p.output if output is None else output
        assert output is not None
        label = p.network_label(flow.num_classes)
        with dropout.keyed(p.keys):
            still = torch.zeros_like(p.x_t)
            slope = _rate(self.derivative, flow, p.x_t, p.t, p.r, label, still, graph=True)
        terms = _Terms.at(flow, p).over(slope)
        return output + self._warm(p) * terms.b / terms.b_rate * (slope - slope.detach())

    def _warm(self, p: Point) -> float:
        return min(1.0, p.progress / self.warmup) if self.warmup else 1.0

    @property
    def _moves_output(self) -> bool:
        """Whether the target is the output of the network and a step from there."""
        return self.weighting == "cos2" or self.normalize is not None or self.clip is not None

    def _value(self, terms: _Terms, p: Point, output: Image | None, rate: Image) -> Image:
        """Return the regressed value of F; `rate` is dF/dt, or scale · dF/dt under "cos2"."""
        assert p.v is not None
        warm = self._warm(p)
        if not self._moves_output:
            return -(warm * (terms.a_rate * p.x_t + terms.b * rate) + terms.a * p.v) / terms.b_rate
        assert output is not None
        output = output.to(rate.dtype)
        if self.weighting == "unit":
            drift = warm * (terms.a_rate * p.x_t + terms.b * rate) + terms.a * p.v
            delta = -drift / terms.b_rate - output
        else:
            k = terms.k
            drift = k * (warm * terms.a_rate * p.x_t + terms.a * p.v) / terms.start_rate + warm * rate
            delta = -(drift + k * k * output)
        if self.normalize is not None:
            delta = delta / (like(squared_norm(delta, "mean").sqrt(), delta) + self.normalize)
        if self.clip is not None:
            delta = delta.clamp(-self.clip, self.clip)
        return output + delta


def _rate(
    derivative: Derivative,
    flow: FlowMap,
    x: Image,
    t: Time,
    r: Time,
    label: Label,
    along: Image,
    graph: bool = False,
) -> Image:
    """Return dF/dt of a map at (x, t, r) along a velocity, a straight one."""

    def field(x: Image, t: Time) -> Image:
        return flow.output(x, t, repeated(r, x), repeated(label, x))

    domain, kind = (r, flow.path.t_max), dtype_of(flow.network)
    return derivative(field, x, t, along, domain=domain, curve=lambda t: x, kind=kind, graph=graph)[1]


@dataclass(frozen=True)
class _Terms:
    """The coefficients of a map t → r and their rates in t; `start_rate` is ∂_t b(t, t) = −∂_r b(t, t)."""

    a: Tensor
    b: Tensor
    a_rate: Tensor
    b_rate: Tensor
    start_rate: Tensor

    @classmethod
    def at(cls, flow: FlowMap, p: Point) -> _Terms:
        """The terms of every row, (rows,)."""
        with torch.no_grad():
            meaning, path = flow.parameterization, flow.path
            found = (*meaning.coefficients(path, p.t, p.r), *meaning.departure_rates(path, p.t, p.r))
            return cls(*found, -meaning.landing_rates(path, p.t)[1])

    def over(self, image: Image) -> _Terms:
        """The terms shaped so that they broadcast over the rows of an image."""
        return _Terms(*(like(getattr(self, f.name), image) for f in fields(self)))

    @property
    def k(self) -> Tensor:
        """∂_t b(t, r)/∂_t b(t, t): 1 at r = t; the denominator vanishes nowhere."""
        return self.b_rate / self.start_rate

    @property
    def scale(self) -> Tensor:
        """What dF/dt is multiplied by in k²(F* − F), but for the sign."""
        return self.k * self.b / self.start_rate
