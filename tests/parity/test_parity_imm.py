"""Inductive moment matching against its published formulas, written out by hand in float64.

Zhou, Ermon, Song 2025 (arXiv 2503.07565) in its own letters: x_t = (1 − t) x + t σ_d ε, jumps t → s, and the point r
between them from which the target comes. So s there is r here, and r there is s here.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import methods
from flowleap.parameterization import EDM
from flowleap.paths import TrigPath, VEPath
from flowleap.times import Particles

D = torch.float64
SIGMA = 0.5
TIMES = [(0.9, 0.3), (0.55, 0.54), (0.994, 0.0)]


def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    """Any smooth function of all that it is given, rows alone."""
    return torch.sin(2 * x + t[:, None]) - x.roll(1, dims=1) * r[:, None] + 0.3


def rows(group: int = 4, dims: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    x, noise = (torch.randn(len(TIMES) * group, dims, dtype=D, generator=random) for _ in range(2))
    t, r = (torch.tensor([pair[i] for pair in TIMES], dtype=D).repeat_interleave(group) for i in (0, 1))
    return x, noise, t, middle(t, r), r


def middle(t: Tensor, s: Tensor) -> Tensor:
    """r(s, t) = max(s, η⁻¹(η(t) − (η_max − η_min)/2^12)), η = t/(1 − t), of times up to 0.994."""
    found = []
    for start, end in zip(t.tolist(), s.tolist(), strict=True):
        eta = start / (1 - start) - (0.994 / 0.006) / 4096
        found.append(max(eta / (1 + eta) if eta > 0 else 0.0, end))
    return torch.tensor(found, dtype=t.dtype)


def jump(z: Tensor, t: float, s: float) -> Tensor:
    """f(z, s, t) = z − (t − s) σ_d F(c_in z, s, t), c_in = 1/(σ_d √(α² + σ²)): Euler-FM."""
    one = torch.ones(len(z), dtype=D)
    scaled = z / (SIGMA * math.sqrt((1 - t) ** 2 + t**2))
    return z - (t - s) * SIGMA * network(scaled, one * t, one * s, None)


def kernel(a: Tensor, b: Tensor, w: float) -> float:
    return math.exp(-w * max(math.dist(a.tolist(), b.tolist()), 1e-8) / len(a))


def published(power: int, shift: float) -> list[float]:
    """The loss of each group, pair by pair."""
    x, noise, t, r, s = rows()
    losses = []
    for start in range(0, len(x), 4):
        here = slice(start, start + 4)
        t0, r0, s0 = (float(time[start]) for time in (t, r, s))
        y = jump((1 - t0) * x[here] + t0 * SIGMA * noise[here], t0, s0)
        z_r = (1 - r0) * x[here] + r0 * SIGMA * noise[here]
        held = jump(z_r, r0, s0)
        w = 1 / ((t0 - s0) * SIGMA)
        mmd = 0.0
        for i in range(4):
            for j in range(4):
                mmd += (
                    kernel(y[i], y[j], w) + kernel(held[i], held[j], w) - 2 * kernel(y[i], held[j], w)
                ) / 16
        log_snr = 2 * math.log((1 - t0) / t0)
        fall = 2 / (t0 * (1 - t0))
        weight = 0.5 / (1 + math.exp(-(shift - log_snr))) * fall * (1 - t0) ** power / ((1 - t0) ** 2 + t0**2)
        losses.append(weight * mmd)
    return losses


@pytest.mark.parametrize(("power", "shift"), [(2, 4.0), (1, 5.0)])
def test_the_loss_of_groups(power: int, shift: float) -> None:
    objective = methods.imm()
    objective = replace(objective, loss=replace(objective.loss, power=power, shift=shift))
    flow = objective.flow_map(network)
    point = objective.point(*rows())
    found = objective.per_sample(objective.regress(flow, flow, point), point)
    expected = torch.tensor(published(power, shift), dtype=D).repeat_interleave(4)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-14)
    assert float(found.min()) > 0, "a V-statistic of a positive definite kernel is not negative"


def test_numbers_of_the_weights_and_of_the_kernel() -> None:
    """w = 1/(0.6 · 0.5) at (0.9, 0.3); w_out at t = 0.9 for a = 2, b = 4: λ = 2 ln(1/9), −λ' = 2/0.09."""
    loss, path = methods.imm().loss, methods.imm().path
    t, r = torch.tensor([0.9], dtype=D), torch.tensor([0.3], dtype=D)
    assert float(loss.scale(path, t, r)) == pytest.approx(3.3333333333333335, rel=1e-12)
    log_snr = -4.394449154672439
    by_hand = 0.5 / (1 + math.exp(log_snr - 4)) * 22.22222222222222 * 0.01 / 0.82
    assert float(loss.weight(path, t)) == pytest.approx(by_hand, rel=1e-12)
    ends = loss.weight(path, torch.tensor([0.0, 1.0], dtype=D))
    assert ends.tolist() == [0.0, 0.0], "finite where the log-SNR is not"
    first = replace(loss, power=1).weight(path, torch.tensor([1.0], dtype=D))
    assert float(first) == pytest.approx(1.0), "½ · 2/(1 − t) · (1 − t) at t = 1"


