"""Times from a boundary on, for a second stage of training: the first stage learned those below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.interfaces import Composition, Draw, TimeLaw
from flowleap.paths import VEPath
from flowleap.randomness import RowGenerator
from flowleap.times.laws import Law

__all__ = ["StudentT", "Truncation"]

NODES = 8192
"""Places at which the distribution function is tabulated; it is smooth, so that between them it is a line."""


@dataclass(frozen=True)
class StudentT(Law):
    """ln t = mean + scale z, z of Student's law with few degrees of freedom, truncated to t in [low, high].

    With z = √df sinh y the density of y is cosh^−df y up to a constant: at df = 0.01 nearly uniform, so that ln t falls
    mostly close to the mean, and yet reaches every size. Drawn by the inverse of the tabulated distribution function.

    Args:
        mean, scale: of ln t.
        df: the degrees of freedom; few are heavy tails.
        low, high: the ends of t.

    Raises: ValueError for numbers out of range.
    Source: Lee et al. 2024 (arXiv 2410.14895), by the code of NVlabs/FastGen: mean 0, scale 0.2, 0.01 degrees of
    freedom, from the boundary to 80.
    """

    mean: float = 0.0
    scale: float = 0.2
    df: float = 0.01
    low: float = 1.0
    high: float = 80.0
    cites: ClassVar[tuple[str, ...]] = ("lee2024truncated",)

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.df > 0):
            raise ValueError(f"StudentT(scale={self.scale}, df={self.df}): positive numbers are expected")
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"StudentT(low={self.low}, high={self.high}): 0 < low < high is expected")

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    def sample(self, generator: RowGenerator) -> Tensor:
        wide, ends = self.scale * math.sqrt(self.df), (math.log(self.low), math.log(self.high))
        first, last = (math.asinh((end - self.mean) / wide) for end in ends)
        y = torch.linspace(first, last, NODES, dtype=torch.float64)
        density = torch.cosh(y) ** -self.df
        grown = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumsum(density[1:] + density[:-1], 0)])
        u = generator.uniform() * grown[-1]
        above = torch.searchsorted(grown, u).clamp(1, NODES - 1)
        part = (u - grown[above - 1]) / (grown[above] - grown[above - 1])
        found = y[above - 1] + part * (y[above] - y[above - 1])
        t = torch.exp(self.mean + wide * torch.sinh(found)).float()
        return t.clamp(self.low, self.high)


@dataclass(frozen=True)
class Truncation(TimeLaw):
    """t from a boundary t' on, a share of the rows exactly there, s a little nearer to the data, r = 0.

    s = t · max(0, 1 − (1 − ratio)(1 + k/(1 + e^{bt}))), as in `Ratio` at its end. Rows at t' and a little above it
    step below t'.

    Args:
        law: the law of t; its lower end is the boundary.
        share: the share of rows at t = t', a whole number of them in each batch; drawn by chance where that is none.
        ratio, reach, slope: s/t where t is large, k and b.

    Raises: ValueError for a share or a ratio out of range.
    Source: Lee et al. 2024 (arXiv 2410.14895), by the code of NVlabs/FastGen: share 0.25, ratio 0.999, which its
    schedule soon comes to and stays at; Geng et al. 2024 (arXiv 2406.14548) for s, k = 8 and b = 1.
    """

    law: StudentT = StudentT()
    share: float = 0.25
    ratio: float = 0.999
    reach: float = 8.0
    slope: float = 1.0
    cites: ClassVar[tuple[str, ...]] = ("lee2024truncated",)

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"Truncation(share={self.share}): a share of the rows in [0, 1) is expected")
        if not 0 < self.ratio < 1 or self.reach < 0:
            raise ValueError(
                f"Truncation(ratio={self.ratio}, reach={self.reach}): a ratio in (0, 1) and a reach of 0 or more are "
                "expected"
            )

    @property
    def boundary(self) -> float:
        """t', the time from which on a network is trained."""
        return self.law.low

    @property
    def boundary_share(self) -> float:
        return self.share

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, self.law.high

    @property
    def highest(self) -> float:
        """The highest time that is drawn, above which nothing is trained."""
        return self.law.high

    def refusal(self, o: Composition) -> str | None:
        path = o.path
        if isinstance(path, VEPath) and (path.t_min, path.t_max) == (0.0, self.law.high):
            return None
        return (
            f"Truncation draws noise levels from {self.law.low:g} to {self.law.high:g} that step down to 0, and the "
            f"path is {path}: use VEPath(t_min=0.0, t_max={self.law.high:g})"
        )

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t = self.law.sample(generator)
        here = int(self.share * generator.total)
        on_boundary = generator.rows < here if here else generator.uniform() < self.share
        t = torch.where(on_boundary, self.boundary, t)
        return Draw(t, self.stop(t), torch.zeros_like(t), generator.total)

    def stop(self, t: Tensor) -> Tensor:
        """Return s, which is 0 where the step is longer than the way."""
        return t * (1 - (1 - self.ratio) * (1 + self.reach * torch.sigmoid(-self.slope * t))).clamp_min(0.0)
