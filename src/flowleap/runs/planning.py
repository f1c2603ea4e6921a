"""Plan a run of a given time: measure training steps on this machine, choose the settings, and say them.

>>> found = planned(60.0, data="two-moons", device="cpu")    # doctest: +SKIP
>>> found.config.schedule.steps, found.plan.steps            # doctest: +SKIP
(2150, 2150)
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from flowleap import clock, methods, networks, processes, threads
from flowleap import data as data_sets
from flowleap.data import Dataset
from flowleap.formatting import scaled
from flowleap.networks.options import core
from flowleap.runs import sizing, suitable
from flowleap.runs.configuring import Resolved, resolve
from flowleap.runs.pace import step_cost
from flowleap.runs.phases import needs_pairs, own_teacher, teacher_config
from flowleap.runs.reading import device_of
from flowleap.runs.setup import Setup
from flowleap.runs.sizing import Facts, Pace, Plan, Size
from flowleap.training import report
from flowleap.training.config import FLAT, TrainConfig

PLACES = 5
"""Places of a run where steps are timed: fewer than in a comparison, since the time of measuring is part of the run."""
ROUNDS = 4
"""Sizes that are measured at most."""
STARTING, FINISHING = 3.0, 6.0
"""Seconds of the start and of the end of a run beside its steps: reading, features, drawing, writing."""
SHOWN, PICTURE = 100, 0.3
"""Samples of a picture, and the seconds that it takes beside them."""
TRIALS = 25
"""Training steps that the start takes where the fastest number of threads is found."""


@dataclass(frozen=True)
class Planned:
    """A run with its plan.

    Args:
        load: wall time over processor time of the measured steps.
        lines: the plan in words.
    """

    resolved: Resolved
    plan: Plan
    load: float
    lines: tuple[str, ...]

    @property
    def config(self) -> TrainConfig:
        """The config of the run."""
        return self.resolved.config


@dataclass(frozen=True)
class Measured:
    """Wall seconds of a training step, forward-equivalents of it per image, and the load of the machine."""

    seconds: float
    forward_equivalents: float
    load: float

    def forward(self, batch: int) -> float:
        """Return the seconds of one evaluation of one image."""
        return self.seconds / (batch * self.forward_equivalents)


def unplanned(asked: Mapping[str, Any]) -> bool:
    """Return whether a run is by its recipe or its preset where no time is given: for digits, points, given steps,
    another run to begin with or to learn from, or several processes.
    """
    known = {name for name, value in asked.items() if value is not None}
    data = asked.get("data")
    if data is None or (isinstance(data, str) and data_sets.is_name(data)) or processes.count() > 1:
        return True
    return bool(known & {"recipe", "teacher", "init"}) or "schedule.steps" in named(asked)


def named(asked: Mapping[str, Any]) -> set[str]:
    """Return the dotted paths of the fields of the config that are given, also by settings."""
    options = {name for name, value in asked.items() if value is not None}
    return {FLAT.get(name, name) for name in (*options, *(name for name, _ in asked.get("settings", ())))}


def planned(seconds: float | None = None, *, text: str = "", **asked: Any) -> Planned:
    """Return a run that takes about so many seconds with its start, pictures and table.

    Args:
        seconds: None for `sizing.DEFAULT_SECONDS` of the device. text: the time as it was given, for messages.
        asked: what `resolve` takes, which wins over what is chosen here.

    Raises: ValueError for a time that is too short, and where steps, a recipe, several processes or a method with
        pairs are asked for; and as `resolve`.
    """
    began, text = time.perf_counter(), text or f"{seconds} seconds"
    refuse(seconds, text, asked)
    settings = asked["settings"] = list(asked.get("settings", ()))
    first = resolve(**{**asked, "settings": [one for one in settings if not one[0].startswith("network.")]})
    if needs_pairs(first.config.objective):
        raise ValueError(
            f"{first.config.method} lets a teacher make pairs, and the time of that is not planned: give --steps "
            "instead of a time"
        )
    suitable.check(first.dataset, first.config.network, first.config.objective.loss.encoder)
    device = device_of(first.config.parallel.device).type
    whole = sizing.DEFAULT_SECONDS[device] if seconds is None else seconds
    about = None if data_sets.is_name(first.config.data.name) else sizing.facts(first.dataset)
    found: Callable[..., Resolved]
    if about is None:
        found, cost = partial(resolve, **asked), measure(first.config, first.dataset)
    else:
        found, cost = chosen(about, device, whole, asked, first.dataset)
    around, extra = beside(found().config, whole, cost)
    spent = time.perf_counter() - began
    plan = Plan(whole, seconds is not None, device, cost.seconds, spent + around, extra, about)
    sizing.refuse_short(plan, text, described(found().config), busy(cost))
    resolved = found(steps=plan.steps)
    return Planned(resolved, plan, cost.load, told(resolved, plan, cost))


def refuse(seconds: float | None, text: str, asked: Mapping[str, Any]) -> None:
    """Raise ValueError for a time that cannot be planned, before anything is read."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{text}: a positive time is expected, as in --minutes 30 or --hours 2")
    if seconds is not None and seconds < sizing.LEAST_SECONDS:
        raise ValueError(
            f"{text} is {seconds:.3g} s: choosing settings, some hundred steps and one evaluation take at least "
            f"{sizing.LEAST_SECONDS:.0f} s, --minutes {sizing.LEAST_SECONDS / 60:g}; for a shorter run give --steps"
        )
    if "schedule.steps" in named(asked):
        raise ValueError(
            f"{text} and --steps are both given, and each is the length of the run: leave one out"
        )
    if asked.get("recipe") is not None:
        raise ValueError(
            f"{text} and --recipe {asked['recipe']} are both given, and a recipe has its own length: change that with "
            "--steps, or leave the recipe out"
        )
    if processes.count() > 1:
        raise ValueError(f"{text}: the time of several processes is not planned: give --steps")


