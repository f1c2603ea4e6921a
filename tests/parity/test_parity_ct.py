"""Consistency training as published, long-hand: Song et al. 2023 (arXiv 2303.01469), and the column of Lin et al.

Everything is written out from the equations, in float64, and calls none of the parts it is held against.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import methods
from flowleap.objectives import EMA, GridEMA
from flowleap.parameterization import ConsistencyEDM
from flowleap.paths import LinearPath, VEPath
from flowleap.randomness import RowGenerator
from flowleap.tensors import like
from flowleap.times import NoiseGrid

D = torch.float64


def grid(points: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> list[float]:
    """t_i, i = 1 … N, from the data to the noise."""
    return [
        (low ** (1 / rho) + i / (points - 1) * (high ** (1 / rho) - low ** (1 / rho))) ** rho
        for i in range(points)
    ]


def test_n_of_k_is_the_published_schedule():
    """N(k) = ⌈√(k/K ((s1 + 1)² − s0²) + s0²) − 1⌉ + 1, s0 = 2, s1 = 150 or 200."""
    steps = 800
    for s1 in (150, 200):
        law = NoiseGrid(end=s1)
        for k in range(steps + 1):
            expected = math.ceil(math.sqrt(k / steps * ((s1 + 1) ** 2 - 2**2) + 2**2) - 1) + 1
            assert law.points(k / steps) == expected
        assert (law.points(0.0), law.points(1.0)) == (2, s1 + 1)
        assert law.points(law.horizon + 1e-6) == s1 + 1 and law.points(law.horizon - 1e-6) == s1
    assert [NoiseGrid().points(p) for p in (0.1, 0.25, 0.5, 0.9)] == [48, 76, 107, 144]


def test_the_decay_of_the_target_follows_the_grid():
    """μ(k) = exp(s0 ln μ0 / N(k)): 0.95 at first, where N = 2, and 0.95^(2/151) in the end."""
    objective = methods.consistency_training("original").for_run(100)
    assert objective.frozen == GridEMA(0.95)
    for k in (0, 1, 7, 50, 99, 100):
        n = math.ceil(math.sqrt(k / 100 * (151**2 - 4) + 4) - 1) + 1
        assert objective.target_decay(k) == pytest.approx(math.exp(2 * math.log(0.95) / n), rel=1e-12)
    assert objective.target_decay(0) == pytest.approx(0.95) and objective.target_decay(99) > 0.999
    assert methods.ict().target_decay(3) is None
    assert replace(objective, frozen=EMA(0.9)).target_decay(0) == 0.1


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_times_are_neighbors_of_the_grid_all_alike(progress):
    law = NoiseGrid()
    t, s, r, off = law.draw(RowGenerator(0, "times", total=4000), progress)
    levels = grid(law.points(progress))
    torch.testing.assert_close(law.levels(progress), torch.tensor(levels, dtype=D), rtol=1e-12, atol=0)
    single = torch.tensor(levels).float()
    cell = torch.searchsorted(single, t) - 1
    assert torch.equal(t, single[cell + 1]) and torch.equal(s, single[cell]) and off == 4000
    assert bool((r == torch.tensor(0.002)).all())
    counts = torch.bincount(cell, minlength=len(levels) - 1).double() / 4000
    assert bool((law.probabilities(progress) == 1 / (len(levels) - 1)).all())
    assert float((counts - 1 / (len(levels) - 1)).abs().max()) < 4 * math.sqrt(1 / (len(levels) - 1) / 4000)


def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    """A network with a dependence on everything it is given."""
    return torch.sin(3 * x + like(t, x)) * like(1 + 0.1 * torch.tanh(r), x)


def other(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    return torch.cos(2 * x - like(t, x))


def boundary(net, x: Tensor, t: Tensor) -> Tensor:
    """f(x, t) = c_skip x + c_out F(c_in x, t): the consistency function of the paper, σ_d = 0.5, ε = 0.002."""
    t_ = t[:, None]
    skip = 0.25 / ((t_ - 0.002) ** 2 + 0.25)
    out = 0.5 * (t_ - 0.002) / (0.25 + t_**2).sqrt()
    return skip * x + out * net(x / (t_**2 + 0.25).sqrt(), t, t, None)


def test_the_loss_is_the_published_one():
    """λ d(f_θ(x + t_{n+1} z, t_{n+1}), f_θ⁻(x + t_n z, t_n)), d the mean squared difference, λ = 1."""
    objective = methods.consistency_training("original")
    levels = grid(18)
    random = torch.Generator().manual_seed(1)
    x, z = (torch.randn(17, 5, dtype=D, generator=random) for _ in range(2))
    t, s = torch.tensor(levels[1:], dtype=D), torch.tensor(levels[:-1], dtype=D)
    point = objective.point(x, z, t, s, torch.full_like(t, 0.002))
    flow, frozen = objective.flow_map(network), objective.flow_map(other)
    regression = objective.regress(flow, frozen, point)
    prediction, target = boundary(network, x + t[:, None] * z, t), boundary(other, x + s[:, None] * z, s)
    torch.testing.assert_close(regression.prediction, prediction, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(regression.target, target, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(target[0], (x + 0.002 * z)[0])
    expected = (prediction - target).square().mean(1)
    torch.testing.assert_close(objective.per_sample(regression, point), expected, rtol=1e-9, atol=1e-15)


def test_sampling_is_one_jump_then_fresh_noise():
    """x ← f(x, t); x ← x + √(τ² − ε²) z: ours adds τ z to the point at ε, 5e-6 of it apart at τ = 1."""
    objective = methods.consistency_training("original")
    flow = objective.flow_map(network)
    noise = torch.randn(3, 5, dtype=D, generator=torch.Generator().manual_seed(2))
    one = objective.sample(flow, noise, 1)
    eighty = torch.full((3,), 80.0, dtype=D)
    torch.testing.assert_close(one, boundary(network, 80 * noise, eighty))
    assert objective.sampling.name(2) == "gamma 1"
    two = objective.sample(flow, noise, times=(80.0, 1.0, 0.002))
    assert not torch.allclose(two, flow(flow(80 * noise, 80.0, 1.0), 1.0, 0.002))
    assert math.sqrt(1 - 0.002**2) == pytest.approx(1, abs=5e-6)


def test_the_parameterization_is_the_identity_at_any_landing_and_only_for_noise_levels():
    meaning, path = ConsistencyEDM(), VEPath()
    t = torch.tensor([0.002, 0.5, 80.0], dtype=D)
    a, b = meaning.coefficients(path, t, t)
    assert bool((a == 1).all()) and bool((b == 0).all())
    with pytest.raises(ValueError, match=r"ConsistencyEDM cannot be used on LinearPath: .*noise levels"):
        replace(methods.flow_matching(), parameterization=meaning)


# the column of Lin et al. (arXiv 2512.11831): their code, EDAPINENUT/ExplicitShortCut, loss/consistency_loss_esc.py


def test_esc_times_are_the_grid_by_the_arc_tangent():
    objective = methods.consistency_training("esc")
    expected = torch.tensor([2 / math.pi * math.atan(level) for level in grid(151)]).float()
    t, s, r, _ = objective.times.draw(RowGenerator(0, "times", total=3000), 1.0)
    assert set(t.tolist()) <= set(expected.tolist()) and bool((r == 0).all())
    assert float(t.max()) == pytest.approx(2 / math.pi * math.atan(80)) and bool((s < t).all())


@pytest.mark.parametrize("path", ["trigonometric", "linear"])
def test_esc_loss(path):
    """‖X(x_t, t) − X(x_s, s)‖², X the DDIM step to r = 0 with the network's velocity; mean over dimensions."""
    objective = methods.consistency_training("esc")
    if path == "linear":
        objective = replace(objective, path=LinearPath(), times=NoiseGrid(clock="linear"))
    law = objective.times.draw(RowGenerator(3, "times", total=12), 0.4)
    t, s = law.t.double(), law.s.double()
    random = torch.Generator().manual_seed(4)
    x, e = (torch.randn(12, 5, dtype=D, generator=random) for _ in range(2))

    def landed(net, u: Tensor) -> Tensor:
        u_ = u[:, None]
        if path == "linear":
            return (z := (1 - u_) * x + u_ * e) - u_ * net(z, u, u, None)
        half = math.pi / 2
        z = torch.cos(half * u_) * x + torch.sin(half * u_) * e
        return torch.cos(half * u_) * z - torch.sin(half * u_) / half * net(z, u, u, None)

    point = objective.point(x, e, t, s, torch.zeros_like(t))
    regression = objective.regress(objective.flow_map(network), objective.flow_map(other), point)
    torch.testing.assert_close(regression.prediction, landed(network, t), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(regression.target, landed(other, s), rtol=1e-11, atol=1e-12)
    expected = (landed(network, t) - landed(other, s)).square().mean(1)
    torch.testing.assert_close(objective.per_sample(regression, point), expected, rtol=1e-10, atol=1e-14)


def test_the_linear_clock_is_where_the_path_has_that_noise():
    law = NoiseGrid(clock="linear")
    t = law.draw(RowGenerator(0, "times", total=500), 1.0).t.double()
    levels = torch.tensor(grid(151), dtype=D)
    nearest = (t / (1 - t))[:, None].sub(levels).abs().div(levels).amin(1)
    assert float(nearest.max()) < 1e-4 and float(t.max()) == pytest.approx(80 / 81, rel=1e-6)
