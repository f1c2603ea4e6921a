"""Transition models (Wang et al. 2025, arXiv 2509.04394) against their formulas, as in the code of WZDTHU/TiM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import methods
from flowleap.losses import AdaptivePower, Weighted
from flowleap.paths import VEPath
from flowleap.randomness import RowGenerator
from flowleap.times import LogNormal, SortedPair

D = torch.float64


def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    return torch.sin(2 * x + t[:, None] - 3 * r[:, None]) + t[:, None] * x


def test_target_and_loss() -> None:
    objective = methods.tim()
    x, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    t, r = torch.tensor([0.9, 0.6, 0.5, 0.3], dtype=D), torch.tensor([0.2, 0.0, 0.1, 0.3], dtype=D)
    flow = objective.flow_map(network)
    point = objective.point(x, noise, t, t, r)
    regression = objective.regress(flow, flow, point)

    def at(time: Tensor) -> Tensor:
        return network((1 - time)[:, None] * x + time[:, None] * noise, time, r, None)

    slope = (at(t + 0.005) - at(t - 0.005)) / 0.01
    target = noise - x - (t - r)[:, None] * slope
    torch.testing.assert_close(regression.target, target, rtol=1e-10, atol=1e-10)
    mean = (at(t) - target).square().mean(1)
    expected = (torch.tan(t) - torch.tan(r) + 1) ** -0.5 * mean / (mean + 1e-5)
    torch.testing.assert_close(objective.per_sample(regression, point), expected, rtol=1e-10, atol=1e-10)


def test_half_of_the_rows_are_flow_matching_and_a_tenth_jumps_to_the_data() -> None:
    t, _, r, count = methods.tim().times.draw(RowGenerator(0, "times", total=20_000), 0.5)
    assert count == 10_000 and torch.equal(t[count:], r[count:])
    assert float((r == 0).double().mean()) == pytest.approx(0.1, abs=0.01)


def test_the_weight_is_one_of_times_up_to_one() -> None:
    loss = Weighted(AdaptivePower(), by="1/sqrt(tan(t) - tan(r) + 1)")
    assert loss.cites == ("wang2025transition",)
    with pytest.raises(ValueError, match="VEPath are noise levels"):
        replace(methods.meanflow(), path=VEPath(), times=SortedPair(LogNormal()), loss=loss)
