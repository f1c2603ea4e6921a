"""Simplified consistency training against its equations, written out in the angle θ = πt/2 with F per angle.

Lu and Song 2024 (arXiv 2410.11081): f = cos θ x_θ − sin θ σ_d F(x_θ/σ_d, θ), dx_θ/dθ = cos θ z − sin θ x,

    g = −cos²θ (σ_d F − dx/dθ) − ρ cos θ sin θ (x_θ + σ_d dF/dθ),    ρ = min(1, k/K),
    g ← g/(‖g‖ + 0.1) with the root mean square for ‖·‖,
    loss = e^{−ℓ} ‖F_θ − F − g‖²/D · 1/(σ_d tan θ) + ℓ.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import methods
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.losses import Squared, Weighted
from flowleap.randomness import RowGenerator

D = torch.float64
SPREAD = 0.5
WAVES = torch.tensor([[0.7, -1.1, 0.4], [0.3, 0.9, -0.6], [-1.2, 0.2, 0.8]], dtype=D)
BEAT = torch.tensor([0.8, -0.5, 1.3], dtype=D)
STEPS = 400  # the warm-up then ends at step 10


class ByAngle:
    """F(y, θ) = sin(y W + θ c), told t = 2θ/π; its derivative along (ẏ, 1) is cos(y W + θ c) (ẏ W + c)."""

    num_classes = None

    def __call__(self, y: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        assert torch.equal(t, r), "it is told one time"
        return torch.sin(y @ WAVES + (t * math.pi / 2)[:, None] * BEAT)

    def log_variance(self, t: Tensor, r: Tensor) -> Tensor:
        return 0.3 * t - 0.7


class Student(ByAngle):
    """Another network of the same kind, whose prediction is held to the target of the first."""

    def __call__(self, y: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return 0.5 * super().__call__(y, t, r) + 0.1


def draws(rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    x, noise = torch.randn(2, rows, 3, dtype=D, generator=random)
    return 0.6 * x, noise, torch.tensor([0.02, 0.2, 0.45, 0.7, 0.93, 1.0], dtype=D)


def tangent(x: Tensor, noise: Tensor, t: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """F, g before normalization, and θ, as the paper has them."""
    theta = (t * math.pi / 2)[:, None]
    z = SPREAD * noise
    x_t = torch.cos(theta) * x + torch.sin(theta) * z
    dx = torch.cos(theta) * z - torch.sin(theta) * x
    phase = (x_t / SPREAD) @ WAVES + theta * BEAT
    output, rate = torch.sin(phase), torch.cos(phase) * ((dx / SPREAD) @ WAVES + BEAT)
    g = -(torch.cos(theta) ** 2) * (SPREAD * output - dx)
    g = g - share * torch.cos(theta) * torch.sin(theta) * (x_t + SPREAD * rate)
    return output, g, theta


@pytest.mark.parametrize(
    "derivative", [TwoPass(), ExactJVP(), CentralDifference(1e-5)], ids=lambda part: type(part).__name__
)
@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.5), (10, 1.0), (399, 1.0)])
def test_the_target_of_sct(derivative, step: int, share: float) -> None:
    """F + g/(‖g‖ + 0.1): in units of F the constant is 0.1/σ_d, which is what makes σ_d drop out."""
    sct = methods.sct().for_run(STEPS)
    objective = replace(sct, target=replace(sct.target, derivative=derivative))
    x, noise, t = draws()
    point = objective.point(x, noise, t, t, torch.zeros_like(t), step=step)
    frozen, flow = objective.flow_map(ByAngle()), objective.flow_map(Student())
    found = objective.regress(flow, frozen, point)
    output, g, theta = tangent(x, noise, t, share)
    expected = output + g / (g.square().mean(1, keepdim=True).sqrt() + 0.1)
    tolerance = 1e-8 if isinstance(derivative, CentralDifference) else 1e-12
    torch.testing.assert_close(found.target, expected, rtol=tolerance, atol=tolerance)
    student = 0.5 * output + 0.1
    torch.testing.assert_close(found.prediction, student, rtol=1e-13, atol=1e-13)

    head = 0.3 * t - 0.7
    error = (student - expected).square().mean(1)
    weight = (1 / (SPREAD * torch.tan(theta[:, 0]))).clamp_min(
        1e-4
    )  # 0 at full noise, where ℓ would run away
    loss = torch.exp(-head) * weight * error + head
    torch.testing.assert_close(objective.per_sample(found, point), loss, rtol=1e-7, atol=1e-7)


def test_the_target_without_normalization_and_clipped() -> None:
    """F + g/σ_d, for F is multiplied by σ_d in the map; |g| ≤ 1 is |Δ| ≤ 1/σ_d."""
    sct = methods.sct()
    x, noise, t = draws()
    output, g, _ = tangent(x, noise, t, 1.0)
    assert float(g.abs().max()) > 1 > float(g.abs().min())
    for changes, expected in (
        ({"normalize": None}, output + g / SPREAD),
        ({"normalize": None, "clip": 1 / SPREAD}, output + g.clamp(-1, 1) / SPREAD),
    ):
        objective = replace(sct, target=replace(sct.target, warmup=0.0, **changes))
        point = objective.point(x, noise, t, t, torch.zeros_like(t))
        found = objective.regress(objective.flow_map(ByAngle()), None, point)
        torch.testing.assert_close(found.target, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_that_of_the_tangent() -> None:
    """Of ½‖F_θ − sg(F_θ + g)‖² it is −g ∂F_θ: the value of the loss says nothing, its gradient is the tangent."""
    sct = methods.sct()
    objective = replace(
        sct, target=replace(sct.target, normalize=None, warmup=0.0), loss=Squared(reduce="sum")
    )
    x, noise, t = draws()
    point = objective.point(x, noise, t, t, torch.zeros_like(t))
    shift = torch.zeros(6, 3, dtype=D, requires_grad=True)
    flow = objective.flow_map(lambda y, t, r, label: ByAngle()(y, t, r) + shift)
    objective.per_sample(objective.regress(flow, None, point), point).sum().backward()
    _, g, _ = tangent(x, noise, t, 1.0)
    torch.testing.assert_close(shift.grad, -2 * g / SPREAD, rtol=1e-12, atol=1e-12)


def test_the_prior_weight() -> None:
    """1/(σ_d tan θ), which the general weight α/(κσ) is on this path; on the linear path it is (1 − t)/t."""
    x, noise, t = draws()
    for method, expected in (("sct", 1 / (SPREAD * torch.tan(t * math.pi / 2))), ("sct_linear", (1 - t) / t)):
        objective = replace(methods.get(method), loss=Weighted(Squared("mean"), by="alpha/(kappa sigma)"))
        point = objective.point(x, noise, t, t, torch.zeros_like(t))
        found = objective.regress(objective.flow_map(ByAngle()), None, point)
        weight = objective.per_sample(found, point) / found.raw.double()
        torch.testing.assert_close(weight, expected.clamp_min(1e-4), rtol=1e-6, atol=1e-12)


def test_the_law_of_times_of_sct() -> None:
    """θ = arctan(e^z/σ_d), z ~ N(−1, 1.4²): σ_d tan θ is log-normal, and r = 0, s = t throughout."""
    draw = methods.sct().times.draw(RowGenerator(0, "times", total=40_000), 0.5)
    logs = torch.log(SPREAD * torch.tan(draw.t.double() * math.pi / 2))
    assert abs(float(logs.mean()) + 1.0) < 0.03 and abs(float(logs.std()) - 1.4) < 0.03
    assert draw.num_jumps == 40_000 and torch.equal(draw.s, draw.t) and not bool(draw.r.any())


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.5), (10, 1.0)])
def test_the_target_of_the_linear_variant(step: int, share: float) -> None:
    """u = v − ρ t (v·∇u + ∂_t u), r = 0; loss e^{−ℓ} ‖Δ‖²/D + ℓ, as in EDAPINENUT/ExplicitShortCut."""
    objective = methods.sct("linear").for_run(STEPS)
    x, noise, t = draws()
    point = objective.point(x, noise, t, t, torch.zeros_like(t), step=step)
    found = objective.regress(objective.flow_map(Student()), objective.flow_map(ByAngle()), point)
    x_t, v, time = (1 - t)[:, None] * x + t[:, None] * noise, noise - x, t[:, None]
    phase = x_t @ WAVES + time * BEAT * math.pi / 2
    rate = torch.cos(phase) * (v @ WAVES + BEAT * math.pi / 2)
    expected = v - share * time * rate
    torch.testing.assert_close(found.target, expected, rtol=1e-12, atol=1e-12)
    student, head = 0.5 * torch.sin(phase) + 0.1, 0.3 * t - 0.7
    loss = torch.exp(-head) * (student - expected).square().mean(1) + head
    torch.testing.assert_close(objective.per_sample(found, point), loss, rtol=1e-7, atol=1e-7)


def test_the_tangent_vanishes_on_the_exact_flow() -> None:
    """Data N(0, σ_d²) stand still on this path: x_θ is the end, F = −tan(θ/2) x_θ/σ_d, and g = 0 with v = 0."""
    objective = replace(methods.sct(), target=replace(methods.sct().target, normalize=None, warmup=0.0))

    class Still:
        num_classes = None

        def __call__(self, y: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
            return -torch.tan(t * math.pi / 4)[:, None] * y

    x, noise, t = draws()
    point = objective.point(x, noise, t, t, torch.zeros_like(t))
    point = replace(point, v=torch.zeros_like(x))
    flow = objective.flow_map(Still())
    found = objective.target(flow, flow, point).value
    torch.testing.assert_close(found, Still()(point.x_t / SPREAD, t, t), rtol=1e-12, atol=1e-12)
    landed = flow(point.x_t, t, torch.zeros_like(t))
    torch.testing.assert_close(landed, point.x_t, rtol=1e-12, atol=1e-12)
