"""Improved consistency training, long-hand: Song and Dhariwal 2023 (arXiv 2310.14189). Nothing here calls our parts."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from flowleap import methods
from flowleap.losses import PseudoHuber, Weighted
from flowleap.objectives import Eulerian, Self
from flowleap.paths import LinearPath
from flowleap.randomness import RowGenerator
from flowleap.tensors import like
from flowleap.times import LogNormal, NoiseGrid

D = torch.float64


def test_n_of_k_doubles():
    """N(k) = min(s0 2^⌊k/K'⌋, s1) + 1, K' = ⌊K/(log2⌊s1/s0⌋ + 1)⌋, s0 = 10, s1 = 1280: eight stages."""
    law, steps = methods.ict().times, 800
    assert law == NoiseGrid(start=10, end=1280, growth="doubling", law=LogNormal(-1.1, 2.0))
    each = math.floor(steps / (math.log2(math.floor(1280 / 10)) + 1))
    assert each == 100
    for k in range(steps):
        assert law.points(k / steps) == min(10 * 2 ** math.floor(k / each), 1280) + 1
    assert [law.points(i / 8) for i in range(9)] == [11, 21, 41, 81, 161, 321, 641, 1281, 1281]
    assert law.horizon == 7 / 8
    odd = NoiseGrid(start=10, end=1000, growth="doubling")
    each = math.floor(10_000 / (math.log2(100) + 1))
    for k in range(0, 10_000, 7):
        if min(k % each, each - k % each) > 8:  # K' is rounded down, ours is not
            assert odd.points(k / 10_000) == min(10 * 2 ** math.floor(k / each), 1000) + 1


@pytest.mark.parametrize("stage", [0, 3])
def test_how_often_each_cell_is_drawn(stage):
    """P(σ_i) ∝ erf((ln σ_{i+1} + 1.1)/(2 √2)) − erf((ln σ_i + 1.1)/(2 √2))."""
    law, n = methods.ict().times, 10 * 2**stage + 1
    levels = [(0.002 ** (1 / 7) + i / (n - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7 for i in range(n)]
    mass = [
        math.erf((math.log(high) + 1.1) / (2 * math.sqrt(2)))
        - math.erf((math.log(low) + 1.1) / (2 * math.sqrt(2)))
        for low, high in pairwise(levels)
    ]
    expected = torch.tensor(mass, dtype=D) / sum(mass)
    found = law.probabilities(stage / 8)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    t = law.draw(RowGenerator(0, "times", total=20_000), stage / 8).t
    cell = torch.searchsorted(torch.tensor(levels).float(), t) - 1
    drawn = torch.bincount(cell, minlength=n - 1).double() / 20_000
    assert float((drawn - expected).abs().max()) < 0.012


def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    return torch.sin(3 * x + like(t, x))


def function(x: Tensor, t: Tensor) -> Tensor:
    t_ = t[:, None]
    inner = network(x / (t_**2 + 0.25).sqrt(), t, t, None)
    return 0.25 / ((t_ - 0.002) ** 2 + 0.25) * x + 0.5 * (t_ - 0.002) / (0.25 + t_**2).sqrt() * inner


def test_the_loss():
    """(√(‖f(x_{i+1}) − sg f(x_i)‖² + c²) − c)/(σ_{i+1} − σ_i), c = 0.00054 √D, the same weights on both sides."""
    objective = methods.ict()
    assert objective.frozen == Self() and objective.loss == Weighted(PseudoHuber(), by="1/(t - s)")
    t = torch.tensor([0.004, 0.3, 2.5, 80.0], dtype=D)
    s = torch.tensor([0.002, 0.28, 2.0, 77.0], dtype=D)
    random = torch.Generator().manual_seed(1)
    x, z = (torch.randn(4, 6, dtype=D, generator=random) for _ in range(2))
    point = objective.point(x, z, t, s, torch.full_like(t, 0.002))
    regression = objective.regress(objective.flow_map(network), None, point)
    apart = function(x + t[:, None] * z, t) - function(x + s[:, None] * z, s)
    c = 0.00054 * math.sqrt(6)
    expected = ((apart.square().sum(1) + c**2).sqrt() - c) / (t - s)
    torch.testing.assert_close(objective.per_sample(regression, point), expected, rtol=1e-9, atol=1e-12)


def test_no_gradient_goes_through_the_neighbor():
    objective, weight = methods.ict(), torch.tensor(0.7, dtype=D, requires_grad=True)
    t, s = torch.tensor([2.5], dtype=D), torch.tensor([2.0], dtype=D)
    x, z = torch.ones(1, 2, dtype=D), torch.full((1, 2), 0.3, dtype=D)
    point = objective.point(x, z, t, s, torch.full_like(t, 0.002))
    flow = objective.flow_map(lambda x, t, r, label: weight * x)
    loss = objective.per_sample(objective.regress(flow, None, point), point).sum()
    (found,) = torch.autograd.grad(loss, weight)

    def value(w: float) -> float:  # the neighbor keeps 0.7
        def f(u: float, of: float) -> float:
            y = 1 + u * 0.3
            out = 0.5 * (u - 0.002) / math.sqrt(0.25 + u**2)
            return 0.25 / ((u - 0.002) ** 2 + 0.25) * y + out * of * y / math.sqrt(u**2 + 0.25)

        c = 0.00054 * math.sqrt(2)
        return (math.sqrt(2 * (f(2.5, w) - f(2.0, 0.7)) ** 2 + c**2) - c) / 0.5

    assert float(found) == pytest.approx((value(0.7 + 1e-6) - value(0.7 - 1e-6)) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("path", ["trigonometric", "linear"])
def test_discrete_and_continuous_are_one_replace_apart(path):
    """(X_t − X_s)/(t − s) → dX/dt along the pair, which the Eulerian target has −∂_t b times, on either path."""
    esc = methods.consistency_training("esc")
    if path == "linear":
        esc = replace(esc, path=LinearPath(), times=NoiseGrid(clock="linear"))
    continuous = replace(esc, target=Eulerian(weighting="cos2"))
    x, e = (torch.randn(3, 4, dtype=D, generator=torch.Generator().manual_seed(i)) for i in (5, 6))
    t, zero = torch.tensor([0.2, 0.5, 0.9], dtype=D), torch.zeros(3, dtype=D)
    flow = esc.flow_map(network)
    tangent = continuous.regress(flow, None, continuous.point(x, e, t, t, zero))
    rate = (torch.cos(t * math.pi / 2) if path == "trigonometric" else torch.ones_like(t))[:, None]  # −∂_t b
    gaps = []
    for step in (1e-3, 1e-4):
        found = esc.regress(flow, None, esc.point(x, e, t, t - step, zero))
        slope = (found.prediction - found.target) / step
        gaps.append(float((slope * rate - (tangent.target - tangent.prediction)).abs().max()))
    assert gaps[1] < 1e-2 and gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
