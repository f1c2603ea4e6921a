"""Variants of MeanFlow by their step, weight and law of times against their equations, written out by hand.

    α-Flow   s = t − α(t − r),  u* = α v + (1 − α) u(z_s, s, r),  weight α/(mse + c)
    SoFlow   q = (f(z_t, t, r) − f(z_s, s, r))/(t − s),  f = z − (t − r) F,  loss −⟨F, sg[w q]⟩/D,  w = 1/(mean q² + c)
    PSD      u* = ((t − s) u(z_t, t, s) + (s − r) u(z_s, s, r))/(t − r)
    TEMF     w(d) = 1/((1 + d/2) √(1 + d²))
    v-first  β = 1 − q + λ q (1 − d),  λ = 1/E[1 − d],  q = 1 − k/K

Sources: arXiv 2510.20771, 2512.15657, 2505.18825, 2511.19065 and CVPR 2026 (Tu et al.).
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flowleap import methods
from flowleap.derivatives import TwoPass
from flowleap.losses import AdaptivePower, ShortJumpsFirst, Squared, StepQuotient, Weighted
from flowleap.objectives import Annealed, Eulerian, Objective
from flowleap.point import Point
from flowleap.randomness import RowGenerator

D = torch.float64
WAVES = torch.tensor([[0.7, -1.1, 0.4], [0.3, 0.9, -0.6], [-1.2, 0.2, 0.8]], dtype=D)


class Wrong(nn.Module):
    """F(x, t, r) = sin(x W + t c + r e), the map of no flow."""

    num_classes = None

    def __init__(self) -> None:
        super().__init__()
        self.waves = nn.Parameter(WAVES.clone())

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.sin(x @ self.waves + t[:, None] * 0.8 - r[:, None] * 1.3)


def exact(objective: Objective) -> Objective:
    """The objective with forward-mode derivatives, for a run of 100 steps."""
    if isinstance(objective.target, Annealed):
        objective = replace(objective, target=Annealed(TwoPass()))
    elif isinstance(objective.target, Eulerian):
        objective = replace(objective, target=Eulerian(TwoPass()))
    return objective.for_run(100)


def point_of(objective: Objective, share: float, step: int = 50) -> Point:
    """Five jumps of different lengths with s = t − share · (t − r), then two rows r = t."""
    random = torch.Generator().manual_seed(5)
    x, noise = torch.randn(2, 7, 3, dtype=D, generator=random)
    t = torch.tensor([1.0, 0.9, 0.7, 0.5, 0.3, 0.8, 0.2], dtype=D)
    r = torch.tensor([0.0, 0.5, 0.1, 0.45, 0.0, 0.8, 0.2], dtype=D)
    s = t - share * (t - r) if share < 1 else r
    return objective.point(x, noise, t, s, r, step=step)


def jump(flow, p: Point):
    """z_s, s and u(z_s, s, r) of the jump rows, where the step t → s is made with the pair's velocity."""
    n = p.num_jumps
    v = p.noise - p.x
    z_s = p.x_t + (p.s - p.t)[:, None] * v
    return v[:n], flow.network(z_s, p.s, p.r)[:n]


@pytest.mark.parametrize("share", [1.0, 0.6, 0.05])
def test_alpha_flow_target_and_loss(share):
    objective = exact(methods.alpha_flow())
    flow, p = objective.flow_map(Wrong()), point_of(objective, share)
    found = objective.regress(flow, None, p)
    v, later = jump(flow, p)
    torch.testing.assert_close(found.target[:5], share * v + (1 - share) * later, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.target[5:], (p.noise - p.x)[5:], rtol=1e-12, atol=1e-12)
    mse = (found.prediction - found.target).square().mean(1).detach()
    weight = torch.tensor([share] * 5 + [1.0] * 2, dtype=D)
    torch.testing.assert_close(objective.per_sample(found, p), weight * mse / (mse + 1e-3), rtol=1e-9, atol=0)