@pytest.mark.parametrize("path", [TrigPath(0.5), VEPath(0.002, 80.0)], ids=["trigonometric", "noise levels"])
def test_the_weight_is_that_of_any_path(path) -> None:
    """½ sigmoid(b − λ)(−dλ/dt) α^a/(α² + σ²), with dλ/dt by automatic differentiation."""
    t = torch.tensor([0.1, 0.4, 0.9], dtype=D) * path.t_max
    t.requires_grad_(True)
    log_snr = 2 * (path.alpha(t) / path.sigma(t)).log()
    (slope,) = torch.autograd.grad(log_snr.sum(), t)
    power = path.alpha(t) ** 2 + path.sigma(t) ** 2
    by_hand = 0.5 * torch.sigmoid(4 - log_snr) * -slope * path.alpha(t) ** 2 / power
    torch.testing.assert_close(
        methods.imm().loss.weight(path, t.detach()), by_hand.detach(), rtol=1e-10, atol=0
    )


def test_the_point_between_is_one_step_of_the_noise_level_below() -> None:
    """η falls by (η_max − η_min)/2^γ: linear η = t/(1 − t), cosine η = tan(πt/2), and never below s."""
    t = torch.tensor([0.9, 0.5, 0.03, 0.9], dtype=D)
    s = torch.tensor([0.1, 0.2, 0.01, 0.8999], dtype=D)
    law = Particles()
    torch.testing.assert_close(law.on(methods.imm().path).stop(t, s), middle(t, s), rtol=1e-12, atol=0)
    assert middle(t, s).tolist()[2:] == [0.01, 0.8999]
    tangent = [math.tan(math.pi * each / 2) for each in (0.9, 0.994)]
    by_hand = 2 / math.pi * math.atan(tangent[0] - tangent[1] / 4096)
    assert float(law.on(TrigPath()).stop(t[:1], s[:1])) == pytest.approx(by_hand, rel=1e-12)


def test_the_jump_is_euler_fm() -> None:
    objective = methods.imm()
    z = torch.randn(5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        objective.flow_map(network)(z, 0.8, 0.3), jump(z, 0.8, 0.3), rtol=1e-12, atol=0
    )
    assert not isinstance(objective.parameterization, EDM)


def test_samplers_are_the_published_two() -> None:
    """Pushforward chains maps from T = 0.994; restart goes to the data and noises it anew, from the same times."""
    objective = methods.imm()
    flow, noise = (
        objective.flow_map(network),
        torch.randn(4, 3, dtype=D, generator=torch.Generator().manual_seed(1)),
    )
    middle_time, start = 0.994 / 2, 0.994 * SIGMA * noise
    pushed = jump(jump(start, 0.994, middle_time), middle_time, 0.0)
    torch.testing.assert_close(objective.sample(flow, noise, 2), pushed, rtol=1e-10, atol=1e-12)
    restarted = replace(objective, sampling=replace(objective.sampling, renoise=1.0))
    seen: list[Tensor] = []

    def noting(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        seen.append(x * SIGMA * ((1 - t[:, None]) ** 2 + t[:, None] ** 2).sqrt())
        assert bool((r == 0).all())
        return network(x, t, r, label)

    made = restarted.sample(objective.flow_map(noting), noise, 2)
    clean = jump(start, 0.994, 0.0)
    fresh = (seen[1] - (1 - middle_time) * clean) / (middle_time * SIGMA)
    assert 0.2 < float(fresh.std()) < 2 and float((fresh - noise).abs().min()) > 0
    torch.testing.assert_close(made, jump(seen[1], middle_time, 0.0), rtol=1e-10, atol=1e-12)
    timed = objective.sample(flow, noise, times=(0.994, 1.4 / 2.4, 0.0))
    torch.testing.assert_close(
        timed, jump(jump(start, 0.994, 1.4 / 2.4), 1.4 / 2.4, 0.0), rtol=1e-10, atol=1e-12
    )
