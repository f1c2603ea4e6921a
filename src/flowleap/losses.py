"""Per-sample distances and weights: (regression, point) → (batch,). All arithmetic is in fp32 or wider.

| loss            | formula, Δ = prediction − target                  | source                               |
|-----------------|---------------------------------------------------|--------------------------------------|
| Squared         | ‖Δ‖²                                              | —                                    |
| PseudoHuber     | √(‖Δ‖² + c²) − c                                  | Song and Dhariwal 2023 (iCT)         |
| AdaptivePower   | ‖Δ‖² / sg(‖Δ‖² + c)^p                             | Geng et al. 2025 (MeanFlow)          |
| LearnedVariance | e^{−ℓ} m + ℓ, m any of the above, ℓ(t, r) learned | Karras et al. 2023 (EDM2); ESC       |
| Weighted        | w(t, s) m, m any of the above, w a known function | Lu and Song 2024 (sCM)               |
| ScoreIdentity   | w ⟨G, (D_T − x) − α G⟩, G = D_T − D_ψ             | Zhou et al. 2024 (SiD)               |

`template` says the metric and the weight in words, of its fields and of what `inner` says.
`reduce` says whether ‖Δ‖² sums or averages over the dimensions of a row: c changes its meaning by a factor D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from flowleap.point import Point, Regression
from flowleap.tensors import squared_norm

__all__ = ["AdaptivePower", "LearnedVariance", "Loss", "PseudoHuber", "ScoreIdentity", "Squared", "Weighted"]


@runtime_checkable
class Loss(Protocol):
    """A per-sample loss."""

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        """Return (batch,)."""
        ...


def _distance(regression: Regression, reduce: str) -> Tensor:
    delta = regression.prediction - regression.target
    wide = torch.promote_types(delta.dtype, torch.float32)
    return squared_norm(delta.to(wide), reduce)


@dataclass(frozen=True)
class Squared:
    """‖Δ‖², summed or averaged over the dimensions."""

    reduce: str = "mean"
    template: ClassVar[dict[str, str]] = {"loss metric": "ℓ2, {reduce}", "weight": "1"}

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        return _distance(regression, self.reduce)


@dataclass(frozen=True)
class PseudoHuber:
    """√(‖Δ‖² + c²) − c; c=None means c = 0.00054 √D with D the dimensions of a row.

    Source: Song and Dhariwal 2023 (arXiv 2310.14189), the pseudo-Huber metric and its c = 0.00054 √D.
    """

    c: float | None = None
    reduce: str = "sum"
    template: ClassVar[dict[str, str]] = {"loss metric": "pseudo-Huber, {reduce}", "weight": "1"}
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
    template: ClassVar[dict[str, str]] = {
        "loss metric": "ℓ2, {reduce}",
        "weight": "1 / (‖Δ‖² + {eps:g})^{power:g}",
    }
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean",)

    def __post_init__(self) -> None:
        if self.power < 0 or not self.eps > 0:
            raise ValueError(
                f"AdaptivePower(power={self.power}, eps={self.eps}): power ≥ 0 and eps > 0 are expected"
            )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        distance = _distance(regression, self.reduce)
        return distance / (distance.detach() + self.eps) ** self.power


def _inverse_step(point: Point) -> Tensor:
    return 1 / (point.t - point.s)


def _signal_to_noise(point: Point) -> Tensor:
    path = point.path
    return path.alpha(point.t) / (path.noise_scale * path.sigma(point.t))


_WEIGHTS: dict[str, Callable[[Point], Tensor]] = {
    "1/(t - s)": _inverse_step,
    "alpha/(kappa sigma)": _signal_to_noise,
}


@dataclass(frozen=True)
class Weighted:
    """w m, m any other loss and w a known function of the times of a row.

    Args:
        inner: m.
        by: w, one of "1/(t - s)", for rows with s < t, and "alpha/(kappa sigma)", α/(κσ) at t, for rows with σ > 0.

    Raises: ValueError for another weight.
    Source: Lu and Song 2024 (arXiv 2410.11081), the prior weight 1/(σ_d tan θ) of sCM, which is α/(κσ) with κ = σ_d.
    """

    inner: Loss = Squared()
    by: str = "1/(t - s)"
    template: ClassVar[dict[str, str]] = {"weight": "{weight} · {by}"}
    cites: ClassVar[tuple[str, ...]] = ("lu2024simplifying",)

    def __post_init__(self) -> None:
        if self.by not in _WEIGHTS:
            known = ", ".join(f'"{name}"' for name in _WEIGHTS)
            raise ValueError(f"Weighted(by={self.by!r}): expected one of {known}")

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        loss = self.inner(regression, point)
        return _WEIGHTS[self.by](point).to(loss.dtype) * loss


@dataclass(frozen=True)
class LearnedVariance:
    """e^{−ℓ} m + ℓ: a weight the network learns, optimal at ℓ = ln E[m | t, r].

    ∂/∂ℓ = 1 − e^{−ℓ} m. Around AdaptivePower at p = 1 (m ≈ 1) it is nearly inert, ℓ* ≈ 0.

    Raises: ValueError where the network has no log-variance head.
    Source: Karras et al. 2023 (arXiv 2312.02696) eq. 21; Lin et al. 2025 (arXiv 2512.11831).
    """

    inner: Loss = Squared()
    template: ClassVar[dict[str, str]] = {"weight": "{weight}, learned e^{{−ℓ(t, r)}}"}
    cites: ClassVar[tuple[str, ...]] = ("karras2024analyzing", "lin2025design")

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        log_variance = regression.log_variance
        if log_variance is None:
            raise ValueError(
                "LearnedVariance needs a network with log_variance(t, r): build it with log_variance=True, or wrap it "
                "in networks.WithLogVariance(network)"
            )
        return torch.exp(-log_variance) * self.inner(regression, point) + log_variance


@dataclass(frozen=True)
class ScoreIdentity:
    """w ⟨G, (D_T − x_g) − α G⟩, G = D_T − D_ψ, w = 1/sg(mean |x_g − D_T|): the squared gap of two scores, debiased.

    x_g is the sample that the student made, D_T and D_ψ what the target and the prediction say it was before noise.
    Where D_ψ is exact, E⟨G, D_T − x_g⟩ = E‖G‖², and without w the loss is (1 − α) E‖G‖² in value; what counts is its
    gradient, D_ψ held. With α > 1 that widens a law which is much wider than the teacher's already: begin with a
    narrower one, such as one step of the teacher.

    Args:
        alpha: α; 0 is the estimate of the gap by the identity alone.
        reduce: whether ⟨·, ·⟩ sums or averages over the dimensions.

    Raises: ValueError for a target that makes no sample.
    Source: Zhou et al. 2024 (arXiv 2404.04057) and its code, mingyuanzhou/SiD: α = 1.2, mean |x_g − D_T| ≥ 1e-5.
    """

    alpha: float = 1.2
    reduce: str = "mean"
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    def __post_init__(self) -> None:
        if self.reduce not in ("sum", "mean"):
            raise ValueError(
                f'ScoreIdentity(reduce={self.reduce!r}): expected "sum" or "mean" over the dimensions of a row'
            )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        if regression.sample is None:
            raise ValueError(
                "ScoreIdentity judges a sample by two scores, and the target makes none: use target=ScoreGap()"
            )
        wide = torch.promote_types(regression.target.dtype, torch.float32)
        real, fake, sample = (
            each.flatten(1).to(wide) for each in (regression.target, regression.prediction, regression.sample)
        )
        gap = real - fake
        product = gap * ((real - sample) - self.alpha * gap)
        weight = 1 / (sample - real).detach().abs().mean(1).clamp_min(1e-5)
        return weight * (product.sum(1) if self.reduce == "sum" else product.mean(1))
