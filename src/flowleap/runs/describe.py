"""Messages before the first step: what is trained, on which data, where and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flowleap import methods, networks, processes, serialize, threads
from flowleap.runs.evaluators import Evaluators
from flowleap.runs.setup import Setup
from flowleap.training.config import TrainConfig
from flowleap.training.log import Reporter, explanation

HORIZONS = {"times": "curriculum", "target": "tangent warm-up", "frozen": "last refresh of the teacher"}
"""What ends at a horizon, by the field of the objective."""


def describe(setup: Setup, evaluators: Evaluators, place: Path, reporter: Reporter) -> None:
    """Say what is trained, where, and how long its horizons are."""
    config, objective, data, say = setup.config, setup.objective, setup.data, reporter.say
    begun = f", continued from step {setup.state.step}" if setup.state.step else ""
    by = "" if config.recipe is None else f" by the recipe {config.recipe}"
    say(
        f"{config.method} on {config.data.name}{by}, {setup.steps} steps of {config.data.batch}, seed {config.seed}"
        f"{begun}"
    )
    for line in (*changes(config), *setup.begun, *evaluators.dataset.notes):
        say(line)
    if objective.averages_rows:
        for line in objective.batching.notes(data.label, data.class_names, config.data.batch):
            reporter.warn(line)
    if data.mirrors:
        say("images are mirrored with probability ½; samples are compared with images that are not mirrored")
    say(networks.describe(setup.state.trained.network))
    if setup.engine.device.type == "cpu":
        count, cores = torch.get_num_threads(), threads.share()
        say(f"{count} CPU thread{'s' * (count > 1)} on {cores} core{'s' * (cores > 1)}")
    if setup.engine.parts > 1 or config.parallel.precision != "fp32":
        say(split(setup))
    if config.evaluation.num and evaluators.final is None:
        reporter.warn(f"the finished run is not measured: {evaluators.reasons[-1]}")
    elif evaluators.reasons:
        reporter.warn(f"quality is not measured while training: {evaluators.reasons[-1]}")
    if config.data.batch > len(data):
        times = config.data.batch / len(data)
        say(
            f"a batch of {config.data.batch:,} from {len(data):,} rows of data: each is used {times:.2g} times in "
            "every step"
        )
    say(f"run folder: {place}")
    if objective.auxiliary is not None:
        scale, betas = setup.state.trained.lr_scale, setup.state.trained.optimizer.defaults["betas"]
        say(
            f"two networks are trained, {objective.auxiliary.name} and {objective.name}; both at {scale:g} times the "
            f"learning rate, betas {betas}"
        )
    for name, fraction in objective.horizons().items():
        ends = f"{HORIZONS.get(name, name)} ends at step {round(fraction * setup.steps)}"
        say(ends)
        if fraction > 1:
            reporter.warn(f"{ends}, after the last step {setup.steps} of the run")
    if setup.settled:
        say(setup.settled)
    say(explanation(objective))


def split(setup: Setup) -> str:
    """Say into which parts a batch is split, and in which precision its loss is computed."""
    engine, count, batch = setup.engine, processes.count(), setup.config.data.batch
    rows = f"{batch // engine.parts}" + (
        "" if batch % engine.parts == 0 else f" or {batch // engine.parts + 1}"
    )
    shared = ", weights divided among the processes" if engine.shard else ""
    return (
        f"batch {batch} = {count} process{'es' * (count > 1)} × {engine.micro} micro-batch{'es' * (engine.micro > 1)} "
        f"of {rows}, {engine.precision}{shared}"
    )


def changes(config: TrainConfig) -> list[str]:
    """Return, in words, what the objective of a run changes about the method it is named after."""

    def brief(value: Any) -> str:
        return str(value["type"]) if isinstance(value, dict) else str(value)

    if config.method not in methods.names() and config.imports:
        return []  # a method of one's own that is not imported now
    named = serialize.to_dict(methods.get(config.method))
    found = serialize.differences(named, serialize.to_dict(config.objective))
    return [f"changed from {config.method}: {name} {brief(old)} → {brief(new)}" for name, old, new in found]
