"""What the raw network output F means: X_{t→r}(x) = a(t, r)·x + b(t, r)·F, with a(t, t) = 1 and b(t, t) = 0.

| parameterization | a, b                                    | F is                   | singular where             |
|------------------|-----------------------------------------|------------------------|----------------------------|
| AverageVelocity  | 1, r − t                                | (X − x)/(r − t)        | nowhere                    |
| Velocity         | the path's DDIM transfer                | a velocity of one pair | trigonometric full jump¹   |
| Endpoint         | σ_r/σ_t, α_r − α_t σ_r/σ_t              | the clean image        | departure at σ = 0; r = 0¹ |
| ImagePrediction  | 1 − (t − r)/m, (t − r)/m, m = max(t, floor) | the image that u leads to | full jump¹            |
| Noise            | α_r/α_t, κ(σ_r − σ_t α_r/α_t)           | the noise              | departure at α = 0         |
| EDM              | Endpoint ∘ (c_skip, c_out), input c_in  | EDM's network          | departure at σ = 0; r = 0¹ |
| ConsistencyEDM   | c_skip(t − r), c_out(t − r), input c_in | a consistency model's  | nowhere; VEPath only       |

¹ only for Eulerian targets, which divide by ∂_t b: see `eulerian_singularity`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.citations import Cited
from flowleap.derivatives import time_rate
from flowleap.paths import Path, VEPath
from flowleap.tensors import Time

__all__ = [
    "EDM",
    "AverageVelocity",
    "ConsistencyEDM",
    "Endpoint",
    "ImagePrediction",
    "Noise",
    "Parameterization",
    "Preconditioned",
    "Velocity",
]


class Parameterization(Cited, ABC):
    """The coefficients (a, b) of X = a·x + b·F and all that follows from them; subclasses are final."""

    @property
    def inner(self) -> Parameterization | None:
        """What F means before it is scaled; None where it is not."""
        return None

    @abstractmethod
    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        """Return (a, b), each (batch,)."""

    def input_scale(self, path: Path, t: Time) -> Tensor | None:
        """Return the factor on the network's input, (batch,), or None for 1."""
        return None

    def departure_rates(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        """Return (∂_t a, ∂_t b), each (batch,), exactly."""
        a_rate, b_rate = time_rate(lambda time: self.coefficients(path, time, r), t)
        return a_rate, b_rate

    @abstractmethod
    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        """Return (∂_r a, ∂_r b) at r = t, each (batch,), where u(x, t, t) = ∂_r a·x + ∂_r b·F."""

    def singularity(self, path: Path) -> str | None:
        """Return why maps of this parameterization are infinite somewhere on this path, or None."""
        t, r = _jumps(path)
        a, b = self.coefficients(path, t, r)
        return _first_bad(~((a.abs() < 1e9) & (b.abs() < 1e9)), t, r, "a or b is infinite")

    def eulerian_singularity(self, path: Path) -> str | None:
        """Return why F* = −(ȧx + av + b dF/dt)/ḃ is infinite somewhere on this path, or None."""
        t, r = _jumps(path)
        rate = self.departure_rates(path, t, r)[1]
        scale = rate.abs().amax() * 1e-9
        bad = ~rate.isfinite() | (rate.abs() <= scale) | (torch.sign(rate) != torch.sign(rate[0]))
        return _first_bad(bad, t, r, "∂_t b vanishes")

    def slope_singularity(self, path: Path) -> str | None:
        """Return the landing time for which ∂_t b vanishes at every departure, in words, or None."""
        t, r = _jumps(path)
        rate = self.departure_rates(path, t, r)[1]
        flat = (landing for landing in r.unique() if bool((rate[r == landing].abs() < 1e-9).all()))
        landing = next(flat, None)
        return None if landing is None else f"∂_t b vanishes for every departure to r = {float(landing):g}"

    def euler_refusal(self, path: Path) -> str | None:
        """Return why stepping with the instantaneous F over a finite step is wrong on this path, or None."""
        t, r = _jumps(path)
        ours, exact = self.coefficients(path, t, r), path.transfer(t, r)
        if all(torch.allclose(o, e, rtol=1e-6, atol=1e-9) for o, e in zip(ours, exact, strict=True)):
            return None
        if isinstance(self, AverageVelocity):
            return (
                f"{type(self).__name__} on {type(path).__name__} would be an Euler step with an instantaneous "
                "velocity along a curved path; use Velocity(), whose step is the path's DDIM transfer"
            )
        return None


def _jumps(path: Path) -> tuple[Tensor, Tensor]:
    """All pairs t > r of a grid over the path's domain, from t_max downwards."""
    grid = torch.linspace(path.t_max, path.t_min, 33, dtype=torch.float64)
    t, r = torch.meshgrid(grid, grid, indexing="ij")
    return t[t > r], r[t > r]


def _first_bad(bad: Tensor, t: Tensor, r: Tensor, what: str) -> str | None:
    if not bool(bad.any()):
        return None
    row = int(bad.nonzero()[0])
    return f"{what} at (t, r) = ({t[row]:g}, {r[row]:g})"


@dataclass(frozen=True)
class AverageVelocity(Parameterization):
    """X = x + (r − t)·F: F is the average velocity u over [r, t], on any path.

    Source: Geng et al. 2025 (arXiv 2505.13447) eq. 3; Frans et al. 2024 (arXiv 2410.12557) eq. 3.
    """

    cites: ClassVar[tuple[str, ...]] = ("geng2025mean",)

    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), r - t

    def departure_rates(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -torch.ones_like(t)

    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


@dataclass(frozen=True)
class Velocity(Parameterization):
    """X = the path's DDIM step with velocity F: linear x + (r − t)F; trigonometric cos(θ)x − sin(θ)F/(π/2).

    Source: Song et al. 2020 (arXiv 2010.02502) eq. 12; Lu and Song 2024 (arXiv 2410.11081) eq. 5 (its r = 0).
    """

    cites: ClassVar[tuple[str, ...]] = ("song2020denoising",)

    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        return path.transfer(t, r)

    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


@dataclass(frozen=True)
class Endpoint(Parameterization):
    """X = the DDIM step that takes F for the clean image: (σ_r/σ_t) x + (α_r − α_t σ_r/σ_t) F.

    Source: Song et al. 2020 (arXiv 2010.02502) eq. 12, with the predicted x_0.
    """

    cites: ClassVar[tuple[str, ...]] = ("song2020denoising",)

    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        keep = path.sigma(r) / path.sigma(t)
        return keep, path.alpha(r) - path.alpha(t) * keep

    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        rate = path.d_sigma(t) / path.sigma(t)
        return rate, path.d_alpha(t) - path.alpha(t) * rate


@dataclass(frozen=True)
class ImagePrediction(Parameterization):
    """X = x + (r − t)·u with u = (x − F)/max(t, floor): F is where the average velocity leads at t = 0 (x-prediction).

    The full jump ends at F itself, X_{t→0}(x) = F for t ≥ floor. With targets for F it would be singular there
    (∂_t b = 0): use those of the velocity, `Eulerian(space="velocity")`.

    Args:
        floor: the least time that is divided by.

    Raises: ValueError for a floor that is not positive.
    Source: Lu et al. 2026 (arXiv 2601.22158), and its code (Lyy-iiis/pMF): floor 0.05.
    """

    floor: float = 0.05
    cites: ClassVar[tuple[str, ...]] = ("lu2026one",)

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(
                f"ImagePrediction(floor={self.floor}): a positive time is expected, such as 0.05"
            )

    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        share = (t - r) / t.clamp_min(self.floor)
        return 1 - share, share

    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        rate = 1 / t.clamp_min(self.floor)
        return rate, -rate

    def euler_refusal(self, path: Path) -> str | None:
        reason = AverageVelocity().euler_refusal(path)
        return reason and reason.replace("AverageVelocity", "ImagePrediction", 1)


@dataclass(frozen=True)
class Noise(Parameterization):
    """X = the DDIM step that takes F for the (standard normal) noise: (α_r/α_t) x + κ(σ_r − σ_t α_r/α_t) F.

    Singular where α(t) = 0, so LinearPath and TrigPath are refused; VPPath and VEPath are regular.
    Source: Song et al. 2020 (arXiv 2010.02502) eq. 12.
    """

    cites: ClassVar[tuple[str, ...]] = ("song2020denoising",)

    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        keep = path.alpha(r) / path.alpha(t)
        return keep, path.noise_scale * (path.sigma(r) - path.sigma(t) * keep)

    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        rate = path.d_alpha(t) / path.alpha(t)
        return rate, path.noise_scale * (path.d_sigma(t) - path.sigma(t) * rate)


@dataclass(frozen=True)
class EDM(Parameterization):
    """Endpoint with Karras' preconditioning x̂ = c_skip x + c_out F(c_in x), written for any path.

    With S² = α²σ_d² + κ²σ²: c_skip = ασ_d²/S², c_out = κσσ_d/S, c_in = 1/S; on VEPath these are EDM's own.
    Source: Karras et al. 2022 (arXiv 2206.00364) table 1.
    """

    sigma_data: float = 0.5
    cites: ClassVar[tuple[str, ...]] = ("karras2022elucidating",)

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"EDM(sigma_data={self.sigma_data}): a positive number is expected")

    def _power(self, path: Path, t: Time) -> Tensor:
        return (path.alpha(t) * self.sigma_data).square() + (path.sigma(t) * path.noise_scale).square()

    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        return self._precondition(path, t, *Endpoint().coefficients(path, t, r))

    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        return self._precondition(path, t, *Endpoint().landing_rates(path, t))

    def _precondition(self, path: Path, t: Time, on_x: Tensor, on_endpoint: Tensor) -> tuple[Tensor, Tensor]:
        power = self._power(path, t)
        skip = path.alpha(t) * self.sigma_data**2 / power
        out = path.sigma(t) * path.noise_scale * self.sigma_data / power.sqrt()
        return on_x + on_endpoint * skip, on_endpoint * out

    def input_scale(self, path: Path, t: Time) -> Tensor | None:
        return self._power(path, t).rsqrt()


