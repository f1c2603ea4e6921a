"""Sample grids, curves of metrics, and the table of quality and time in a run folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap import autoencoders, evaluation, pictures, processes
from flowleap.data import Dataset, classes
from flowleap.files import replace_file
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.progress import counted
from flowleap.training.log import Reporter

STEPS = evaluation.STEPS
"""The numbers of steps that a finished run is measured at."""
SHOWN = {"image": 100, "latents": 40, "points": 2000}
SHARE, LEAST = 0.1, 5.0
"""The share of the time of training that pictures may take where no numbers of steps are named, and so the table, and
the seconds that each may take in any case."""
FEWEST = 10
CURVES = {
    "raw_error": "unweighted error (mean squared residual)",
    "grad_norm": "gradient norm",
    "derivative_norm": "‖du/dt‖",
    "images_per_second": "images per second",
}


class Undecoded(ValueError):
    """Latents cannot be shown as images."""


def fewest_steps(objective: Objective) -> int:
    """Return the smallest number of steps that a method was trained for."""
    return next((steps for steps in (1, 2, 4, 8, 16, 32, 64) if not objective.advice(steps)), 128)


def affordable(
    costs: Mapping[int, int], num: int, pace: float, seconds: float, fewest: int = FEWEST
) -> tuple[int, tuple[int, ...]]:
    """Return how many samples to make, and at which numbers of steps, so that they take some seconds.

    Fewer samples first, down to twice the fewest, then fewer numbers of steps, the dearest first; the cheapest stays.

    Args:
        costs: network evaluations of a sample, by the number of steps. num: samples that are wanted.
        pace: seconds of one evaluation of one sample.

    >>> affordable({1: 1, 2: 2, 4: 4, 128: 128}, 100, pace=0.01, seconds=200.0)
    (100, (1, 2, 4, 128))
    >>> affordable({1: 1, 2: 2, 4: 4, 128: 128}, 100, pace=0.01, seconds=50.0)
    (30, (1, 2, 4, 128))
    >>> affordable({1: 1, 2: 2, 4: 4, 128: 128}, 100, pace=0.01, seconds=10.0)
    (100, (1, 2, 4))
    """
    kept = sorted(costs, key=lambda steps: costs[steps])
    while True:
        each = pace * sum(costs[steps] for steps in kept)
        fits = num if each * num <= seconds else int(max(0.0, seconds) / each)
        if fits >= min(num, 2 * fewest) or len(kept) == 1:
            chosen = min(num, max(fewest, fits))
            whole = chosen if chosen == num else chosen - chosen % FEWEST
            return whole, tuple(steps for steps in costs if steps in kept)
        kept.pop()


def shown(
    flow: FlowMap,
    objective: Objective,
    data: Dataset,
    steps: int,
    num: int,
    tick: Callable[[int], None] = lambda evaluations: None,
    chosen: Sequence[str] | None = None,
) -> Tensor:
    """Return the first samples that every picture of a run shows: always from the same noise, labels cycling.

    `chosen`: the classes that are shown, None for all.

    Raises: Undecoded for latents whose autoencoder cannot be had.
    """
    label = named(flow, data, num, chosen)["label"]
    decode = autoencoders.decoder_or_none(data.codec, evaluation.device_of(flow))
    if data.kind == "latents" and decode is None:
        raise Undecoded("the autoencoder behind its latents is not at hand")
    make = partial(evaluation.generate, flow, objective, data.shape, num, label=label, steps=steps)
    return make(bounds=evaluation.BOUNDS.get(data.kind), decode=decode, tick=tick)


def chosen_labels(data: Dataset, num_classes: int | None, chosen: Sequence[str] | None) -> list[int] | None:
    """Return the numbers of the classes that pictures show, None for all.

    Raises: ValueError for a class that the network does not know.
    """
    names = evaluation.labels.names_of(data, num_classes)
    if chosen and not names:
        raise ValueError(f"--validation-labels {','.join(chosen)}: the network has no labels: leave it out")
    return [classes.find(name, names) for name in chosen] if chosen else None


def named(flow: FlowMap, data: Dataset, num: int, chosen: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the classes of `shown` samples and their names, as `pictures.grid` takes them."""
    numbers = chosen_labels(data, flow.num_classes, chosen)
    label = evaluation.cycle(num, len(numbers) if numbers else flow.num_classes)
    if numbers and label is not None:
        label = torch.tensor(numbers)[label]
    return {"label": label, "names": evaluation.labels.names_of(data, flow.num_classes)}


