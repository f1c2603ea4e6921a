"""The cost of a training step: forward-equivalents, counted, and seconds, measured."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from flowleap import clock
from flowleap.data import Dataset
from flowleap.runs.cost import cost
from flowleap.runs.setup import Setup
from flowleap.training.config import TrainConfig

POSITIONS = 14  # where in a run its steps are timed: twice in each of seven stages
LENGTH = 100 * POSITIONS
ENOUGH = 0.15  # seconds of timed steps at each position
MOST = 12  # timed steps at each position


@dataclass(frozen=True)
class StepCost:
    """The mean cost of a training step: forward-equivalents per image of its batch, and seconds where measured.

    `load` is wall time over processor time of the measured steps, see `clock`.
    """

    forward_equivalents: float
    seconds: float | None = None
    load: float = 1.0


def step_cost(
    config: TrainConfig, dataset: Dataset, *, timed: bool = False, positions: int | None = None
) -> StepCost:
    """Return the mean cost of a step: its network evaluations are counted and, with `timed`, its seconds measured.

    Schedules change the cost within a run, so real steps are timed at equally spaced places of it: one to warm up, then
    the median of some more. No file is written. On a CPU other work on the machine does not count, see `clock`, unless
    images are read from the disk. A teacher is an untrained network, which costs the same.

    Args:
        positions: how many places, None for `POSITIONS`, two in each stage of a schedule.
    """
    spent, places = cost(config), positions or POSITIONS
    if not timed:
        return StepCost(spent)
    setup, seconds, whole = Setup(config, dataset, steps=LENGTH), [], []
    for index in range(places):
        place = int((index + 0.5) * LENGTH / places)
        setup.timed(place, lambda spans: True)
        spans = setup.timed(
            place + 1, lambda s: len(s) == MOST or (len(s) > 1 and sum(span.work for span in s) > ENOUGH)
        )
        seconds.append(statistics.median(span.work for span in spans))
        whole += spans
    return StepCost(spent, statistics.fmean(seconds), clock.load(whole))
