"""The diagnosis of a run: of its map on its data, with the course of its training and its quality table."""

from __future__ import annotations

import json

from flowleap.data import Dataset
from flowleap.evaluation import diagnosis
from flowleap.evaluation.diagnosis import Diagnosis, RunFacts
from flowleap.runs.reading import Run
from flowleap.training.log import lines_of


def diagnose(run: Run, dataset: Dataset, *, num: int, seed: int = 0) -> Diagnosis:
    """Return what `evaluation.diagnosis` finds in a run, with all that its folder says."""
    metrics = [row for row in lines_of(run.folder / "metrics.jsonl") if row.get("step", 0) <= run.step]
    return diagnosis.diagnose(
        run.flow,
        run.objective,
        dataset,
        seed=seed,
        num=num,
        batch=run.config.data.batch,
        metrics=metrics,
        run=facts(run, dataset),
    )


def facts(run: Run, dataset: Dataset) -> RunFacts:
    """Return the length of the training of a run, and its quality table where it has one."""
    path, trained = run.folder / "table.json", run.imported is None
    return diagnosis.run_facts(
        run.objective,
        dataset,
        batch=run.config.data.batch,
        steps=run.step if trained else None,
        planned=run.length if trained else None,
        classes=run.num_classes,
        table=json.loads(path.read_text(encoding="utf-8")) if path.is_file() else (),
        weights=run.weights,
    )


def data_of(run: Run) -> Dataset:
    """Return the data of a run.

    Raises: ValueError where the data was given as tensors, and cannot be loaded by its name.
    """
    name, python = (
        run.config.data.name,
        "flowleap.evaluation.diagnosis.diagnose(run.flow, run.objective, dataset)",
    )
    try:
        dataset = run.dataset()
    except ValueError as error:
        if run.imported is not None:
            raise
        raise ValueError(
            f"{run.folder} was trained on data of the name {name!r}, which cannot be loaded ({error}). Data given "
            f"as tensors are diagnosed from Python: {python}"
        ) from error
    if dataset.shape != run.shape:
        raise ValueError(
            f"{run.folder} was trained on samples of shape {run.shape}, but those of {name!r} are "
            f"{dataset.shape}: it was given tensors. Diagnose it from Python: {python}"
        )
    return dataset
