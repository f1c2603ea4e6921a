"""Numbers that change in the course of a run, as functions of its progress p, the fraction that has passed.

| schedule            | value at p                                           |
|---------------------|------------------------------------------------------|
| LinearSchedule      | start + (end − start) p                              |
| ExponentialSchedule | start (end/start)^p                                  |
| SigmoidSchedule     | start + (end − start) σ(slope (p − middle)), snapped |

A field that takes a schedule takes a plain number too: `value_at(field, progress)` reads either.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from flowleap.citations import Cited

__all__ = [
    "ExponentialSchedule",
    "LinearSchedule",
    "Schedule",
    "SigmoidSchedule",
    "horizon",
    "limits",
    "value_at",
]


class Schedule(Cited, ABC):
    """A number as a function of progress; between `start` and `end` at all times."""

    start: float
    end: float

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the value once this fraction of the run has passed."""


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """start + (end − start) p.

    >>> LinearSchedule(0.3, 0.1)(0.5)
    0.2
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class ExponentialSchedule(Schedule):
    """start (end/start)^p, both positive.

    Raises: ValueError for an end that is not positive.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not (self.start > 0 and self.end > 0):
            raise ValueError(
                f"ExponentialSchedule(start={self.start}, end={self.end}): two positive numbers are expected; use "
                "LinearSchedule or SigmoidSchedule for one that reaches 0"
            )

    def __call__(self, progress: float) -> float:
        return self.start * (self.end / self.start) ** progress


@dataclass(frozen=True)
class SigmoidSchedule(Schedule):
    """start + (end − start) σ(slope (p − middle)).

    Args:
        start, end: the values on both sides; reached up to σ(∓slope · distance from the middle).
        slope: how steep it is, positive.
        middle: the progress at which it is half-way.
        snap: within this share of the way from start or end, the value is start or end itself; 0 for never.

    Raises: ValueError for a slope that is not positive, or a snap out of [0, 0.5).
    """

    start: float
    end: float
    slope: float
    middle: float = 0.5
    snap: float = 0.0

    def __post_init__(self) -> None:
        if not self.slope > 0:
            raise ValueError(f"SigmoidSchedule(slope={self.slope}): a positive number is expected")
        if not 0 <= self.snap < 0.5:
            raise ValueError(f"SigmoidSchedule(snap={self.snap}): a share of the way in [0, 0.5) is expected")

    def __call__(self, progress: float) -> float:
        way = 1 / (1 + math.exp(-self.slope * (progress - self.middle)))
        if way < self.snap:
            return self.start
        if way > 1 - self.snap:
            return self.end
        return self.start + (self.end - self.start) * way


def value_at(value: float | Schedule, progress: float) -> float:
    """Return a number, or the value of a schedule once this fraction of the run has passed."""
    return value(progress) if isinstance(value, Schedule) else value


def limits(value: float | Schedule) -> tuple[float, float]:
    """Return the smallest and the largest value of a run."""
    ends = (value.start, value.end) if isinstance(value, Schedule) else (value,)
    return min(ends), max(ends)


def horizon(*values: float | Schedule) -> float | None:
    """Return 1 where one of these changes up to the end of a run, and None where none does."""
    return 1.0 if any(isinstance(value, Schedule) for value in values) else None
