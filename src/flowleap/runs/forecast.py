"""The table of an `Estimate`: memory, operations and hours, in words."""

from __future__ import annotations

from functools import partial

from flowleap import clock, networks, processes
from flowleap.data import Dataset
from flowleap.formatting import roughly, scaled
from flowleap.runs import estimate, recipes
from flowleap.runs.estimate import PEAKS, UTILIZATION, Estimate, rows_at_once
from flowleap.tables import Table
from flowleap.training.config import TrainConfig

CARDS = (("24 GB", 24e9), ("80 GB", 80e9))
"""Memory of GPUs, of which a tenth is left alone."""
LEFT, NODE, SHORT = 0.9, 8, 0.1
"""The share of memory that is used, the GPUs of a node, and hours below which GPUs are left out."""
LARGE = 4e9
"""A state of so many bytes is worth dividing among devices."""
size = partial(scaled, unit="B")
Lines = list[tuple[str, str]]


def forecast(config: TrainConfig, dataset: Dataset | None = None) -> Estimate:
    """Return the estimate of a run on its data, or where these are not named on those of its recipe.

    Args:
        dataset: the data, where they are loaded already.
    """
    if config.data.name:
        return estimate.estimate(config, len(config.data.load() if dataset is None else dataset))
    return estimate.estimate(config, 0 if config.recipe is None else recipes.get(config.recipe).rows)


def table(config: TrainConfig, found: Estimate) -> Table:
    """Return the estimate of a run as a table."""
    made = Table.of_words("", "what the run will take")
    for label, text in (*described(config, found), *measured(found), *assumed(found)):
        made.add(label, text)
    return made


def described(config: TrainConfig, found: Estimate) -> Lines:
    """Return the rows about the run, its memory and its operations."""
    network = networks.describe(networks.build_on_meta(config.network)).rpartition(", ")[0]
    m = found.memory
    copies = f" + {size(m.copies)} averages and other copies" if m.copies else ""
    return [
        ("run", f"{config.method.replace('_', '-')}, {config.schedule.steps:,} steps of {config.data.batch}"),
        ("network", network),
        ("parameters", f"{found.parameters:,}, {found.trained:,} of them trained"),
        (
            "memory of a device",
            f"{size(m.weights)} weights + {size(m.gradients)} gradients + {size(m.optimizer)} optimizer{copies} "
            f"+ {size(m.activations)} activations of {m.rows} rows = {size(m.total)}",
        ),
        *([("memory of the CPU", f"{size(m.host)} averages and weights copied to it")] if m.host else []),
        *divided(config, found),
        ("each further row", f"{size(found.activation_row)} of activations at the peak of a step"),
        ("rows that fit", "; ".join(f"{name}: {within(config, found, most)}" for name, most in CARDS)),
        (
            "operations",
            f"{found.forward / 1e9:.4g} GFLOP per image forward × {found.equivalents:.4g} = "
            f"{found.step / 1e9:.4g} GFLOP per image in training",
        ),
        ("the whole run", f"{found.images:,} images, {found.total:.3g} FLOP"),
    ]


def divided(config: TrainConfig, found: Estimate) -> Lines:
    """Return the row about weights divided among devices, where it is asked for or the state is large."""
    if not (config.parallel.shard or found.memory.state > LARGE):
        return []
    devices = processes.count() if processes.count() > 1 else NODE
    rows = rows_at_once(config, devices)
    activations = found.activation_once + rows * found.activation_row
    each = f"{size(found.memory.divided(devices))} + {size(activations)} activations of {rows} rows"
    return [
        (f"with --shard on {devices}", f"{each}; weights and gradients are whole while a step is computed")
    ]


def within(config: TrainConfig, found: Estimate, memory: float) -> str:
    """Return how many rows at a time a device takes, and how many devices hold the batch at once."""
    most = found.rows_within(LEFT * memory)
    if not most:
        return "not even weights and optimizer"
    if most >= config.data.batch:
        return "the whole batch"
    return f"{most} rows, {-(-config.data.batch // most)} devices at once"


def hours(count: float) -> str:
    """Return a time in hours as text."""
    return roughly(3600 * count)


def measured(found: Estimate) -> Lines:
    """Return the rows about the speed on this machine, where it was measured."""
    speed = found.speed
    if speed is None or found.hours is None:
        return []
    part = "" if speed.share > 0.999 else f" of a network cut to {speed.share:.2%} of the operations"
    share = "" if speed.peak is None else f", {speed.peak:.1%} of its peak"
    lines = [
        (
            "measured here",
            f"{speed.measured:.4g} images/s on {speed.device}, {speed.steps} steps of {speed.rows} rows{part}: "
            f"{speed.flops / 1e9:.4g} GFLOP/s{share}",
        ),
        ("so the run takes", f"{speed.images:.4g} images/s, {hours(found.hours)} on this machine"),
    ]
    if speed.load > clock.BUSY:
        lines.append(
            (
                "warning",
                f"this machine is busy: steps took {speed.load:.1f} times as long as the processor worked on them; "
                f"beside this load the run takes {hours(found.hours * speed.load)}. Measure again when it is idle",
            )
        )
    if (machines := -(-found.hours // 24)) > 1:
        lines.append(("in a day", f"{machines:,.0f} machines like this one"))
    return lines


def assumed(found: Estimate) -> Lines:
    """Return the rows about the time on GPUs, where it is at least `SHORT`."""
    alone = {name: found.hours_on(PEAKS[name]) for name in ("A100", "H100")}
    return [
        (
            f"assumed, {name}",
            f"{hours(taken)} on one, {hours(taken / NODE)} on {NODE}, at {UTILIZATION:.0%} of "
            f"{PEAKS[name] / 1e12:g} TFLOP/s; not measured",
        )
        for name, taken in alone.items()
        if taken >= SHORT
    ]
