"""What a joint law of times is, and what it draws."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch

from flowleap.paths import Path
from flowleap.tensors import Time

__all__ = ["Draw", "Jumps", "Lands", "OnPath", "TimeLaw", "jumps_of", "reach"]

Lands = Literal["nowhere", "data", "next", "anywhere"]
"""Where the rows r < t of a law land; see `Jumps`."""


class Draw(NamedTuple):
    """Times of a batch: t ≥ s ≥ r, each (batch,) float32 on the CPU; rows [0, off) have r < t."""

    t: Time
    s: Time
    r: Time
    off: int


@runtime_checkable
class TimeLaw(Protocol):
    """A joint law of (t, s, r).

    A law may say more of itself, which an objective asks where it is made: the four fields of `Jumps`; `highest`, the
    highest time that is drawn, where that is not the end of the path; `group`, how many neighboring rows share their
    times; `horizon`, the fraction of a run after which it no longer changes; `refusal(path)`, why its times are not
    those of a path.
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


class Jumps(NamedTuple):
    """Which jumps a law trains: facts about its rows, each an attribute of the law under the same name.

    Args:
        lands: where rows r < t land. "nowhere": there are none. "data": r = t_min. "next": each t has one r at a time,
            above the data. "anywhere": one t has many r.
        has_step: s < t on the rows r < t; False where s = t.
        has_stop: s > r on some rows r < t; False where s = r on all of them.
        has_diagonal: some rows have r = t.
    """

    lands: Lands
    has_step: bool
    has_stop: bool
    has_diagonal: bool


def jumps_of(law: TimeLaw) -> Jumps:
    """Return the facts a law states; what it does not state: r = t_min, r < s < t on every row."""
    return Jumps(
        getattr(law, "lands", "data"),
        getattr(law, "has_step", True),
        getattr(law, "has_stop", True),
        getattr(law, "has_diagonal", False),
    )


def reach(*supports: tuple[float, float]) -> tuple[float, float]:
    """Return the smallest interval that holds all of these.

    >>> reach((0.0, 1.0), (0.5, 80.0))
    (0.0, 80.0)
    """
    return min(low for low, _ in supports), max(high for _, high in supports)
