"""The plug-in velocity against its definition, written as three loops: rows, rows of the batch, dimensions.

Lin et al. 2025 (arXiv 2512.11831): w_ij = softmax_j Σ_d log N((x_t,i − α_i x_j)_d/σ_i; 0, κ²), x̄_i = Σ_j w_ij x_j,
v*_i = α'_i x̄_i + σ'_i (x_t,i − α_i x̄_i)/σ_i; with labels, j runs over the rows of the class of i.
"""

from __future__ import annotations

import math

import pytest
import torch

from flowleap.paths import LinearPath, Path, TrigPath
from flowleap.point import Point
from flowleap.velocities import PlugIn

D = torch.float64
ROWS, DIMS = 9, 4


def schedule(path: Path, t: float) -> tuple[float, float, float, float]:
    """α, σ, α', σ', by their formulas."""
    if isinstance(path, LinearPath):
        return 1 - t, t, -1.0, 1.0
    half = math.pi / 2
    return math.cos(half * t), math.sin(half * t), -half * math.sin(half * t), half * math.cos(half * t)


def by_loops(x, x_t, t, label, path: Path) -> torch.Tensor:
    rows = []
    for i in range(ROWS):
        alpha, sigma, d_alpha, d_sigma = schedule(path, float(t[i]))
        members = [j for j in range(ROWS) if label is None or label[j] == label[i]]
        logs = []
        for j in members:
            density = 0.0
            for d in range(DIMS):
                noise = (float(x_t[i, d]) - alpha * float(x[j, d])) / (sigma * path.noise_scale)
                density += -0.5 * noise**2 - 0.5 * math.log(2 * math.pi)
            logs.append(density)
        top = max(logs)
        weights = [math.exp(value - top) for value in logs]
        row = []
        for d in range(DIMS):
            mean = sum(w * float(x[j, d]) for w, j in zip(weights, members, strict=True)) / sum(weights)
            row.append(d_alpha * mean + d_sigma * (float(x_t[i, d]) - alpha * mean) / sigma)
        rows.append(row)
    return torch.tensor(rows, dtype=D)


@pytest.mark.parametrize("path", [LinearPath(), LinearPath(noise_scale=0.6), TrigPath(0.5)], ids=repr)
@pytest.mark.parametrize("labels", [True, False], ids=["classes", "no classes"])
def test_the_velocity_of_the_batch(path: Path, labels: bool) -> None:
    random = torch.Generator().manual_seed(4)
    x, noise = torch.randn(2, ROWS, DIMS, dtype=D, generator=random)
    t = torch.linspace(0.15, 0.98, ROWS, dtype=D)
    label = torch.tensor([0, 0, 1, 1, 1, 2, 0, 1, 0]) if labels else None
    x_t = path.point(x, noise, t)
    point = Point(path, x, noise, t, t, t, x_t, 0, label)
    expected = by_loops(x, x_t, t, label, path)
    torch.testing.assert_close(PlugIn(1.0)(point), expected, rtol=1e-11, atol=1e-11)
    if label is not None:  # alone in its class, a row keeps its own velocity
        torch.testing.assert_close(expected[5], path.velocity(x, noise, t)[5], rtol=1e-11, atol=1e-11)