def chosen(
    about: Facts, device: str, seconds: float, asked: Mapping[str, Any], dataset: Dataset
) -> tuple[Callable[..., Resolved], Measured]:
    """Return what resolves the run of the largest size whose step is short enough, and the cost of its steps."""
    pace, costs = Pace(sizing.RATE[device]), dict[Size, Measured]()
    size = sizing.size(about, device, seconds, pace)
    while not pace.knows(size):
        costs[size] = measure(sized(about, device, asked, dataset, size).config, dataset)
        pace = pace.also(size, costs[size].seconds)
        size = sizing.size(about, device, seconds, pace, among=tuple(costs) if len(costs) == ROUNDS else ())
    return partial(sized, about, device, asked, dataset, size), costs[size]


def sized(
    about: Facts, device: str, asked: Mapping[str, Any], dataset: Dataset, size: Size, **length: int
) -> Resolved:
    """Return the run of a size, with what was asked for."""
    name = methods.key(asked.get("method") or sizing.method())
    preset = sizing.preset(about, device, size, **length)
    own = any("guidance" in path or path == "network.classes" for path, _ in asked.get("settings", ()))
    guidance = sizing.guidance(about)
    if name == methods.key(sizing.method()) and guidance is not None and not own:
        preset["objective"] = replace(methods.get(name), guidance=guidance)
    return resolve(**{**asked, "method": name, "data": dataset}, preset=preset)


def measure(config: TrainConfig, dataset: Dataset) -> Measured:
    """Return the cost of a training step, of both phases where a run trains its own teacher."""
    device, limit = device_of(config.parallel.device), threads.most()
    count = threads.known(config.parallel.threads, limit)
    if count is None and device.type == "cpu":
        count = Setup(config, dataset).fastest_threads(limit)
    with threads.limited(count):
        every = [config, *([teacher_config(config)] if own_teacher(config) else [])]
        costs = [step_cost(one, dataset, timed=True, positions=PLACES) for one in every]
    each = [cost.seconds * cost.load for cost in costs if cost.seconds is not None]
    return Measured(
        statistics.fmean(each),
        statistics.fmean(cost.forward_equivalents for cost in costs),
        max(cost.load for cost in costs),
    )


def beside(config: TrainConfig, whole: float, cost: Measured) -> tuple[float, float]:
    """Return the seconds that a run of so many seconds takes before its first and after its last step, and those of
    pictures and measurements beside each second of training.
    """
    objective, each = config.objective, cost.forward(config.data.batch)
    tried = device_of(config.parallel.device).type == "cpu" and not threads.known(
        config.parallel.threads, threads.most()
    )
    start = STARTING + cost.seconds * (TRIALS if tried else 1)
    allowed, num = report.SHARE * whole, config.evaluation.num
    counts = config.evaluation.show or report.usual_steps(objective)
    costs = {count: objective.nfe(count) for count in counts}
    shown, drawn = report.affordable(costs, SHOWN, each, allowed)
    measured = report.affordable(costs, num, each, allowed, fewest=num)[1] if num else ()
    if config.evaluation.show is not None:
        shown, drawn, measured = SHOWN, tuple(counts), tuple(counts) if num else ()
    end = FINISHING + each * (shown * sum(costs[n] for n in drawn) + num * sum(costs[n] for n in measured))
    every = config.schedule.sample_every
    picture = PICTURE + SHOWN * each * objective.nfe(report.fewest_steps(objective))
    pictures = min(report.SHARE / 2, picture / (every * cost.seconds)) if every else 0.0
    return start + end, pictures + config.evaluation.online_share


def described(config: TrainConfig) -> str:
    """Return network and batch in words."""
    return f"{network_of(config)} on {config.data.batch} images"


def network_of(config: TrainConfig) -> str:
    """Return the network of a run in words: its kind, sizes and number of parameters."""
    options = core(config.network)
    with torch.device("meta"):
        count = sum(weight.numel() for weight in networks.build(config.network).parameters())
    sizes = [
        f"{name} {options[name]}" for name in ("width", "depth", "patch", "dropout") if options.get(name)
    ]
    return ", ".join([f"{options['kind']} of {scaled(count)} parameters", *sizes])


def told(resolved: Resolved, plan: Plan, cost: Measured) -> tuple[str, ...]:
    """Return a plan in words, as it was resolved."""
    config, dataset = resolved.config, resolved.dataset
    rows = (
        f"{len(dataset):,} {'points' if dataset.kind == 'points' else dataset.kind.removesuffix('s') + 's'}"
    )
    size = " x ".join(map(str, dataset.shape))
    count = dataset.num_classes or 0
    labels = f", {count} classes" if count > 1 else ""
    title = f"{config.method.replace('_', '-')} on {rows} of {size}{labels}"
    lines = sizing.sentences(plan, title, network_of(config), config, len(dataset))
    return tuple(filter(None, [*lines, busy(cost)]))


def busy(cost: Measured) -> str:
    """Return in words how much other work slows the steps down; nothing on an idle machine."""
    if cost.load <= clock.BUSY:
        return ""
    return (
        f"this machine is busy: steps take {cost.load:.1f} times as long as the processor works on them, and there are "
        "fewer for that"
    )
