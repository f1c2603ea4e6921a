"""Training budgets in steps, images or time, and the cost of a training step, counted or measured."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from typing import Literal

from flowleap import clock, runs
from flowleap.data import Dataset

Unit = Literal["steps", "images", "seconds"]
UNITS: dict[str, tuple[Unit, float]] = {
    "step": ("steps", 1),
    "steps": ("steps", 1),
    "img": ("images", 1),
    "kimg": ("images", 1e3),
    "mimg": ("images", 1e6),
    "s": ("seconds", 1),
    "m": ("seconds", 60),
    "min": ("seconds", 60),
    "h": ("seconds", 3600),
}
POSITIONS = 14  # where in a run its steps are timed: twice in each of seven stages
LENGTH = 100 * POSITIONS
ENOUGH = 0.15  # seconds of timed steps at each position
MOST = 12  # timed steps at each position


@dataclass(frozen=True)
class Budget:
    """A training budget: a number of steps, images or seconds."""

    amount: float
    unit: Unit
    text: str

    def steps(self, batch: int) -> float:
        """Return the number of steps at a batch size; raises ValueError for a time, which must be measured."""
        if self.unit == "seconds":
            raise ValueError(f"a budget of {self.text} is a time: how many steps it allows must be measured")
        return self.amount if self.unit == "steps" else self.amount / batch


def parse(text: str) -> Budget:
    """Parse a budget: 400steps, 50kimg (thousand images), 90s, 3m or 1h.

    Raises: ValueError for a number that is not positive, a missing or an unknown unit, or a broken step.

    >>> parse("3m").amount, parse("50kimg").steps(batch=100), parse("400steps").steps(batch=100)
    (180.0, 500.0, 400.0)
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", text.lower())
    known = "expected a number and its unit, as in 400steps, 50kimg, 90s, 3m or 1h"
    if found is None:
        raise ValueError(f"budget {text!r}: {known}")
    number, name = float(found[1]), found[2]
    if name not in UNITS:
        raise ValueError(
            f"budget {text!r} has {f'the unknown unit {name!r}' if name else 'no unit'}: {known}"
        )
    unit, factor = UNITS[name]
    if number <= 0 or (unit == "steps" and number != int(number)):
        raise ValueError(f"budget {text!r}: {known}; steps are whole numbers from 1 up")
    return Budget(number * factor, unit, text.strip())


@dataclass(frozen=True)
class StepCost:
    """The mean cost of a training step: forward-equivalents per image of its batch, and seconds where measured.

    `load` is wall time over processor time of the measured steps, see `clock`.
    """

    forward_equivalents: float
    seconds: float | None = None
    load: float = 1.0


def step_cost(config: runs.TrainConfig, dataset: Dataset, *, timed: bool = False) -> StepCost:
    """Return the mean cost of a step: its network evaluations are counted and, with `timed`, its seconds measured.

    Schedules change the cost within a run, so real steps are timed at equally spaced places of it: one to warm up, then
    the median of some more. No file is written. On a CPU other work on the machine does not count, see `clock`, unless
    images are read from the disk. A teacher is an untrained network, which costs the same.
    """
    spent = runs.cost(config)
    if not timed:
        return StepCost(spent)
    setup, seconds, whole = runs.Setup(config, dataset, steps=LENGTH), [], []
    for index in range(POSITIONS):
        place = int((index + 0.5) * LENGTH / POSITIONS)
        setup.timed(place, lambda spans: True)
        spans = setup.timed(
            place + 1, lambda s: len(s) == MOST or (len(s) > 1 and sum(span.work for span in s) > ENOUGH)
        )
        seconds.append(statistics.median(span.work for span in spans))
        whole += spans
    return StepCost(spent, statistics.fmean(seconds), clock.load(whole))