def draw_samples(
    flow: FlowMap,
    objective: Objective,
    data: Dataset,
    path: Path,
    reporter: Reporter,
    num: int,
    chosen: Sequence[str] | None = None,
) -> None:
    """Draw one grid (or point cloud) with the smallest number of steps that the method is made for.

    `chosen`: the classes that are shown, None for all.
    """
    try:
        samples = shown(flow, objective, data, fewest_steps(objective), num, chosen=chosen)
    except (evaluation.NotFinite, Undecoded) as error:
        reporter.warn(f"no picture {path.name}: {error}")
        return
    if data.kind != "points":
        pictures.save(pictures.grid(samples, columns=10, **named(flow, data, num, chosen)), path)
    else:
        pictures.scatter({path.stem: samples}, path, real=data.x[: len(samples)])


def usual_steps(objective: Objective) -> tuple[int, ...]:
    """Return the numbers of steps to look at: `STEPS`, and where none of them was trained for, the least that was."""
    trained = objective.trained
    if trained is None or set(trained) & set(STEPS):
        return STEPS
    return tuple(sorted({*STEPS, min(trained)}))


def draw_budgets(
    flow: FlowMap,
    objective: Objective,
    data: Dataset,
    path: Path,
    reporter: Reporter,
    counts: Sequence[int],
    num: int,
) -> None:
    """Draw one panel of some samples for each number of steps, all from the same noise."""
    try:
        with warnings.catch_warnings():  # the table says which numbers of steps were not trained for
            warnings.simplefilter("ignore", UserWarning)
            panels = panels_of(flow, objective, data, path.name, counts, num)
    except (evaluation.NotFinite, Undecoded) as error:
        reporter.warn(f"no picture {path.name}: {error}")
        return
    if data.kind != "points":
        pictures.save(pictures.figure(panels, columns=10, **named(flow, data, num)), path)
    else:
        titled = {f"NFE {nfe}": points for nfe, points in panels.items()}
        pictures.scatter(titled, path, real=data.x[:num])


def panels_of(
    flow: FlowMap, objective: Objective, data: Dataset, name: str, steps: Sequence[int], num: int
) -> dict[int, Tensor]:
    """Return what is shown at each number of steps, by network evaluations, showing how far it is."""
    counts = {objective.nfe(each): each for each in steps}
    with counted(f"drawing {name} at {listed(counts.values())} steps", num * sum(counts)) as tick:
        return {nfe: shown(flow, objective, data, each, num, tick) for nfe, each in counts.items()}


def listed(counts: Iterable[int]) -> str:
    """Return numbers as text, "1, 2, 4"."""
    return ", ".join(map(str, counts))


def draw_curves(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw each metric of a run over its steps."""
    for name, title in CURVES.items():
        measured = [(row["step"], row[name]) for row in rows if row[name] is not None]
        if measured:
            steps, values = zip(*measured, strict=True)
            series = {title: (steps, values)}
            logarithmic = name != "images_per_second" and min(values) > 0
            pictures.curves(series, folder / f"{name}.png", title=title, log=logarithmic)


def tabulate(
    flow: FlowMap,
    objective: Objective,
    data: Dataset,
    num: int,
    weights: str,
    folder: Path,
    reporter: Reporter,
    counts: Sequence[int],
    remarks: Sequence[str] = (),
    evaluator: evaluation.Evaluator | None = None,
) -> list[dict[str, Any]]:
    """Measure a map at some numbers of steps; print the table, and write it with remarks (table.json, table.md)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        about = f"measuring {num:,} samples at {listed(counts)} steps"
        with counted(about, len(processes.share(num)) * sum(map(objective.nfe, counts))) as tick:
            rows = evaluation.evaluate(
                flow, objective, data, counts, num=num, weights=weights, evaluator=evaluator, tick=tick
            )
    notes = [
        *evaluation.quality_table.notes(rows),
        *remarks,
        *dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning),
    ]
    write_table(folder, rows, notes)
    reporter.console.print(evaluation.quality_table.table(rows))
    for note in notes:
        reporter.say(note)
    return rows


def write_table(folder: Path, rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> None:
    """Write measured rows as table.json and table.md; a table that is there already is kept as table.old-N."""
    texts = {"json": json.dumps(rows, indent=2) + "\n", "md": evaluation.quality_table.markdown(rows, notes)}
    if any((folder / f"table.{suffix}").exists() for suffix in texts):
        number = 1
        while any((folder / f"table.old-{number}.{suffix}").exists() for suffix in texts):
            number += 1
        for suffix in texts:
            if (old := folder / f"table.{suffix}").exists():
                old.rename(folder / f"table.old-{number}.{suffix}")
    for suffix, text in texts.items():
        replace_file(folder / f"table.{suffix}", text)
