"""Easy consistency tuning, long-hand: Geng et al. 2024 (arXiv 2406.14548), and its code for the numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import methods
from flowleap.losses import Norm, Weighted
from flowleap.objectives import Self
from flowleap.paths import VEPath
from flowleap.point import Regression
from flowleap.randomness import RowGenerator
from flowleap.tensors import like
from flowleap.times import LogNormal, Ratio

D = torch.float64


def ratio(t: float, stage: int, q: float = 2.0, k: float = 8.0, b: float = 1.0) -> float:
    """s/t = max(0, 1 − q^{−(stage + 1)} (1 + k sigmoid(−b t)))."""
    return max(0.0, 1 - q ** -(stage + 1) * (1 + k / (1 + math.exp(b * t))))


@pytest.mark.parametrize("stage", range(8))
def test_the_ratio(stage):
    law = methods.ect().times
    assert law == Ratio(LogNormal(-1.1, 2.0), base=2.0, stages=8, reach=8.0, slope=1.0)
    levels = torch.tensor([1e-3, 0.1, 0.5, 1.9, 2.0, 7.0, 79.0], dtype=D)
    expected = [ratio(float(t), stage) for t in levels]
    for progress in (stage / 8, stage / 8 + 0.12):
        torch.testing.assert_close(
            law.ratio(levels, progress), torch.tensor(expected, dtype=D), rtol=1e-9, atol=1e-12
        )


def test_stage_0_is_denoising_up_to_level_ln_7_and_the_ratio_closes():
    law = Ratio()
    t, s, r, off = law.draw(RowGenerator(0, "times", total=2000), 0.0)
    assert bool((s[t < math.log(7) - 1e-3] == 0).all()) and bool((s[t > math.log(7) + 1e-3] > 0).all())
    assert off == 2000 and bool((r == 0).all()) and bool((s < t).all())
    t, s, _, _ = law.draw(RowGenerator(0, "times", total=2000), 0.99)
    assert float((1 - s / t).max()) <= 5 / 256 + 1e-6
    assert float(t.max()) <= 80 and law.horizon == 7 / 8 and Ratio(stages=1, base=256.0).horizon is None
    logs = law.draw(RowGenerator(1, "times", total=20_000), 0.5).t.log()
    assert float(logs.median()) == pytest.approx(-1.1, abs=0.06)
    assert float(logs.quantile(0.8413) - logs.quantile(0.1587)) / 2 == pytest.approx(2.0, abs=0.06)


def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    return torch.sin(3 * x + like(t, x))


def denoiser(x: Tensor, t: Tensor) -> Tensor:
    """D(x, σ) of EDM, σ_d = 0.5."""
    t_ = t[:, None]
    skip, out = 0.25 / (t_**2 + 0.25), 0.5 * t_ / (t_**2 + 0.25).sqrt()
    return skip * x + out * network(x / (t_**2 + 0.25).sqrt(), t, t, None)


def test_the_loss():
    """‖D(x_t, t) − sg D(x_s, s)‖/(t − s), the data in the place of D where s = 0."""
    objective = methods.ect()
    assert objective.path == VEPath(t_min=0.0) and objective.frozen == Self()
    assert objective.loss == Weighted(Norm(), by="1/(t - s)")
    t = torch.tensor([0.01, 0.5, 3.0, 70.0], dtype=D)
    s = torch.tensor([0.0, 0.0, 2.9, 69.0], dtype=D)
    random = torch.Generator().manual_seed(1)
    x, z = (torch.randn(4, 6, dtype=D, generator=random) for _ in range(2))
    point = objective.point(x, z, t, s, torch.zeros_like(t))
    regression = objective.regress(objective.flow_map(network), None, point)
    target = denoiser(x + s[:, None] * z, s)
    target[:2] = x[:2]
    torch.testing.assert_close(regression.target, target, rtol=1e-10, atol=1e-12)
    expected = (denoiser(x + t[:, None] * z, t) - target).square().sum(1).sqrt() / (t - s)
    torch.testing.assert_close(objective.per_sample(regression, point), expected, rtol=1e-10, atol=1e-12)


def test_the_norm_has_a_finite_gradient_at_zero():
    prediction = torch.zeros(2, 3, dtype=D, requires_grad=True)
    target = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], dtype=D)
    loss = Norm()(Regression(prediction, target), None)
    assert loss.tolist() == [0.0, 5.0]
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    assert gradient[0].tolist() == [0.0, 0.0, 0.0]
    assert gradient[1].tolist() == pytest.approx([-0.6, 0.0, -0.8])


def test_a_tuned_run_of_flow_matching_has_the_same_loss():
    """A network on the linear path that is EDM's in other clothes: the same images, the same loss, row by row."""
    ect, tuned = methods.ect(), methods.ect_tuned()

    def velocity(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        """x_t = (x_0 + σ ε)/(1 + σ), σ = t/(1 − t), and v = (x_t − D)/t."""
        level = t / (1 - t)
        return (x - denoiser(x * (1 + level)[:, None], level)) / t[:, None]

    random = torch.Generator().manual_seed(2)
    x, z = (torch.randn(6, 4, dtype=D, generator=random) for _ in range(2))
    level, lower = torch.tensor([0.01, 0.4, 1.0, 5.0, 20.0, 80.0], dtype=D), None
    lower = level * torch.tensor([0.0, 0.0, 0.5, 0.9, 0.99, 0.5], dtype=D)
    one = ect.point(x, z, level, lower, torch.zeros(6, dtype=D))
    other = tuned.point(x, z, level / (1 + level), lower / (1 + lower), torch.zeros(6, dtype=D))
    expected = ect.per_sample(ect.regress(ect.flow_map(network), None, one), one)
    found = tuned.per_sample(tuned.regress(tuned.flow_map(velocity), None, other), other)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_the_laws_draw_the_same_levels():
    by_level = Ratio().draw(RowGenerator(0, "times", total=500), 0.5)
    linear = Ratio(clock="linear").draw(RowGenerator(0, "times", total=500), 0.5)
    for level, time in zip(by_level[:2], linear[:2], strict=True):
        torch.testing.assert_close((level / (1 + level)), time, rtol=1e-6, atol=0)


def test_two_steps_by_fresh_noise():
    objective = methods.ect()
    flow, noise = objective.flow_map(network), torch.randn(3, 4, dtype=D)
    first = denoiser(80 * noise, torch.full((3,), 80.0, dtype=D))
    torch.testing.assert_close(objective.sample(flow, noise, 1), first)
    made = objective.sample(flow, noise, times=(80.0, 0.821, 0.0))
    assert bool(made.isfinite().all()) and not torch.allclose(made, first)
    with pytest.raises(ValueError, match=r"use VEPath\(t_min=0.0"):
        replace(objective, path=VEPath())
