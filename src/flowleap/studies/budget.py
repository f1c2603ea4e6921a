"""Training budgets in steps, images or time, and the cost of a training step, counted or measured."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from flowleap import clock, runs
from flowleap import data as data_sets
from flowleap.data import Dataset, Rows
from flowleap.training.loop import Events, Plan, Reads, fit
from flowleap.training.state import State, new_trained_network

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
    trial, seconds, whole = Trial(config, dataset), [], []
    for index in range(POSITIONS):
        place = int((index + 0.5) * LENGTH / POSITIONS)
        trial.run(place, lambda times: len(times) > 1)
        times = trial.run(
            place + 1, lambda t: len(t) > MOST or (len(t) > 2 and t[-1].work - t[0].work > ENOUGH)
        )
        seconds.append(statistics.median(after.since(before).work for before, after in pairwise(times)))
        whole.append(times[-1].since(times[0]))
    return StepCost(spent, statistics.fmean(seconds), clock.load(whole))


class Trial:
    """The training loop of a run, without its files."""

    def __init__(self, config: runs.TrainConfig, dataset: Dataset) -> None:
        objective, dataset = runs.practice(config, dataset)
        objective, device = objective.for_run(LENGTH), runs.device_of(config.parallel.device)
        self.network = runs.build_network(config).to(device)
        self.objective, self.device = objective, device
        trained = new_trained_network(
            self.network,
            objective,
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            decays=config.optimizer.ema,
        )
        self.state = State(trained)
        labeled = trained.flow.num_classes is not None
        self.data = dataset if labeled else replace(dataset, label=None, num_classes=None)
        self.plan = Plan(
            LENGTH,
            config.data.batch,
            config.seed,
            config.optimizer.lr,
            clip=config.optimizer.clip,
            patience=LENGTH,
        )
        self.plan = replace(self.plan, log_every=LENGTH, sample_every=0, checkpoint_every=0)

    def run(self, place: int, enough: Callable[[list[clock.Moment]], bool]) -> list[clock.Moment]:
        """Train from step `place` on until `enough` readings of the clock, and return them; the first is the start."""
        times = [self.now()]
        self.state.step = place

        def interrupted() -> bool:
            times.append(self.now())
            return enough(times)

        events = Events(
            log=lambda row: None, sample=lambda state: None, save=lambda state: None, interrupted=interrupted
        )
        reads = Reads(self.data.label, len(self.data), self.objective, self.plan.batch, self.plan.seed)
        with data_sets.reading_ahead(self.data, reads, LENGTH) as data:
            fit(self.state, self.objective, data, self.plan, events)
        return times

    def now(self) -> clock.Moment:
        """Read the clock; where images are read from the disk, waiting for them counts."""
        x = self.data.x
        return clock.now(self.device, waits=isinstance(x, Rows) and x.on_disk)
