"""Diagnosis of a map and its run: errors by time, self-consistency, derivatives, sensitivities, spread.

`probes` makes the `measurements`, `rules` makes findings of them. All are functions of the map, the data and the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowleap.data import Dataset
from flowleap.evaluation.diagnosis import probes
from flowleap.evaluation.diagnosis.measurements import Curve, Diagnosis, Finding, RunFacts
from flowleap.evaluation.diagnosis.records import run_facts, trends
from flowleap.evaluation.diagnosis.rules import judge, judge_run
from flowleap.evaluation.generation import evaluating
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective

__all__ = [
    "Curve",
    "Diagnosis",
    "Finding",
    "RunFacts",
    "diagnose",
    "judge",
    "judge_run",
    "run_facts",
    "trends",
]

NUM = 1024  # rows of each probe: about a hundred in each of ten bins, for a standard error of some percent
BATCH = 96  # rows at a time by default; the plug-in velocity depends on it, so that a run gives its own


def diagnose(
    flow: FlowMap,
    objective: Objective,
    dataset: Dataset,
    *,
    seed: int = 0,
    num: int = NUM,
    batch: int = BATCH,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    run: RunFacts | None = None,
) -> Diagnosis:
    """Measure a map on its data, and return the numbers with findings on what seems wrong.

    The mode of the network, its gradients and `requires_grad` of its parameters stay as they are.

    Args:
        num: rows of each probe. batch: rows at a time; give that of the run, since some targets depend on it.
        metrics: the rows of metrics.jsonl, oldest first, or None.
        run: the length of the training and its quality table, see `run_facts`, or None.

    Raises: ValueError for fewer than 64 rows, an empty batch, or a map of another path than the objective's.
    """
    if num < 64 or batch < 1:
        raise ValueError(
            f"num={num} rows in batches of {batch}: at least 64 rows and 1 per batch are expected"
        )
    with evaluating(flow):
        probe = probes.Probes(flow, objective, dataset, seed, num, batch)
        result = Diagnosis(
            method=objective.name,
            data=dataset.name,
            num=num,
            batch=probe.batch,
            seed=seed,
            jumps=probe.jumps,
            one_step=not objective.advice(1),
            error=probe.error(),
            semigroup=probe.semigroup(),
            tangent=probe.tangent(),
            sensitivity=probe.sensitivity(),
            spread=probe.spread(),
            gradient=probe.gradient(),
            trends=None if metrics is None else trends(metrics),
            settings=probes.settings(objective, flow.network),
            run=run,
            not_finite=probe.lost / max(1, probe.seen),
        )
    return replace(result, findings=judge(result))
