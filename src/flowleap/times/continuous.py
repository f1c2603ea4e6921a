"""Continuous laws: r = t, sorted pairs, jumps to the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from flowleap.interfaces import Composition, Draw, Lands, TimeLaw
from flowleap.randomness import RowGenerator
from flowleap.times.grid import binomial, reach
from flowleap.times.laws import Law, LogitNormal, NoiseLevels

__all__ = ["Denoising", "FullJump", "Gradual", "OneTime", "SortedPair"]


@dataclass(frozen=True)
class OneTime(TimeLaw):
    """r = s = t: every row is on the diagonal, which is flow matching."""

    law: Law = LogitNormal()
    lands: ClassVar[Lands] = "nowhere"
    has_step: ClassVar[bool] = False
    has_stop: ClassVar[bool] = False
    has_diagonal: ClassVar[bool] = True

    @property
    def support(self) -> tuple[float, float]:
        return self.law.support

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t = self.law.sample(generator)
        return Draw(t, t, t, 0)


@dataclass(frozen=True)
class SortedPair(TimeLaw):
    """t = max and r = min of two draws, then r := t for a share of the rows.

    Args:
        law: the law of both draws.
        diagonal: the share of rows with r = t.
        landing: a law of its own for the second draw, or None.
        fixed: a fixed number of diagonal rows per batch; False draws each row's fate (both are unbiased).

    Source: Geng et al. 2025 (arXiv 2505.13447) section 4.3 "sampling time steps".
    """

    law: Law = LogitNormal(-0.4, 1.0)
    diagonal: float = 0.75
    landing: Law | None = None
    fixed: bool = True
    has_step: ClassVar[bool] = False
    lands: ClassVar[Lands] = "anywhere"
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean",)

    def __post_init__(self) -> None:
        if not 0 <= self.diagonal <= 1:
            raise ValueError(
                f"SortedPair(diagonal={self.diagonal}): a share of the rows in [0, 1] is expected"
            )

    @property
    def support(self) -> tuple[float, float]:
        return reach(self.law.support, (self.landing or self.law).support)

    @property
    def has_diagonal(self) -> bool:
        return self.diagonal > 0

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        first = self.law.sample(generator)
        second = (self.landing or self.law).sample(generator)
        if self.fixed:
            num_jumps = generator.total - round(self.diagonal * generator.total)
        else:
            num_jumps = binomial(generator, 1 - self.diagonal)
        t, r = torch.maximum(first, second), torch.minimum(first, second)
        r = torch.where(generator.rows < num_jumps, r, t)
        return Draw(t, t, r, num_jumps)


@dataclass(frozen=True)
class Gradual(TimeLaw):
    """SortedPair whose landings start at the data: r := t_min with probability arccos(min(1, k/K))/arccos(0).

    The probability falls from 1 to 0 over the first K steps; K is `horizon` as a fraction of the run
    (20,000 of 600,000 published steps).

    Source: Lin et al. 2025 (arXiv 2512.11831), gradual time sampler.
    """

    pair: SortedPair = SortedPair()
    horizon: float = 1 / 30
    has_step: ClassVar[bool] = False
    lands: ClassVar[Lands] = "anywhere"
    cites: ClassVar[tuple[str, ...]] = ("lin2025design",)

    def __post_init__(self) -> None:
        if not self.horizon > 0:
            raise ValueError(f"Gradual(horizon={self.horizon}): a positive fraction of the run is expected")

    @property
    def support(self) -> tuple[float, float]:
        return self.pair.support

    @property
    def has_diagonal(self) -> bool:
        return self.pair.has_diagonal

    def probability(self, progress: float) -> float:
        """Return P(r := t_min) once this fraction of the run has passed."""
        return math.acos(min(1.0, progress / self.horizon)) / math.acos(0.0)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t, s, r, num_jumps = self.pair.draw(generator, progress)
        to_data = (generator.rows < num_jumps) & (generator.uniform() < self.probability(progress))
        return Draw(t, s, torch.where(to_data, torch.zeros_like(r), r), num_jumps)


@dataclass(frozen=True)
class Denoising(TimeLaw):
    """The whole batch on the way to the data: t from one law, s = r = 0.

    Source: Zhou et al. 2024 (arXiv 2404.04057), with `NoiseLevels()` for t.
    """

    law: Law = NoiseLevels()
    has_stop: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    @property
    def support(self) -> tuple[float, float]:
        return self.law.support

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t = self.law.sample(generator)
        return Draw(t, torch.zeros_like(t), torch.zeros_like(t), generator.total)


@dataclass(frozen=True)
class FullJump(TimeLaw):
    """Every row jumps to the data, and its first step is infinitely short: t from one law, s = t, r = 0.

    Args:
        law: the law of t.
        diagonal: a share of the rows with r = t instead, which are flow matching; a network then must be told which is
            which, `conditioning="t,end"` or "t,r".

    Raises: ValueError for a share out of range.
    Source: Lu and Song 2024 (arXiv 2410.11081), with `LogNormalAngle()` on the trigonometric path; the linear variant
    in EDAPINENUT/ExplicitShortCut has a diagonal of 3/4.
    """

    law: Law = LogitNormal(-1.0, 1.4)
    diagonal: float = 0.0
    has_step: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = ("lu2024simplifying",)

    def __post_init__(self) -> None:
        if not 0 <= self.diagonal <= 1:
            raise ValueError(f"FullJump(diagonal={self.diagonal}): a share of the rows in [0, 1] is expected")

    @property
    def support(self) -> tuple[float, float]:
        return self.law.support

    @property
    def has_diagonal(self) -> bool:
        return self.diagonal > 0

    def refusal(self, o: Composition) -> str | None:
        return self.law.refusal(o.path)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t = self.law.sample(generator)
        num_jumps = generator.total - round(self.diagonal * generator.total)
        r = torch.where(generator.rows < num_jumps, 0.0, t)
        return Draw(t, t, r, num_jumps)
