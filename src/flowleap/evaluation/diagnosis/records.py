"""Trends of training and facts of a run, from its metrics and its quality table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from flowleap.data import Dataset
from flowleap.evaluation.diagnosis.measurements import Quality, RunFacts, Trends
from flowleap.objectives import Objective

SPIKE = 4.0  # times the median of the rows before: single rows of healthy runs stay below twice
LEAST_ROWS = 8  # of the metrics, two in each quarter; no trend of fewer


def trends(metrics: Sequence[Mapping[str, Any]]) -> Trends | None:
    """Return the trends of the rows of metrics.jsonl, oldest first; None without rows."""
    if not metrics:
        return None
    last = metrics[-1]
    steps, skipped = int(last.get("step", 0)), int(last.get("skipped") or 0)
    error, growth = _quarters(metrics, "raw_error"), _quarters(metrics, "derivative_norm")
    spikes = _spikes(metrics)
    worst = max(spikes, key=lambda spike: spike[1], default=None)
    rates = [row["lr"] for row in metrics if row.get("lr")]
    best = None if error is None else min(error[:3])
    return Trends(
        steps=steps,
        rows=len(metrics),
        fall=None if error is None or not error[2] else 1 - error[3] / error[2],
        rise=None if error is None or not best else error[3] / best,
        spikes=sum(factor > SPIKE for _, factor in spikes),
        worst=None if worst is None else worst[1],
        worst_step=None if worst is None else worst[0],
        growth=None if growth is None or not growth[1] else growth[3] / growth[1],
        skipped=skipped,
        lost=skipped / max(1, steps),
        rate=rates[-1] / max(rates) if rates else None,
    )


def _quarters(metrics: Sequence[Mapping[str, Any]], name: str) -> list[float] | None:
    """The median of a number in each quarter of the rows that have it."""
    values = [float(row[name]) for row in metrics if row.get(name) is not None]
    if len(values) < LEAST_ROWS:
        return None
    cuts = [round(i * len(values) / 4) for i in range(5)]
    return [statistics.median(values[a:b]) for a, b in pairwise(cuts)]


def _spikes(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(step, gradient norm relative to the median of up to 20 rows before), from the fourth row on."""
    rows = [(int(row.get("step", 0)), float(row["grad_norm"])) for row in metrics if row.get("grad_norm")]
    before = [[norm for _, norm in rows[max(0, i - 20) : i]] for i in range(len(rows))]
    return [
        (step, norm / statistics.median(past))
        for (step, norm), past in zip(rows[3:], before[3:], strict=True)
    ]


def run_facts(
    objective: Objective,
    dataset: Dataset,
    *,
    batch: int,
    steps: int | None,
    planned: int | None = None,
    classes: int | None = None,
    table: Sequence[Mapping[str, Any]] = (),
    weights: str = "",
) -> RunFacts:
    """Return the facts of a run.

    Args:
        steps: of its training so far, None where that is not known; `planned` of its whole training.
        table: the rows of table.json; they count only where they are of the weights named `weights`.
    """
    facts = RunFacts(steps, planned, batch, len(dataset), classes)
    rows = [row for row in table if row.get("steps") is not None and row.get("times") is None]
    if not rows:
        return facts
    first = rows[0]
    if first.get("weights") != weights:
        return replace(facts, other=str(first.get("weights")))
    floor, num = first.get("floor"), int(first["num"])
    points = first.get("features") == "point"
    return replace(
        facts,
        rows=tuple(_quality(row, objective) for row in rows),
        metric=str(first.get("metric", "distance")),
        num=num,
        floor=floor,
        real=None if floor is None else floor * _scarcity(first.get("reference_size"), num),
        real_accuracy=first.get("judge"),
        variance=float(dataset.x[:].flatten(1).double().var(0).sum()) if points else None,
    )


def _quality(row: Mapping[str, Any], objective: Objective) -> Quality:
    seen = bool(row.get("reference_seen"))  # only then is the nearest image one of training
    return Quality(
        steps=int(row["steps"]),
        intended=not objective.advice(int(row["steps"])),
        distance=row.get("distance"),
        accuracy=row.get("agreement"),
        precision=row.get("precision"),
        recall=row.get("recall"),
        nearest_ratio=row.get("nearest_ratio") if seen else None,
        copies=row.get("copies") if seen else None,
    )


def _scarcity(size: int | None, num: int) -> float:
    """The distance of `num` real images to all `size` of them, relative to that between two halves.

    A Fréchet distance of samples of sizes n and m is biased by a multiple of 1/n + 1/m: 4/size for two halves,
    1/num + 1/size here. At least 1: fewer images never count as nearer than halves are.
    """
    return 1.0 if not size else max(1.0, (size / num + 1) / 4)
