"""Distributions of a single time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.citations import Cited
from flowleap.paths import Path
from flowleap.randomness import RowGenerator

__all__ = ["Law", "LogNormal", "LogNormalAngle", "LogitNormal", "NoiseLevels", "Uniform"]


class Law(Cited, ABC):
    """A law of one time."""

    @property
    @abstractmethod
    def support(self) -> tuple[float, float]:
        """The interval the times lie in."""

    @abstractmethod
    def sample(self, generator: RowGenerator) -> Tensor:
        """Return a time for each row of the generator, (rows,) float32."""

    def refusal(self, path: Path) -> str | None:
        """Return why its times are not those of a path, or None."""
        return None


@dataclass(frozen=True)
class Uniform(Law):
    """t uniform on [low, high]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"Uniform(low={self.low}, high={self.high}): 0 ≤ low < high is expected")

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    def sample(self, generator: RowGenerator) -> Tensor:
        return (self.low + (self.high - self.low) * generator.uniform()).float()


@dataclass(frozen=True)
class LogitNormal(Law):
    """t = 1/(1 + e^{−z}), z ~ N(mean, std²); a negative mean favors clean times.

    Source: Esser et al. 2024 (arXiv 2403.03206) section 3.1; MeanFlow uses mean −0.4, std 1.
    """

    mean: float = 0.0
    std: float = 1.0
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    cites: ClassVar[tuple[str, ...]] = ("esser2024scaling",)

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"LogitNormal(std={self.std}): a positive standard deviation is expected")

    def sample(self, generator: RowGenerator) -> Tensor:
        return torch.sigmoid(self.mean + self.std * generator.normal().double()).float()


@dataclass(frozen=True)
class NoiseLevels(Law):
    """t = σ/(1 + σ), with σ^{1/ρ} uniform from low^{1/ρ} on, over a share of the way to high^{1/ρ}.

    σ is a ratio of noise to signal, and t where the linear path has it. The grid of Karras et al. made continuous.

    Args:
        low, high, rho: the ends and the exponent of the grid.
        share: how far towards `high` levels are drawn; 0.8 of the way to 80 is σ = 24.4, t = 0.96.

    Source: Karras et al. 2022 (arXiv 2206.00364) eq. 5; the share is that of Zhou et al. 2024 (arXiv 2404.04057),
    whose code draws 0 … 800 of 1000 places of that grid.
    """

    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0
    share: float = 0.8
    cites: ClassVar[tuple[str, ...]] = ("karras2022elucidating",)

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and self.rho > 0 and 0 < self.share <= 1):
            raise ValueError(
                f"NoiseLevels(low={self.low}, high={self.high}, rho={self.rho}, share={self.share}): "
                "0 < low < high, rho > 0 and a share in (0, 1] are expected"
            )

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, 1.0

    def sample(self, generator: RowGenerator) -> Tensor:
        first, last = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        way = self.share * generator.uniform()
        level = (first + way * (last - first)) ** self.rho
        return (level / (1 + level)).float()


@dataclass(frozen=True)
class LogNormal(Law):
    """ln t ~ N(mean, std²), for the noise levels of the variance-exploding path.

    Source: Karras et al. 2022 (arXiv 2206.00364) table 1: mean −1.2, std 1.2.
    """

    mean: float = -1.2
    std: float = 1.2
    support: ClassVar[tuple[float, float]] = (0.0, math.inf)
    cites: ClassVar[tuple[str, ...]] = ("karras2022elucidating",)

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"LogNormal(std={self.std}): a positive standard deviation is expected")

    def sample(self, generator: RowGenerator) -> Tensor:
        return torch.exp(self.mean + self.std * generator.normal().double()).float()


@dataclass(frozen=True)
class LogNormalAngle(Law):
    """t = (2/π) arctan(σ/κ), ln σ ~ N(mean, std²): the noise levels of a log-normal law on the trigonometric path.

    There κ tan(πt/2) is the standard deviation of the noise per unit of signal. With κ = 1 its levels are those of
    `LogitNormal` on the linear path.

    Args:
        mean, std: those of ln σ.
        noise_scale: κ of the path.

    Raises: ValueError for a standard deviation or a κ that is not positive.
    Source: Lu and Song 2024 (arXiv 2410.11081), proposal distribution: tan θ = e^z/σ_d with mean −1.0, std 1.4 and
    σ_d = 0.5, as in EDAPINENUT/ExplicitShortCut and NVlabs/FastGen, which takes std 1.8 where it begins with an EDM
    network.
    """

    mean: float = -1.0
    std: float = 1.4
    noise_scale: float = 0.5
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)
    cites: ClassVar[tuple[str, ...]] = ("lu2024simplifying",)

    def __post_init__(self) -> None:
        if not (self.std > 0 and self.noise_scale > 0):
            raise ValueError(
                f"LogNormalAngle(std={self.std}, noise_scale={self.noise_scale}): positive numbers are expected"
            )

    def refusal(self, path: Path) -> str | None:
        if self.noise_scale == path.noise_scale:
            return None
        return (
            f"LogNormalAngle(noise_scale={self.noise_scale:g}) finds the angle of a noise level by the scale of the "
            f"noise, which on this path is {path.noise_scale:g}: give times.law.noise_scale and path.noise_scale the "
            "same number"
        )

    def sample(self, generator: RowGenerator) -> Tensor:
        level = torch.exp(self.mean + self.std * generator.normal().double())
        return (torch.atan(level / self.noise_scale) * (2 / math.pi)).float()
