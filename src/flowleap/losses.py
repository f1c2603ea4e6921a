"""Per-sample distances and weights: (regression, point) → (batch,). All arithmetic is in fp32 or wider.

| loss            | formula, Δ = prediction − target                  | source                               |
|-----------------|---------------------------------------------------|--------------------------------------|
| Squared         | ‖Δ‖²                                              | —                                    |
| PseudoHuber     | √(‖Δ‖² + c²) − c                                  | Song and Dhariwal 2023 (iCT)         |
| AdaptivePower   | ‖Δ‖² / sg(‖Δ‖² + c)^p                             | Geng et al. 2025 (MeanFlow)          |
| LearnedVariance | e^{−ℓ} m + ℓ, m any of the above, ℓ(t, r) learned | Karras et al. 2023 (EDM2); ESC       |

`reduce` says whether ‖Δ‖² sums or averages over the dimensions of a row: c changes its meaning by a factor D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from flowleap.point import Point, Regression
from flowleap.tensors import squared_norm

__all__ = ["AdaptivePower", "LearnedVariance", "Loss", "PseudoHuber", "Squared"]


@runtime_checkable
class Loss(Protocol):
    """A per-sample loss."""

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        """Return (batch,)."""
        ...


def _distance(regression: Regression, reduce: str) -> Tensor:
    assert regression.space == "output", "losses that compare maps say so themselves"
    delta = regression.prediction - regression.target
    wide = torch.promote_types(delta.dtype, torch.float32)
    return squared_norm(delta.to(wide), reduce)


@dataclass(frozen=True)
class Squared:
    """‖Δ‖², summed or averaged over the dimensions."""

    reduce: str = "mean"

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        return _distance(regression, self.reduce)


@dataclass(frozen=True)
class PseudoHuber:
    """√(‖Δ‖² + c²) − c; c=None means c = 0.00054 √D with D the dimensions of a row.

    Source: Song and Dhariwal 2023 (arXiv 2310.14189), the pseudo-Huber metric and its c = 0.00054 √D.
    """

    c: float | None = None
    reduce: str = "sum"
    cites: ClassVar[tuple[str, ...]] = ("song2023improved",)

    def __post_init__(self) -> None:
        if self.c is not None and not self.c > 0:
            raise ValueError(f"PseudoHuber(c={self.c}): c must be positive, or None for 0.00054 √D")

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        c = 0.00054 * regression.target[0].numel() ** 0.5 if self.c is None else self.c
        return torch.sqrt(_distance(regression, self.reduce) + c**2) - c


@dataclass(frozen=True)
class AdaptivePower:
    """‖Δ‖² / sg(‖Δ‖² + c)^p: p = 0 is the squared error, p = ½ like pseudo-Huber, p = 1 a normalized gradient.

    At p = 1 the value sits at 1 whatever the network does: watch `Regression.raw` instead.
    Source: Geng et al. 2025 (arXiv 2505.13447) section 4.3 "loss metrics", weight 1/(‖Δ‖² + c)^p.
    """

    power: float = 1.0
    eps: float = 1e-2
    reduce: str = "sum"
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean",)

    def __post_init__(self) -> None:
        if self.power < 0 or not self.eps > 0:
            raise ValueError(
                f"AdaptivePower(power={self.power}, eps={self.eps}): power ≥ 0 and eps > 0 are expected"
            )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        distance = _distance(regression, self.reduce)
        return distance / (distance.detach() + self.eps) ** self.power


@dataclass(frozen=True)
class LearnedVariance:
    """e^{−ℓ} m + ℓ: a weight the network learns, optimal at ℓ = ln E[m | t, r].

    ∂/∂ℓ = 1 − e^{−ℓ} m. Around AdaptivePower at p = 1 (m ≈ 1) it is nearly inert, ℓ* ≈ 0.

    Raises: ValueError where the network has no log-variance head.
    Source: Karras et al. 2023 (arXiv 2312.02696) eq. 21; Lin et al. 2025 (arXiv 2512.11831).
    """

    inner: Loss = Squared()
    cites: ClassVar[tuple[str, ...]] = ("karras2024analyzing", "lin2025design")

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        log_variance = regression.log_variance
        if log_variance is None:
            raise ValueError(
                "LearnedVariance needs a network with log_variance(t, r): build it with log_variance=True, or wrap it "
                "in networks.WithLogVariance(network)"
            )
        return torch.exp(-log_variance) * self.inner(regression, point) + log_variance
