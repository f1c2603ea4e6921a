"""MeanFlow and ESC, guided, against their equations written out on a network whose derivatives are known.

Geng et al. 2025 (arXiv 2505.13447) eq. 6, 11, 19 and appendix B.1; Lin et al. 2025 (arXiv 2512.11831):

    ṽ = ω v + κ u(x_t, t, t | y) + (1 − ω − κ) u(x_t, t, t | ∅)   on rows with a label and t in the window, else ṽ = v
    u* = ṽ − (t − r) (ṽ·∇u + ∂_t u)(x_t, t, r)
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import Objective, methods
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.guidance import Guidance

D = torch.float64
NULL = 2
WAVES = torch.tensor([[0.9, -0.4], [0.5, 0.8]], dtype=D)
AHEAD, BEHIND = torch.tensor([1.1, -0.6], dtype=D), torch.tensor([-0.7, 0.9], dtype=D)
CLASSES = torch.tensor([[0.4, -0.2], [-0.9, 0.6], [0.1, 0.3]], dtype=D)  # the last is the null class


class Known:
    """u(x, t, r | y) = sin(x W + a t + b r + e_y); along (ẋ, 1, 0) its derivative is cos(…) (ẋ W + a)."""

    num_classes = NULL

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        return torch.sin(phase(x, t, r, label))

    def log_variance(self, t: Tensor, r: Tensor) -> Tensor:
        return 0.2 * t - 0.5 * r + 0.1


def phase(x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
    return x @ WAVES + t[:, None] * AHEAD + r[:, None] * BEHIND + CLASSES[label]


X = torch.tensor([[0.3, -0.8], [1.1, 0.2], [-0.5, 0.9], [0.7, 0.7], [-1.0, -0.3], [0.2, 0.1]], dtype=D)
NOISE = torch.tensor([[-0.4, 1.2], [0.6, -0.9], [1.5, 0.3], [-0.2, -1.1], [0.8, 0.5], [0.1, -0.7]], dtype=D)
T = torch.tensor([0.9, 0.6, 0.95, 0.5, 0.4, 0.85], dtype=D)
R = torch.tensor([0.0, 0.2, 0.7, 0.1, 0.4, 0.85], dtype=D)  # the last two are on the diagonal
LABEL = torch.tensor([0, 1, 0, 1, 1, 0])
DROPPED = torch.tensor([False, False, False, True, False, True])
WINDOW = (0.0, 0.92)
GUIDED = torch.tensor([True, True, False, False, True, False])  # row 2 lies outside the window


def by_hand(v: Tensor, omega: float, kappa: float) -> Tensor:
    """u* of every row."""
    x_t = (1 - T)[:, None] * X + T[:, None] * NOISE
    known, null = (
        torch.sin(phase(x_t, T, T, LABEL)),
        torch.sin(phase(x_t, T, T, torch.full_like(LABEL, NULL))),
    )
    mixed = omega * v + kappa * known + (1 - omega - kappa) * null
    v = torch.where(GUIDED[:, None], mixed, v)
    seen = torch.where(DROPPED, NULL, LABEL)
    rate = torch.cos(phase(x_t, T, R, seen)) * (v @ WAVES + AHEAD)
    return v - (T - R)[:, None] * rate


def regressed(objective: Objective, plug_in: Tensor | None = None):
    point = objective.point(X, NOISE, T, T, R, LABEL, dropped=DROPPED, plug_in=plug_in)
    return point, objective.regress(objective.flow_map(Known()), None, point)


@pytest.mark.parametrize(("omega", "kappa"), [(1.0, 0.5), (0.2, 0.92), (1.5, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize(
    "derivative", [TwoPass(), ExactJVP(), CentralDifference(1e-5)], ids=lambda part: type(part).__name__
)
def test_guided_targets_of_meanflow(derivative, omega: float, kappa: float) -> None:
    meanflow = methods.meanflow()
    objective = replace(
        meanflow,
        guidance=Guidance(omega, kappa, WINDOW),
        target=replace(meanflow.target, derivative=derivative),
    )
    point, found = regressed(objective)
    expected = by_hand(NOISE - X, omega, kappa)
    tolerance = 1e-9 if isinstance(derivative, CentralDifference) else 1e-13
    torch.testing.assert_close(found.target, expected, rtol=tolerance, atol=tolerance)

    prediction = torch.sin(phase(point.x_t, T, R, torch.where(DROPPED, NULL, LABEL)))
    torch.testing.assert_close(found.prediction, prediction, rtol=1e-13, atol=1e-13)
    error = (prediction - expected).square().sum(1)
    torch.testing.assert_close(
        objective.per_sample(found, point), error / (error + 0.01), rtol=1e-8, atol=1e-8
    )


def posterior_velocity() -> Tensor:
    """v* = Σ_j w_ij (ε_ij − x_j), ε_ij = (x_t,i − (1 − t_i) x_j)/t_i, over the rows of the same class, row by row."""
    x_t = (1 - T)[:, None] * X + T[:, None] * NOISE
    found = torch.zeros_like(X)
    for i in range(len(X)):
        total = 0.0
        for j in range(len(X)):
            if LABEL[i] != LABEL[j]:
                continue
            noise = (x_t[i] - (1 - T[i]) * X[j]) / T[i]
            weight = math.exp(-0.5 * float(noise.square().sum()))
            found[i] += weight * (noise - X[j])
            total += weight
        found[i] /= total
    return found


@pytest.mark.parametrize(("omega", "kappa"), [(1.0, 0.5), (0.2, 0.92)])
def test_guided_targets_of_esc(omega: float, kappa: float) -> None:
    """The velocity of the batch on chosen rows, mixed and differentiated along; e^{−ℓ} ‖Δ‖²/(‖Δ‖² + 10⁻³) + ℓ."""
    objective = replace(methods.esc(), guidance=Guidance(omega, kappa, WINDOW))
    chosen = torch.tensor([True, False, True, True, False, True])
    point, found = regressed(objective, chosen)
    v = torch.where(chosen[:, None], posterior_velocity(), NOISE - X)
    expected = by_hand(v, omega, kappa)
    torch.testing.assert_close(found.target, expected, rtol=1e-12, atol=1e-12)
    error = (found.prediction - expected).square().sum(1)
    head = 0.2 * T - 0.5 * R + 0.1
    loss = torch.exp(-head) * error / (error + 1e-3) + head
    torch.testing.assert_close(objective.per_sample(found, point), loss, rtol=1e-10, atol=1e-10)


def test_the_fixed_point_is_guided_with_the_effective_scale() -> None:
    """On the diagonal ṽ = u(·|y) gives u(·|y) = (ω v + (1 − ω − κ) u(·|∅))/(1 − κ): scale ω/(1 − κ) over null."""
    omega, kappa = 1.0, 0.5
    _, found = regressed(replace(methods.meanflow(), guidance=Guidance(omega, kappa, WINDOW)))
    row = 4
    x_t, v = (1 - T[row]) * X[row] + T[row] * NOISE[row], (NOISE - X)[row]
    known, null = (
        torch.sin(phase(x_t[None], T[row : row + 1], T[row : row + 1], torch.tensor([label])))[0]
        for label in (1, NULL)
    )
    scale = omega / (1 - kappa)
    fixed = null + scale * (v - null)
    expected = kappa * (known - fixed) + fixed  # the target differs from the fixed point by κ times the error
    torch.testing.assert_close(found.target[row], expected, rtol=1e-12, atol=1e-12)
