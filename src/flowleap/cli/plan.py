"""flowleap train --dry-run: what a run will take, in a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from flowleap import clock
from flowleap.cli.group import waiting
from flowleap.cli.methods import new_table, show

if TYPE_CHECKING:
    from flowleap.runs.estimate import Estimate
    from flowleap.training.config import TrainConfig

CARDS = (("24 GB", 24e9), ("80 GB", 80e9))
"""Memory of GPUs, of which a tenth is left alone."""
LEFT, NODE, SHORT = 0.9, 8, 0.1
"""The share of memory that is used, the GPUs of a node, and hours below which a GPU is not spoken of."""
LARGE = 4e9
"""A state of so many bytes is worth dividing among devices."""


def plan(config: TrainConfig, as_json: bool) -> None:
    """Print what a run will take, without beginning it; with JSON its config besides."""
    from flowleap import runs
    from flowleap.runs.estimate import estimate

    with waiting("measuring a few steps …"):
        found = estimate(config, rows(config))
    if as_json:
        typer.echo(json.dumps({"config": runs.to_dict(config), "estimate": found.to_dict()}, indent=2))
        return
    table = new_table("", "what the run will take")
    for label, text in (*described(config, found), *times(found)):
        table.add(label, text)
    show(table)


def rows(config: TrainConfig) -> int:
    """Return how many rows a run learns from."""
    from flowleap.runs import load_data, recipes

    if config.data:
        return len(load_data(config))
    return 0 if config.recipe is None else recipes.get(config.recipe).rows


def described(config: TrainConfig, found: Estimate) -> list[tuple[str, str]]:
    """Return the rows about the run, its memory and its operations."""
    import torch

    from flowleap import networks

    with torch.device("meta"):
        network = networks.describe(networks.build(config.network)).rpartition(", ")[0]
    m, kept = found.memory, found.activation_row
    fit = "; ".join(f"{name}: {within(config, found, size)}" for name, size in CARDS)
    copies = f" + {size(m.copies)} averages and other copies" if m.copies else ""
    return [
        ("run", f"{config.method.replace('_', '-')}, {config.steps:,} steps of {config.batch}"),
        ("network", network),
        ("parameters", f"{found.parameters:,}, {found.trained:,} of them trained"),
        (
            "memory of a device",
            f"{size(m.weights)} weights + {size(m.gradients)} gradients + {size(m.optimizer)} optimizer{copies} "
            f"+ {size(m.activations)} activations of {m.rows} rows = {size(m.total)}",
        ),
        *divided(config, found),
        ("each further row", f"{size(kept)} of activations, those that autograd keeps"),
        ("rows that fit", fit),
        (
            "operations",
            f"{found.forward / 1e9:.4g} GFLOP per image forward × {found.equivalents:.4g} = "
            f"{found.step / 1e9:.4g} GFLOP per image in training",
        ),
        ("the whole run", f"{found.images:,} images, {found.total:.3g} FLOP"),
    ]


def divided(config: TrainConfig, found: Estimate) -> list[tuple[str, str]]:
    """Return the row about weights divided among devices, where it is asked for or the state is large."""
    from flowleap import processes
    from flowleap.runs.estimate import rows_at_once

    if not (config.shard or found.memory.state > LARGE):
        return []
    devices = processes.count() if processes.count() > 1 else NODE
    rows = rows_at_once(config, devices)
    activations = found.activation_once + rows * found.activation_row
    each = f"{size(found.memory.divided(devices))} + {size(activations)} activations of {rows} rows"
    return [
        (f"with --shard on {devices}", f"{each}; weights and gradients are whole while a step is computed")
    ]


def within(config: TrainConfig, found: Estimate, memory: float) -> str:
    """Say how many rows at a time a device takes, and how many devices hold the batch at once."""
    most = found.rows_within(LEFT * memory)
    if not most:
        return "not even weights and optimizer"
    if most >= config.batch:
        return "the whole batch"
    return f"{most} rows, {-(-config.batch // most)} devices at once"


def times(found: Estimate) -> list[tuple[str, str]]:
    """Return the rows about speed and time."""
    from flowleap.runs.estimate import PEAKS, UTILIZATION

    told: list[tuple[str, str]] = []
    speed = found.speed
    if speed is not None and found.hours is not None:
        part = "" if speed.share > 0.999 else f" of a network cut to {speed.share:.2%} of the operations"
        share = "" if speed.peak is None else f", {speed.peak:.1%} of its peak"
        told.append(
            (
                "measured here",
                f"{speed.measured:.4g} images/s on {speed.device}, {speed.steps} steps of {speed.rows} rows{part}: "
                f"{speed.flops / 1e9:.4g} GFLOP/s{share}",
            )
        )
        told.append(
            ("so the run takes", f"{speed.images:.4g} images/s, {hours(found.hours)} on this machine")
        )
        if speed.load > clock.BUSY:
            told.append(
                (
                    "warning",
                    f"this machine is busy: steps took {speed.load:.1f} times as long as the processor worked on them; "
                    f"beside this load the run takes {hours(found.hours * speed.load)}. Measure again when it is idle",
                )
            )
        day = -(-found.hours // 24)
        if day > 1:
            told.append(("in a day", f"{day:,.0f} machines like this one"))
    for name in ("A100", "H100"):
        alone, peak = found.hours_on(PEAKS[name]), f"{PEAKS[name] / 1e12:g} TFLOP/s"
        if alone < SHORT:
            continue
        told.append(
            (
                f"assumed, {name}",
                f"{hours(alone)} on one, {hours(alone / NODE)} on {NODE}, at {UTILIZATION:.0%} of {peak}; not measured",
            )
        )
    return told


def size(count: float) -> str:
    """Bytes in words."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def hours(count: float) -> str:
    """A time in words."""
    if count < 1 / 60:
        return f"{3600 * count:.0f} s"
    if count < 2:
        return f"{60 * count:.0f} min"
    return f"{count:,.1f} h" if count < 1000 else f"{count:,.0f} h ({count / 24:,.0f} days)"


def refuse_json(as_json: bool, dry_run: bool) -> None:
    """Stop where JSON is asked of a run that prints none.

    Raises: typer.BadParameter.
    """
    if as_json and not dry_run:
        raise typer.BadParameter("it belongs to --dry-run", param_hint="--json")
