"""Jump rows and diagonal rows with laws of their own, and stops on the way of a jump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.interfaces import Composition, Draw, Lands, TimeLaw
from flowleap.randomness import RowGenerator
from flowleap.schedules import Schedule, horizon, limits, value_at
from flowleap.tensors import Time
from flowleap.times.continuous import SortedPair
from flowleap.times.grid import reach
from flowleap.times.laws import Law, LogitNormal, Uniform

__all__ = ["Jumps", "Split"]


@dataclass(frozen=True)
class Jumps(TimeLaw):
    """A share of the rows jumps, t and r the max and min of two draws; some land at the data, some start from noise.

    | jump rows                  | t             | r             | share of the jump rows              |
    |----------------------------|---------------|---------------|-------------------------------------|
    | the jump of one step       | 1             | 0             | `full`                              |
    | to the data                | larger draw   | 0             | `to_data`                           |
    | from noise                 | 1             | smaller draw  | `from_noise`                        |
    | pairs                      | larger draw   | smaller draw  | 1 − full − to_data − from_noise     |

    The kind of a jump row is drawn row by row; how many rows jump is fixed in each step. On a path of noise levels, 1
    stands for its highest level.

    Args:
        share: the share of the batch that jumps, a number, or a schedule such as
            `SigmoidSchedule(0.1, 0.9, slope=8, middle=0.6)`.
        jump: the law of both draws of a jump row.
        landing: a law of its own for the second draw, or None.
        law: the law of t on the rows r = t; None for the larger draw there, too, as in `SortedPair`.
        to_data, from_noise, full: shares of the jump rows.

    With `law=None` and no such shares it is `SortedPair(jump, 1 − share, landing)`, draw by draw.

    Raises: ValueError for shares out of [0, 1], or kinds that are more than the jump rows.
    Source: the pairs are those of Geng et al. 2025 (arXiv 2505.13447); jumps to the data and jumps from noise as kinds
    of their own are from Dong et al. 2026 (arXiv 2602.10764).
    """

    share: float | Schedule = 0.25
    jump: Law = LogitNormal(-0.4, 1.0)
    landing: Law | None = None
    law: Law | None = None
    to_data: float = 0.0
    from_noise: float = 0.0
    full: float = 0.0
    has_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        low, high = limits(self.share)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"Jumps(share={self.share}): a share of the rows in [0, 1] is expected")
        kinds = (self.to_data, self.from_noise, self.full)
        if not (min(kinds) >= 0 and sum(kinds) <= 1 + 1e-9):
            raise ValueError(
                f"Jumps(to_data={self.to_data}, from_noise={self.from_noise}, full={self.full}): shares of the jump "
                "rows, which add up to at most 1, are expected"
            )

    @property
    def cites(self) -> tuple[str, ...]:
        """The paper of the pairs, and that of the other kinds where there are some."""
        return ("geng2025mean", "dong2026dual") if self._kinds else ("geng2025mean",)

    @property
    def _kinds(self) -> bool:
        return self.to_data + self.from_noise + self.full > 0

    @property
    def support(self) -> tuple[float, float]:
        laws = (self.jump, self.landing, self.law)
        return reach((0.0, 1.0), *(law.support for law in laws if law is not None))

    @property
    def horizon(self) -> float | None:
        return horizon(self.share)

    @property
    def lands(self) -> Lands:
        return "data" if self.to_data + self.full > 1 - 1e-9 else "anywhere"

    @property
    def has_diagonal(self) -> bool:
        return limits(self.share)[0] < 1

    def refusal(self, o: Composition) -> str | None:
        laws = (self.jump, self.landing, self.law)
        return next((reason for law in laws if law is not None and (reason := law.refusal(o.path))), None)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        first = self.jump.sample(generator)
        second = (self.landing or self.jump).sample(generator)
        num_jumps = generator.total - round((1 - value_at(self.share, progress)) * generator.total)
        jumping = generator.rows < num_jumps
        t, r = torch.maximum(first, second), torch.minimum(first, second)
        if self.law is not None:
            t = torch.where(jumping, t, self.law.sample(generator))
        if self._kinds:
            t, r = self._of_kinds(t, r, jumping, generator.uniform())
        return Draw(t, t, torch.where(jumping, r, t), num_jumps)

    def _of_kinds(self, t: Time, r: Time, jumping: Tensor, place: Tensor) -> tuple[Time, Time]:
        """Return t and r with the ends that rows of each kind have; `place` in [0, 1) says which kind a row is."""
        noise = place < self.full + self.from_noise
        data = (place < self.full) | ((place >= 1 - self.to_data) & ~noise)
        t = torch.where(jumping & noise, self.support[1], t)
        return t, torch.where(jumping & data, 0.0, r)


@dataclass(frozen=True)
class Split(TimeLaw):
    """Jumps of another law with a stop on their way, s = t − at · (t − r).

    Args:
        times: the law of t and r, one without a stop of its own, such as `SortedPair` or `Jumps`.
        at: the share of the way that lies before the stop: a number, ½ for the middle; a law of numbers in [0, 1], each
            row its own; or a schedule, which may begin at 1 (s = r) and end at 0 (s = t).

    Raises: ValueError for a law that has stops or no jumps, or shares out of [0, 1].
    Source: Boffi et al. 2025 (arXiv 2505.18825) and Guo et al. 2025 (arXiv 2507.16884) for ½ and `Uniform()`;
    Zhang et al. 2025 (arXiv 2510.20771) and Luo et al. 2025 (arXiv 2512.15657) for schedules.
    """

    times: TimeLaw = SortedPair()
    at: float | Schedule | Law = Uniform()

    def __post_init__(self) -> None:
        if self.times.has_step or self.times.lands == "nowhere":
            raise ValueError(
                f"Split(times={type(self.times).__name__}): a law of jumps without a stop on their way is expected, "
                "such as SortedPair() or Jumps()"
            )
        low, high = self._range
        if not 0 <= low <= high <= 1 or high == 0:
            raise ValueError(
                f"Split(at={self.at}): shares of the way in [0, 1], not 0 throughout, are expected"
            )

    @property
    def _range(self) -> tuple[float, float]:
        return self.at.support if isinstance(self.at, Law) else limits(self.at)

    def _share(self, generator: RowGenerator, progress: float) -> Tensor:
        if isinstance(self.at, Law):
            return self.at.sample(generator)
        return torch.tensor(value_at(self.at, progress))

    @property
    def cites(self) -> tuple[str, ...]:
        """The papers that split jumps anywhere, or those with a schedule."""
        if isinstance(self.at, Schedule):
            return ("zhang2025alphaflow", "luo2025soflow")
        return ("boffi2025build", "guo2025split")

    @property
    def support(self) -> tuple[float, float]:
        return self.times.support

    @property
    def horizon(self) -> float | None:
        moving = [1.0] if isinstance(self.at, Schedule) else []
        return max([*moving, self.times.horizon or 0.0]) or None

    @property
    def lands(self) -> Lands:
        return self.times.lands

    @property
    def has_stop(self) -> bool:
        return self._range[0] < 1

    @property
    def always_stops(self) -> bool:
        return isinstance(self.at, Law) or self._range[1] < 1

    @property
    def has_diagonal(self) -> bool:
        return self.times.has_diagonal

    @property
    def highest(self) -> float | None:
        return self.times.highest

    def refusal(self, o: Composition) -> str | None:
        return self.times.refusal(o)

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t, _, r, num_jumps = self.times.draw(generator, progress)
        at = self._share(generator, progress).to(t)
        stop = torch.maximum(torch.minimum(t - at * (t - r), t), r)
        return Draw(t, torch.where(at == 1, r, stop), r, num_jumps)
