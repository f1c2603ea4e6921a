"""Distances of a prediction from its target, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flowleap.interfaces import Loss
from flowleap.point import Point, Regression
from flowleap.tensors import squared_norm

__all__ = ["AdaptivePower", "Norm", "PseudoHuber", "Reduce", "Squared"]

Reduce = Literal["sum", "mean"]
"""What a distance does with the dimensions of a sample."""


def _distance(regression: Regression, reduce: str) -> Tensor:
    delta = regression.prediction - regression.target
    wide = torch.promote_types(delta.dtype, torch.float32)
    return squared_norm(delta.to(wide), reduce)


@dataclass(frozen=True)
class Squared(Loss):
    """‖Δ‖², summed or averaged over the dimensions."""

    reduce: Reduce = "mean"
    template: ClassVar[dict[str, str]] = {"loss metric": "ℓ2, {reduce}", "weight": "1"}

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        return _distance(regression, self.reduce)


@dataclass(frozen=True)
class PseudoHuber(Loss):
    """√(‖Δ‖² + c²) − c; c=None means c = 0.00054 √D with D the dimensions of a row.

    Source: Song and Dhariwal 2023 (arXiv 2310.14189), the pseudo-Huber metric and its c = 0.00054 √D.
    """

    c: float | None = None
    reduce: Reduce = "sum"
    template: ClassVar[dict[str, str]] = {"loss metric": "pseudo-Huber, {reduce}", "weight": "1"}
    cites: ClassVar[tuple[str, ...]] = ("song2023improved",)

    def __post_init__(self) -> None:
        if self.c is not None and not self.c > 0:
            raise ValueError(f"PseudoHuber(c={self.c}): c must be positive, or None for 0.00054 √D")

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        c = 0.00054 * regression.target[0].numel() ** 0.5 if self.c is None else self.c
        return torch.sqrt(_distance(regression, self.reduce) + c**2) - c


@dataclass(frozen=True)
class Norm(Loss):
    """‖Δ‖, whose gradient has length 1 however small Δ is, and is 0 at Δ = 0.

    Source: Geng et al. 2024 (arXiv 2406.14548), the metric of easy consistency tuning with c = 0.
    """

    reduce: Reduce = "sum"
    template: ClassVar[dict[str, str]] = {"loss metric": "‖Δ‖, {reduce}", "weight": "1"}
    cites: ClassVar[tuple[str, ...]] = ("geng2024consistency",)

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        distance = _distance(regression, self.reduce)
        apart = distance > 0
        return torch.where(apart, distance, torch.ones_like(distance)).sqrt() * apart


@dataclass(frozen=True)
class AdaptivePower(Loss):
    """‖Δ‖² / sg(‖Δ‖² + c)^p: p = 0 is the squared error, p = ½ like pseudo-Huber, p = 1 a normalized gradient.

    At p = 1 the value sits at 1 whatever the network does: watch `Regression.raw` instead.
    Source: Geng et al. 2025 (arXiv 2505.13447) section 4.3 "loss metrics", weight 1/(‖Δ‖² + c)^p.
    """

    power: float = 1.0
    eps: float = 1e-2
    reduce: Reduce = "sum"
    template: ClassVar[dict[str, str]] = {
        "loss metric": "ℓ2, {reduce}",
        "weight": "1 / (‖Δ‖² + {eps:g})^{power:g}",
    }
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean",)

    @property
    def error_power(self) -> float:
        return self.power

    def __post_init__(self) -> None:
        if self.power < 0 or not self.eps > 0:
            raise ValueError(
                f"AdaptivePower(power={self.power}, eps={self.eps}): power ≥ 0 and eps > 0 are expected"
            )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        distance = _distance(regression, self.reduce)
        return distance / (distance.detach() + self.eps) ** self.power