@dataclass(frozen=True)
class ConsistencyEDM(Parameterization):
    """X = c_skip x + c_out F(c_in x), with EDM's coefficients moved so that they hold at r, for noise levels.

    a = σ_d²/((t − r)² + σ_d²), b = σ_d (t − r)/√(t² + σ_d²), c_in = 1/√(t² + σ_d²), noise levels in units of κ. At
    r = t_min it is the published one; other landings are ours. It is no DDIM step: only maps are stepped with.

    Raises: ValueError for a σ_d that is not positive.
    Source: Song et al. 2023 (arXiv 2303.01469), and its code (openai/consistency_models), σ_d = 0.5.
    """

    sigma_data: float = 0.5
    cites: ClassVar[tuple[str, ...]] = ("song2023consistency", "karras2022elucidating")

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"ConsistencyEDM(sigma_data={self.sigma_data}): a positive number is expected")

    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        way, power = (t - r) * path.noise_scale, self.sigma_data**2
        return power / (way.square() + power), self.sigma_data * way * self.input_scale(path, t)

    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -self.sigma_data * path.noise_scale * self.input_scale(path, t)

    def input_scale(self, path: Path, t: Time) -> Tensor:
        return ((t * path.noise_scale).square() + self.sigma_data**2).rsqrt()

    def singularity(self, path: Path) -> str | None:
        if isinstance(path, VEPath):
            return super().singularity(path)
        return "its coefficients are written in noise levels, the times of VEPath (EDM() is written for any path)"

    def euler_refusal(self, path: Path) -> str | None:
        return (
            "ConsistencyEDM is made for jumps to the data, and what it gives for r = t is no DDIM step; use EDM(), or "
            "Velocity(), whose step is the path's DDIM transfer"
        )


