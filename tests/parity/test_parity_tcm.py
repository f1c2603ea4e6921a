"""Truncated consistency models against their published formulas, written out by hand in float64.

Lee et al. 2024 (arXiv 2410.14895): noise levels t ≥ t' = 1, targets of a composite of the network and the frozen first
stage, two means of the loss, on the boundary and above it. Numbers as in the code of NVlabs/FastGen.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from flowleap import methods
from flowleap.networks import Truncated
from flowleap.randomness import RowGenerator
from flowleap.times import StudentT, Truncation

D = torch.float64
LEVELS = [1.0, 1.0, 1.002, 1.5, 6.0, 40.0, 80.0, 1.0]


def student(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    return torch.tanh(x) * 0.4 + t[:, None].log() / 5


def stage_one(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    return torch.cos(x) - t[:, None].log() / 7


def denoised(network, x: Tensor, t: float) -> Tensor:
    """D(x; t) = c_skip x + c_out F(c_in x), EDM's of σ_d = ½."""
    time = torch.full((1,), t, dtype=D)
    skip, out = 0.25 / (t**2 + 0.25), t * 0.5 / math.sqrt(t**2 + 0.25)
    return skip * x + out * network(x / math.sqrt(t**2 + 0.25), time, time, None)


def below(t: float) -> float:
    """s = t (1 − (1 − 0.999)(1 + 8 sigmoid(−t)))."""
    return t * (1 - 0.001 * (1 + 8 / (1 + math.exp(t))))


def test_the_loss_is_two_means() -> None:
    """mean over rows above t' of λ ‖D_θ(x_t, t) − D(x_s, s)‖ + 0.1 times that over rows on t', λ = 1/(t − s)."""
    random = torch.Generator().manual_seed(2)
    x, noise = (torch.randn(len(LEVELS), 4, dtype=D, generator=random) for _ in range(2))
    on, above = [], []
    for i, t in enumerate(LEVELS):
        s = below(t)
        x_t, x_s = x[i : i + 1] + t * noise[i : i + 1], x[i : i + 1] + s * noise[i : i + 1]
        target = denoised(student if s >= 1 else stage_one, x_s, s)
        value = float((denoised(student, x_t, t) - target).norm()) / (t - s)
        (on if t == 1 else above).append(value)
    published = sum(above) / len(above) + 0.1 * sum(on) / len(on)

    objective, share = methods.tcm(), 3 / 8
    objective = replace(
        objective,
        times=replace(objective.times, share=share),
        loss=replace(objective.loss, share=share),
    )
    objective = objective.with_teacher(objective.flow_map(stage_one))
    flow = objective.flow_map(student)
    t = torch.tensor(LEVELS, dtype=D)
    point = objective.point(
        x, noise, t, torch.tensor([below(each) for each in LEVELS], dtype=D), torch.zeros_like(t)
    )
    found = objective.per_sample(objective.regress(flow, None, point), point)
    assert float(found.mean()) == pytest.approx(published, rel=1e-9)
    boundary = float(found[0] / (on[0] / 1))
    assert boundary == pytest.approx(0.1 * 8 / 3, rel=1e-9) and float(found[4] / above[2]) == pytest.approx(
        8 / 5
    )


def test_the_step_below_is_the_published_ratio() -> None:
    """At t = 1: 1 − 0.001 (1 + 8/(1 + e)) = 0.996848… ; at 80 it is 79.92."""
    stop = Truncation().stop(torch.tensor([1.0, 3.0, 80.0], dtype=D))
    torch.testing.assert_close(
        stop, torch.tensor([below(1.0), below(3.0), 79.92], dtype=D), rtol=1e-12, atol=0
    )
    assert float(stop[0]) == pytest.approx(1 - 0.001 * (1 + 8 / (1 + math.e)), rel=1e-12)


@pytest.mark.parametrize(
    "law",
    [StudentT(), StudentT(low=2.0), StudentT(0.3, 1.0, 2.0, 0.05, 20.0), StudentT(df=30.0, scale=1.0)],
    ids=repr,
)
def test_levels_have_the_truncated_law(law: StudentT) -> None:
    """(F((ln t − μ)/σ) − F(a))/(F(b) − F(a)) with F of Student's law, as scipy has it."""
    t = law.sample(RowGenerator(0, "times", total=20_000)).double().numpy()
    assert t.min() >= law.low and t.max() <= law.high

    def standard(level):
        return stats.t.cdf((np.log(level) - law.mean) / law.scale, law.df)

    low, high = standard(law.low), standard(law.high)
    assert stats.kstest(t, lambda level: (standard(level) - low) / (high - low)).pvalue > 1e-3


def test_the_network_of_a_run_is_both() -> None:
    inner = torch.nn.Identity()
    inner.forward = student  # type: ignore[method-assign]
    inner.config = {}  # type: ignore[assignment]
    network = Truncated(inner)
    network.first.forward = stage_one
    objective = methods.tcm()
    flow, x = (
        objective.flow_map(network),
        torch.randn(3, 4, dtype=D, generator=torch.Generator().manual_seed(4)),
    )
    for t in (0.5, 0.999, 1.0, 30.0):
        expected = denoised(student if t >= 1 else stage_one, x, t)
        torch.testing.assert_close(flow(x, t, 0.0), expected, rtol=1e-10, atol=1e-12)
