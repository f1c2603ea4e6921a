"""Paths between data and noise: x_t = α(t) x + σ(t) κ ε, with t = 0 at the data and ε standard normal.

| path       | α(t)            | σ(t)           | time                | source                              |
|------------|-----------------|----------------|---------------------|-------------------------------------|
| LinearPath | 1 − t           | t              | [0, 1]              | Lipman et al. 2022, Liu et al. 2022 |
| TrigPath   | cos(πt/2)       | sin(πt/2)      | [0, 1]              | Albergo et al. 2022; Lu, Song 2024  |
| VPPath     | exp(−½∫β)       | √(1 − α²)      | [t_min, 1]          | Song et al. 2020 (arXiv 2011.13456) |
| VEPath     | 1               | t              | [t_min, t_max]      | Karras et al. 2022 (EDM)            |

All are the same flow up to a change of time and of scale (`TrigPath` divided by cos + sin is `LinearPath`); what
differs between them in training is the induced density of times, the weight and the parameterization.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.citations import Cited
from flowleap.tensors import Image, Time, like

__all__ = ["LinearPath", "Path", "TrigPath", "VEPath", "VPPath"]


class Path(Cited, ABC):
    """A pair of schedules α(t), σ(t) with what follows from them; subclasses are final."""

    noise_scale: float
    """κ: the standard deviation of the noise that σ(t) multiplies (σ_d for sCM). `noise` itself is standard normal."""

    t_min: float
    """The time of the data, where sampling ends."""
    t_max: float
    """The time of the noise, where sampling starts."""

    def __post_init__(self) -> None:
        given = ", ".join(f"{field.name}={getattr(self, field.name):g}" for field in fields(self))  # type: ignore[arg-type]
        if not self.noise_scale > 0:
            raise ValueError(f"{type(self).__name__}({given}): a noise_scale above 0 is expected")
        if not 0 <= self.t_min < self.t_max:
            raise ValueError(f"{type(self).__name__}({given}): 0 ≤ t_min < {self.t_max:g} is expected")

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """Return α(t), (batch,)."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """Return σ(t), (batch,)."""

    @abstractmethod
    def d_alpha(self, t: Time) -> Tensor:
        """Return α'(t), (batch,)."""

    @abstractmethod
    def d_sigma(self, t: Time) -> Tensor:
        """Return σ'(t), (batch,)."""

    @abstractmethod
    def transfer(self, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        """Return (a, b) of the DDIM step x_r = a·x_t + b·v, exact for the velocity v of one (x, ε) pair.

        a = (α_r σ'_t − σ_r α'_t)/w, b = (σ_r α_t − α_r σ_t)/w, w = α_t σ'_t − σ_t α'_t.
        Source: Song et al. 2020 (arXiv 2010.02502) eq. 12, written for a velocity.
        """

    @abstractmethod
    def time_at(self, ratio: Tensor) -> Time:
        """Return the time at which σ/α equals `ratio` (the inverse of the noise-to-signal ratio)."""

    def point(self, x: Image, noise: Image, t: Time) -> Image:
        """Return x_t = α(t) x + σ(t) κ ε. Shapes: x, noise (batch, *dims), t (batch,)."""
        return like(self.alpha(t), x) * x + like(self.sigma(t) * self.noise_scale, x) * noise

    def velocity(self, x: Image, noise: Image, t: Time) -> Image:
        """Return the conditional velocity dx_t/dt = α'(t) x + σ'(t) κ ε of one (x, ε) pair."""
        return like(self.d_alpha(t), x) * x + like(self.d_sigma(t) * self.noise_scale, x) * noise

    def velocity_from_mean(self, x_t: Image, t: Time, mean: Image) -> Image:
        """Return α' m + (σ'/σ)(x_t − α m), the velocity of a posterior mean m = E[x | x_t]; σ(t) > 0."""
        rate = self.d_sigma(t) / self.sigma(t)
        return like(self.d_alpha(t) - rate * self.alpha(t), x_t) * mean + like(rate, x_t) * x_t

    def mean_from_velocity(self, x_t: Image, t: Time, velocity: Image) -> Image:
        """Return (σ' x_t − σ v)/(α σ' − σ α'), the posterior mean E[x | x_t] of a velocity v: linear x_t − t v."""
        alpha, sigma, d_alpha, d_sigma = self.alpha(t), self.sigma(t), self.d_alpha(t), self.d_sigma(t)
        w = alpha * d_sigma - sigma * d_alpha
        return like(d_sigma / w, x_t) * x_t - like(sigma / w, x_t) * velocity

    def prior(self, noise: Image, t: float | None = None) -> Image:
        """Scale standard normal noise to what is noise at a time, t_max by default: κ σ(t) ε."""
        sigma = self.sigma(torch.tensor(self.t_max if t is None else t, dtype=torch.float64))
        return noise * (float(sigma) * self.noise_scale)

    def posterior_mean(self, x_t: Image, t: Time, data: Image, member: Tensor | None = None) -> Image:
        """Return E[x | x_t] when x is one of the rows of `data`, all equally likely.

        x̄_i = Σ_j w_ij x_j, w_ij = softmax_j( −‖x_t,i − α_i x_j‖² / 2σ_i²κ² ), in Gram form: the row's own
        ‖x_t,i‖² cancels, so memory grows as B·M + B·D and never as B·M·D.

        Shapes: x_t (B, *dims), t (B,), data (M, *dims), member (B, M) bool: which rows of `data` may take part.
        A row without any member gets NaN.
        Source: Lin et al. 2025 (arXiv 2512.11831), plug-in velocity.
        """
        t, flat, points = t.to(x_t.dtype), data.flatten(1), x_t.flatten(1)
        alpha, sigma = self.alpha(t), (self.sigma(t) * self.noise_scale).clamp_min(1e-4)
        with torch.autocast(x_t.device.type, enabled=False):
            gram = points @ flat.T
            logits = (alpha[:, None] * gram - 0.5 * (alpha.square()[:, None] * flat.square().sum(1))) / (
                sigma.square()[:, None]
            )
            if member is not None:
                logits = logits.masked_fill(~member, -math.inf)
            mean = torch.softmax(logits, dim=1) @ flat
        return mean.reshape(x_t.shape)


def _ddim(path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
    alpha, sigma, d_alpha, d_sigma = path.alpha(t), path.sigma(t), path.d_alpha(t), path.d_sigma(t)
    w = alpha * d_sigma - sigma * d_alpha
    a = (path.alpha(r) * d_sigma - path.sigma(r) * d_alpha) / w
    b = (path.sigma(r) * alpha - path.alpha(r) * sigma) / w
    return a, b


@dataclass(frozen=True)
class LinearPath(Path):
    """The straight path x_t = (1 − t) x + t κ ε, whose conditional velocity κε − x is constant.

    Args:
        noise_scale: κ.
        sigma_min: a residue of noise left at the data end, σ(t) = f + (1 − f) t (1e-5 in kvfrans/shortcut-models).

    Source: Lipman et al. 2022 (arXiv 2210.02747) eq. 20–23; Liu et al. 2022 (arXiv 2209.03003) algorithm 1.
    """

    noise_scale: float = 1.0
    sigma_min: float = 0.0
    t_min = 0.0
    t_max = 1.0
    cites: ClassVar[tuple[str, ...]] = ("lipman2022flow", "liu2022flow")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sigma_min < 1:
            raise ValueError(
                f"LinearPath(sigma_min={self.sigma_min:g}): a residue of noise in [0, 1) is expected"
            )

    def alpha(self, t: Time) -> Tensor:
        return 1 - t

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min + (1 - self.sigma_min) * t

    def d_alpha(self, t: Time) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Time) -> Tensor:
        return (1 - self.sigma_min) * torch.ones_like(t)

    def transfer(self, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), r - t

    def time_at(self, ratio: Tensor) -> Time:
        return ((ratio - self.sigma_min) / (1 - self.sigma_min + ratio)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class TrigPath(Path):
    """The circular path x_t = cos(πt/2) x + sin(πt/2) κ ε; its velocity carries the factor π/2.

    Source: TrigFlow, Lu and Song 2024 (arXiv 2410.11081) section 3; its angle is πt/2 here, with t ∈ [0, 1].
    """

    noise_scale: float = 1.0
    t_min = 0.0
    t_max = 1.0
    cites: ClassVar[tuple[str, ...]] = ("lu2024simplifying",)

    def alpha(self, t: Time) -> Tensor:
        return torch.cos(t * (math.pi / 2))

    def sigma(self, t: Time) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def d_alpha(self, t: Time) -> Tensor:
        return -(math.pi / 2) * self.sigma(t)

    def d_sigma(self, t: Time) -> Tensor:
        return (math.pi / 2) * self.alpha(t)

    def transfer(self, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        angle = (t - r) * (math.pi / 2)
        return torch.cos(angle), -torch.sin(angle) / (math.pi / 2)

    def time_at(self, ratio: Tensor) -> Time:
        return torch.atan(ratio) / (math.pi / 2)


@dataclass(frozen=True)
class VPPath(Path):
    """The variance-preserving diffusion: ln α = −½ β_min t − ¼ (β_max − β_min) t², σ = √(1 − α²), t ∈ [t_min, 1].

    Source: Song et al. 2020 (arXiv 2011.13456) eq. 33; t_min = 1e-3 as in its samplers (σ' is infinite at 0).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    noise_scale: float = 1.0
    t_max = 1.0
    cites: ClassVar[tuple[str, ...]] = ("song2020score",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta_min <= self.beta_max or not self.beta_max:
            raise ValueError(
                f"VPPath(beta_min={self.beta_min:g}, beta_max={self.beta_max:g}): 0 ≤ beta_min ≤ beta_max, not both 0, "
                "are expected"
            )

    def _log_alpha(self, t: Time) -> Tensor:
        return -0.5 * self.beta_min * t - 0.25 * (self.beta_max - self.beta_min) * t.square()

    def _d_log_alpha(self, t: Time) -> Tensor:
        return -0.5 * self.beta_min - 0.5 * (self.beta_max - self.beta_min) * t

    def alpha(self, t: Time) -> Tensor:
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Time) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))

    def d_alpha(self, t: Time) -> Tensor:
        return self._d_log_alpha(t) * self.alpha(t)

    def d_sigma(self, t: Time) -> Tensor:
        return -self._d_log_alpha(t) * self.alpha(t).square() / self.sigma(t)

    def transfer(self, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        return _ddim(self, t, r)

    def time_at(self, ratio: Tensor) -> Time:
        slope, twice = self.beta_min, self.beta_max - self.beta_min
        level = torch.log1p(ratio.square())  # −2 ln α
        t = 2 * level / (slope + torch.sqrt(slope**2 + 2 * twice * level))
        return t.clamp(self.t_min, self.t_max)


@dataclass(frozen=True)
class VEPath(Path):
    """The variance-exploding path x_t = x + t κ ε, whose time is the noise level σ ∈ [0.002, 80] itself.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1, column "Ours".
    """

    t_min: float = 0.002
    t_max: float = 80.0
    noise_scale: float = 1.0
    cites: ClassVar[tuple[str, ...]] = ("karras2022elucidating",)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Time) -> Tensor:
        return t

    def d_alpha(self, t: Time) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Time) -> Tensor:
        return torch.ones_like(t)

    def transfer(self, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), r - t

    def time_at(self, ratio: Tensor) -> Time:
        return ratio.clamp(self.t_min, self.t_max)