@dataclass(frozen=True)
class Preconditioned(Parameterization):
    """Another parameterization with input c_in x, c_in = 1/√(α²σ_d² + κ²σ²), and output gain · F.

    With κ = σ_d and gain = σ_d around `AverageVelocity` it is the network of IMM; around `Velocity` on the
    trigonometric path, with gain = σ_d π/2, that of TrigFlow, whose F is per angle θ = πt/2.

    Args:
        inner: what gain · F means.
        sigma_data: σ_d, the standard deviation of the data.
        gain: the factor on F.

    Raises: ValueError for a σ_d or a gain that is not positive, or an inner one that scales its input as well.
    Source: Lu and Song 2024 (arXiv 2410.11081) section 3, TrigFlow; Zhou et al. 2025 (arXiv 2503.07565), Euler-FM.
    """

    inner: Parameterization = Velocity()
    sigma_data: float = 0.5
    gain: float = 0.5
    cites: ClassVar[tuple[str, ...]] = ("lu2024simplifying",)

    def __post_init__(self) -> None:
        if not (self.sigma_data > 0 and self.gain > 0):
            raise ValueError(
                f"Preconditioned(sigma_data={self.sigma_data}, gain={self.gain}): positive numbers are expected"
            )
        if isinstance(self.inner, EDM | ConsistencyEDM | Preconditioned):
            raise ValueError(
                f"Preconditioned({type(self.inner).__name__}): that one scales its input already; use Velocity() or "
                "AverageVelocity()"
            )

    def coefficients(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        a, b = self.inner.coefficients(path, t, r)
        return a, self.gain * b

    def departure_rates(self, path: Path, t: Time, r: Time) -> tuple[Tensor, Tensor]:
        a_rate, b_rate = self.inner.departure_rates(path, t, r)
        return a_rate, self.gain * b_rate

    def landing_rates(self, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        a_rate, b_rate = self.inner.landing_rates(path, t)
        return a_rate, self.gain * b_rate

    def input_scale(self, path: Path, t: Time) -> Tensor | None:
        power = (path.alpha(t) * self.sigma_data).square() + (path.sigma(t) * path.noise_scale).square()
        return power.rsqrt()

    def euler_refusal(self, path: Path) -> str | None:
        return self.inner.euler_refusal(path)
