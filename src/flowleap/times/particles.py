"""Times shared by groups of rows (particles), for a set-level loss. IMM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flowleap.interfaces import Draw, Lands, TimeLaw
from flowleap.paths import LinearPath, Path
from flowleap.randomness import RowGenerator

__all__ = ["Particles"]

SHORTEST = 1e-4
"""The shortest jump, as a share of the times: the kernel of the loss divides by the length of a jump."""


@dataclass(frozen=True)
class Particles(TimeLaw):
    """t uniform, r uniform below it, and s one small step of the noise level below t; `group` rows share all three.

    t ~ U(t_min, t_max),  r ~ U(t_min, t),  s = max(n⁻¹(max(n(t) − (n_max − n_min)/2^halvings, n_min)), r)
    with n = σ/α the ratio of noise to signal, and n_max, n_min those at the ends. The path of the objective says what n
    is (`on`); without one it is that of the linear path, n = t/(1 − t).

    Args:
        group: how many rows share their times.
        t_min, t_max: the ends of the law. At t = 1 of a path that ends in pure noise n is infinite, so t_max is less.
        halvings: how often the range of n is halved to give the step: 12 are 1/4096 of it.

    Raises: ValueError for an empty group, or ends that are no ends.
    Source: Zhou et al. 2025 (arXiv 2503.07565), in whose letters s and r are the other way round, and its code
    (lumalabs/imm): 4 particles, t_max = 0.994, t_min = 0 for latents and 0.006 for CIFAR-10. The whole step is
    2^−12 of the range for latents and 2^−15 for CIFAR-10. Jumps shorter than 1e-4 of the range are not drawn.
    """

    group: int = 4
    t_min: float = 0.0
    t_max: float = 0.994
    halvings: float = 12.0
    lands: ClassVar[Lands] = "anywhere"
    cites: ClassVar[tuple[str, ...]] = ("zhou2025inductive",)

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ValueError(f"Particles(group={self.group}): at least one row in each group is expected")
        if not 0 <= self.t_min < self.t_max:
            raise ValueError(
                f"Particles(t_min={self.t_min}, t_max={self.t_max}): 0 ≤ t_min < t_max is expected"
            )
        if not self.halvings >= 0:
            raise ValueError(
                f"Particles(halvings={self.halvings}): a step of the whole range (0) or less is expected"
            )

    @property
    def support(self) -> tuple[float, float]:
        return self.t_min, self.t_max

    @property
    def highest(self) -> float:
        """The highest time that is drawn, above which nothing is trained."""
        return self.t_max

    def on(self, path: Path) -> _OnPath:
        """Return the law on a path, whose noise levels its steps are steps of.

        Raises: ValueError where the ratio of noise to signal has no end.
        """
        return _OnPath(self, path)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        return self.on(LinearPath()).draw(generator, progress)


@dataclass(frozen=True)
class _OnPath(TimeLaw):
    """The law of `Particles` on a path."""

    law: Particles
    path: Path

    def __post_init__(self) -> None:
        low, high = self._ends()
        ratio = self._ratio(torch.tensor([low, high], dtype=torch.float64))
        name, end, near = type(self.path).__name__, self.path.t_max, 0.994 * self.path.t_max
        if high > end:
            raise ValueError(
                f"Particles(t_max={high:g}): the times of {name} end at {end:g}: use t_max={near:g}"
            )
        if not bool((ratio < 1e6).all()):
            raise ValueError(
                f"Particles(t_max={high:g}): there {name} has no signal, so steps of the ratio of noise to signal have "
                f"no length: use t_max={near:g}"
            )

    @property
    def support(self) -> tuple[float, float]:
        return self.law.support

    @property
    def finest(self) -> float:
        return self.law.finest

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        low, high = self._ends()
        shortest, u = SHORTEST * (high - low), generator.grouped(self.law.group).uniform(2)
        t = low + shortest + (high - low - shortest) * u[:, 0]
        r = low + (t - shortest - low) * u[:, 1]
        s = self.stop(t, r)
        t, s, r = (time.float() for time in (t, s, r))
        return Draw(t, torch.minimum(torch.maximum(s, r), t), r, generator.total)

    def stop(self, t: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Return s: one step of the noise level below t, not below r."""
        low, high = self._ratio(torch.tensor(self._ends(), dtype=t.dtype)).tolist()
        step = (high - low) / 2**self.law.halvings
        return torch.maximum(self.path.time_at((self._ratio(t) - step).clamp_min(low)), r)

    def _ends(self) -> tuple[float, float]:
        return max(self.law.t_min, self.path.t_min), self.law.t_max

    def _ratio(self, t: torch.Tensor) -> torch.Tensor:
        return self.path.sigma(t) / self.path.alpha(t)