def test_alpha_flow_tends_to_meanflow():
    """(u − u*)/α tends to the residual of MeanFlow at rate α, for a network that is the map of no flow."""
    objective, meanflow = exact(methods.alpha_flow()), exact(methods.meanflow())
    flow = objective.flow_map(Wrong())
    limit = meanflow.regress(flow, None, point_of(meanflow, 0.0))
    residual = (limit.prediction - limit.target).detach()[:5]
    errors = []
    for share in (1e-2, 1e-3, 1e-4):
        found = objective.regress(flow, None, point_of(objective, share))
        errors.append(float(((found.prediction - found.target).detach()[:5] / share - residual).abs().max()))
    assert errors[0] < 0.1 and errors[1] / errors[0] == pytest.approx(0.1, rel=0.1)
    assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.1)
    last = objective.regress(flow, None, point_of(objective, 0.0))
    assert torch.equal(last.target, limit.target), "without a step it is MeanFlow"


def test_a_jump_too_short_for_a_step_of_its_own_asks_for_nothing():
    """Where rounding leaves s = t on some rows, these rows have themselves as their target, and the others theirs."""
    objective = exact(methods.alpha_flow())
    flow, p = objective.flow_map(Wrong()), point_of(objective, 0.3)
    mixed = objective.point(p.x, p.noise, p.t, torch.where(torch.arange(7) == 3, p.t, p.s), p.r, step=50)
    found, plain = objective.regress(flow, None, mixed), objective.regress(flow, None, p)
    torch.testing.assert_close(found.target[3], found.prediction[3], rtol=1e-12, atol=1e-12)
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(found.target[others], plain.target[others])
    assert bool(objective.per_sample(found, mixed).isfinite().all())


def test_alpha_flow_in_the_course_of_a_run():
    """α = 1 at the start, ½ half-way, 0 at the end, on draws of a run."""
    objective = exact(methods.alpha_flow())
    for step, share in ((0, 1.0), (20, 1.0), (50, 0.5), (80, 0.0), (99, 0.0)):
        draw = objective.times.draw(RowGenerator(0, "times", total=64), objective.progress(step))
        t, s, r = (time[: draw.num_jumps].double() for time in draw[:3])
        torch.testing.assert_close(s, t - share * (t - r), rtol=0, atol=1e-7)


@pytest.mark.parametrize("share", [0.1, 0.002])
def test_soflow_gradient(share):
    """That of the published loss without a square, by each weight of the network."""
    objective = exact(methods.soflow())
    flow, p = objective.flow_map(Wrong()), point_of(objective, share)
    (found,) = torch.autograd.grad(
        objective.per_sample(objective.regress(flow, None, p), p).sum(), [flow.network.waves]
    )
    v, later = jump(flow, p)
    output = flow.network(p.x_t, p.t, p.r)
    way, rest = (p.t - p.r)[:5, None], (p.s - p.r)[:5, None]
    here = p.x_t[:5] - way * output[:5]
    there = p.x_t[:5] + (p.s - p.t)[:5, None] * v - rest * later
    q = ((here - there) / (p.t - p.s)[:5, None]).detach()
    weight = 1 / (q.square().mean(1, keepdim=True) + 0.01)
    consistency = -(output[:5] * weight * q).mean(1).sum()
    delta = (output[5:] - (p.noise - p.x)[5:]).square().mean(1)
    velocity = (delta / (delta.detach() + 0.01)).sum()
    (expected,) = torch.autograd.grad(consistency + velocity, [flow.network.waves])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["psd", "psd_midpoint", "split_meanflow"])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_interval_splitting_target(name, share):
    objective = exact(methods.get(name))
    flow, p = objective.flow_map(Wrong()), point_of(objective, share)
    first = flow.network(p.x_t, p.t, p.s)
    z_s = p.x_t + (p.s - p.t)[:, None] * first
    second = flow.network(z_s, p.s, p.r)
    expected = (share * first + (1 - share) * second)[:5]
    found = objective.regress(flow, None, p)
    torch.testing.assert_close(found.target[:5], expected, rtol=1e-10, atol=1e-10)
    mse = (found.prediction - found.target).square().mean(1)
    torch.testing.assert_close(objective.per_sample(found, p), mse, rtol=1e-10, atol=0)


