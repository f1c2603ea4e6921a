"""Karras' grid of noise levels, refined during training: the times of consistency training, CT and iCT."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowleap.interfaces import Composition, Draw, TimeLaw
from flowleap.paths import VEPath
from flowleap.randomness import RowGenerator
from flowleap.times.clocks import check_clock, clock_refusal, times_of
from flowleap.times.grid import spaced
from flowleap.times.laws import LogNormal

__all__ = ["NoiseGrid"]


@dataclass(frozen=True)
class NoiseGrid(TimeLaw):
    """The whole batch on neighbors of a grid of N(k) noise levels, to the data: t = t_{n+1}, s = t_n, r = t_1.

    The levels are t_i^{1/ρ} = low^{1/ρ} + (i − 1)/(N − 1) (high^{1/ρ} − low^{1/ρ}). Once a fraction p = k/K of the run
    has passed, N is

        root      ⌈√(p ((s_1 + 1)² − s_0²) + s_0²) − 1⌉ + 1
        doubling  min(s_0 · 2^⌊p (log2⌊s_1/s_0⌋ + 1)⌋, s_1) + 1

    Published stages of doubling last ⌊K/(log2⌊s_1/s_0⌋ + 1)⌋ steps; here they are equal parts of the run, which is the
    same where these divide it.

    Args:
        start, end: s_0 and s_1.
        growth: "root" or "doubling".
        law: that of ln t, by which cells are drawn, P(n) ∝ erf((ln t_{n+1} − m)/(√2 s)) − erf((ln t_n − m)/(√2 s));
            None draws all alike.
        low, high, rho: the ends and the exponent of the grid.
        clock: "levels": times are noise levels, on `VEPath`. "trigonometric", "linear": the times at which those paths
            have these ratios of noise to signal, and r = 0.

    Raises: ValueError for numbers that make no grid.
    Source: Song et al. 2023 (arXiv 2303.01469) for the grid and "root", and its code (openai/consistency_models) for
    s_0 = 2, s_1 = 150, or 200 for 64 × 64 images; Song and Dhariwal 2023 (arXiv 2310.14189) for "doubling" and the law;
    "trigonometric" is that of the code of Lin et al. 2025, EDAPINENUT/ExplicitShortCut.
    """

    start: int = 2
    end: int = 150
    growth: str = "root"
    law: LogNormal | None = None
    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0
    clock: str = "levels"

    def __post_init__(self) -> None:
        check_clock(self, self.clock)
        if self.growth not in ("root", "doubling"):
            raise ValueError(f'NoiseGrid(growth={self.growth!r}): expected "root" or "doubling"')
        least = 2 if self.growth == "root" else 1
        if not least <= self.start <= self.end:
            raise ValueError(
                f'NoiseGrid(start={self.start}, end={self.end}, growth="{self.growth}"): '
                f"{least} ≤ start ≤ end is expected"
            )
        if not (0 < self.low < self.high and self.rho > 0):
            raise ValueError(
                f"NoiseGrid(low={self.low}, high={self.high}, rho={self.rho}): 0 < low < high and rho > 0 are expected"
            )

    @property
    def cites(self) -> tuple[str, ...]:
        """The papers of what is in use: doubling and a law of cells are of the second."""
        improved = () if self.growth == "root" and self.law is None else ("song2023improved",)
        return ("song2023consistency", *improved, "karras2022elucidating")

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high) if self.clock == "levels" else (0.0, 1.0)

    @property
    def highest(self) -> float:
        """The highest time that is drawn, above which nothing is trained."""
        return float(times_of(torch.tensor(self.high, dtype=torch.float64), self.clock))

    @property
    def horizon(self) -> float | None:
        """When the grid grows for the last time, as a fraction of the run."""
        if self.start == self.end:
            return None
        if self.growth == "root":
            return (self.end**2 - self.start**2) / ((self.end + 1) ** 2 - self.start**2)
        return math.ceil(math.log2(self.end / self.start)) / self._stages

    @property
    def _stages(self) -> float:
        return math.log2(self.end // self.start) + 1

    def refusal(self, o: Composition) -> str | None:
        path = o.path
        ends = (path.t_min, path.t_max)
        if self.clock == "levels" and isinstance(path, VEPath) and ends != (self.low, self.high):
            return (
                f"NoiseGrid goes from {self.low:g} to {self.high:g}, and {type(path).__name__} from {ends[0]:g} to "
                f"{ends[1]:g}: give both the same ends"
            )
        return clock_refusal(self, self.clock, path)

    def points(self, progress: float) -> int:
        """Return N once this fraction of the run has passed."""
        if self.growth == "doubling":
            doublings = math.floor(progress * self._stages + 1e-9)  # a fraction as a float may fall short
            return min(self.start * 2**doublings, self.end) + 1
        squared = progress * ((self.end + 1) ** 2 - self.start**2) + self.start**2
        return min(math.ceil(math.sqrt(squared) - 1), self.end) + 1

    def grid_points(self, progress: float) -> tuple[int, int]:
        return self.start, self.points(progress)

    def levels(self, progress: float) -> Tensor:
        """Return the noise levels of the grid, rising, (N,) float64."""
        falling = spaced(self.high, self.low, self.points(progress) - 1, self.rho)
        return torch.tensor(falling[::-1], dtype=torch.float64)

    def probabilities(self, progress: float) -> Tensor:
        """Return how often each pair of neighbors is drawn, rising, (N − 1,) float64."""
        levels = self.levels(progress)
        if self.law is None:
            return torch.full((len(levels) - 1,), 1 / (len(levels) - 1), dtype=torch.float64)
        reached = torch.erf((levels.log() - self.law.mean) / (self.law.std * math.sqrt(2)))
        return reached.diff() / reached.diff().sum()

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        times = times_of(self.levels(progress), self.clock).float()
        cell = generator.choice(self.probabilities(progress))
        landing = self.low if self.clock == "levels" else 0.0
        return Draw(times[cell + 1], times[cell], torch.full((len(cell),), landing), generator.total)
