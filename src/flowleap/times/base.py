"""What a joint law of times is, and what it draws."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch

from flowleap.paths import Path
from flowleap.tensors import Time

__all__ = ["Draw", "OnPath", "TimeLaw"]


class Draw(NamedTuple):
    """Times of a batch: t ≥ s ≥ r, each (batch,) float32 on the CPU; rows [0, off) have r < t."""

    t: Time
    s: Time
    r: Time
    off: int


@runtime_checkable
class TimeLaw(Protocol):
    """A joint law of (t, s, r).

    A law may say more of itself, which an objective asks where it is made: `has_step`, False where s = t; `varied`,
    True where any r below t is drawn; `straight`, True where s = r, so that nothing between t and r is compared;
    `highest`, the highest time that is drawn, where that is not the end of the path; `group`, how many neighboring rows
    share their times; `horizon`, the fraction of a run after which it no longer changes; `refusal(path)`, why its times
    are not those of a path.
    """

    @property
    def support(self) -> tuple[float, float]:
        """The interval all times lie in."""
        ...

    @property
    def finest(self) -> float:
        """The step length in or below which the instantaneous velocity is asked for; 0 for continuous laws."""
        ...

    def draw(self, generator: torch.Generator, size: int, progress: float) -> Draw:
        """Return the times of a batch; `progress` is the fraction of the run that has passed."""
        ...


@runtime_checkable
class OnPath(Protocol):
    """A time law that speaks of noise levels, and asks the path what they are."""

    def on(self, path: Path) -> TimeLaw:
        """Return the law on a path."""
        ...