def test_temporal_equilibrium():
    """w(1) = 1/(1.5 √2), w(0.4) = 1/(1.2 √1.16), 1 where r = t."""
    objective = exact(methods.temf())
    flow, p = objective.flow_map(Wrong()), point_of(objective, 0.0)
    found = objective.regress(flow, None, p)
    error = (found.prediction - found.target).square().sum(1).detach()
    d = (p.t - p.r).tolist()
    weight = torch.tensor([1 / ((1 + each / 2) * math.sqrt(1 + each**2)) for each in d], dtype=D)
    assert weight[0] == pytest.approx(1 / (1.5 * 2**0.5)) and weight[1] == pytest.approx(
        1 / (1.2 * 1.16**0.5)
    )
    torch.testing.assert_close(
        objective.per_sample(found, p), weight * error / (error + 0.01), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(("step", "early"), [(0, 1.0), (25, 0.75), (100, 0.0)])
def test_short_jumps_first(step, early):
    objective = replace(
        exact(methods.v_first()), loss=ShortJumpsFirst(Weighted(Squared(), by="min(SNR, 5)/(SNR + 1)"), 0.25)
    )
    flow, p = objective.flow_map(Wrong()), point_of(objective, 0.0, step)
    found = objective.regress(flow, None, p)
    error = (found.prediction - found.target).square().mean(1).detach()
    length = (p.t - p.r)[:5]
    weight = 1 - early + early * (1 - length) / 0.75
    snr = ((1 - p.t[5:]) / p.t[5:]).square()
    diagonal = snr.clamp_max(5) / (snr + 1)
    assert float(snr[1]) == pytest.approx(16) and float(snr[0]) == pytest.approx(1 / 16)
    torch.testing.assert_close(
        objective.per_sample(found, p).detach(), torch.cat([weight, diagonal]) * error, rtol=1e-9, atol=0
    )


def test_the_mean_weight_of_jumps_stays_one():
    """E[d] of the preset is that of its law of times."""
    objective = methods.v_first()
    draw = objective.times.draw(RowGenerator(0, "times", total=200_000), 0.0)
    length = (draw.t - draw.r)[: draw.num_jumps].double()
    assert float(length.mean()) == pytest.approx(
        objective.loss.mean, abs=5 * float(length.std()) / 50_000**0.5
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(methods.meanflow(), loss=StepQuotient()), "infinitely short"),
        (lambda: replace(methods.meanflow(), loss=Weighted(by="(t - s)/(t - r)")), "infinitely short"),
        (lambda: replace(methods.meanflow(), target=Annealed()), "SortedPair has s = t"),
        (lambda: replace(methods.alpha_flow(), target=methods.psd().target), "some rows of Split have s = r"),
        (lambda: ShortJumpsFirst(mean=0.0), "mean length"),
        (lambda: ShortJumpsFirst(methods.esc().loss), r"LearnedVariance\(ShortJumpsFirst"),
        (lambda: Annealed(weighting="cos"), 'expected "unit" or "cos2"'),
    ],
)
def test_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_step_quotient_without_rows_that_jump_is_the_loss_inside():
    objective = exact(methods.soflow())
    flow = objective.flow_map(Wrong())
    p = point_of(objective, 0.1).rows(5, 7)
    found = objective.regress(flow, None, p)
    inner = AdaptivePower(1.0, 1e-2, "mean")
    assert torch.equal(StepQuotient(inner)(found, p), inner(found, p))
