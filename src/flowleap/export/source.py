"""The run that is exported, and how it is meant to be sampled."""

from __future__ import annotations

import importlib.util
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

from flowleap import runs
from flowleap.objectives import Objective
from flowleap.runs import Run
from flowleap.training import checkpoint


def finished(place: str | Path, weights: str = "ema", device: str = "cpu") -> Run:
    """Read a run to export: as `runs.load_run`, which has ended.

    Raises: ValueError for a run that is still in training.
    """
    run = runs.load_run(place, weights, device)
    final = Path(place) / "network.safetensors"
    step = checkpoint.step_of(final) if final.exists() else -1
    if run.imported is None and step < run.length:
        raise ValueError(
            f"{place} is still in training, or was interrupted: its last weights are those of step {run.step} of "
            f"{run.length}. Let it end, or go on with: flowleap train --resume --out {shlex.quote(str(place))}"
        )
    return run


def replaceable(place: Path, mark: str, what: str) -> None:
    """Refuse a place that holds something else than a former export, which has a file of the name `mark`.

    Raises: ValueError for a file, and for a folder that is not empty and has no such file.
    """
    if place.is_dir() and (not any(place.iterdir()) or (place / mark).is_file()):
        return
    if place.exists():
        raise ValueError(
            f"{place} holds something else than {what}, and is left as it is: choose another folder"
        )


def guidance_of(run: Run) -> dict[str, Any] | None:
    """Return how guidance is asked for at sampling: as an input, by two evaluations, or why it is not.

    By two evaluations, `least` is the number of steps from which the method is guided: shortcut models in their finest
    steps alone.
    """
    objective = run.objective
    if run.num_classes is None:
        return None
    if objective.guidance is not None and objective.guidance_input:
        own = objective.guidance
        return {"by": "input", "usual": own.scale, "largest": own.largest, "intervals": own.intervals}
    steps = steps_of(objective)
    against = {n: _against_guidance(objective, n) for n in (steps, objective.sampling.finest or steps)}
    allowed = [n for n, reason in against.items() if reason is None]
    return {"by": "two evaluations", "least": min(allowed)} if allowed else {"by": against[steps]}


def _against_guidance(objective: Objective, steps: int) -> str | None:
    """Return why a method is not guided by two evaluations in so many steps, or None."""
    return next(iter(set(objective.advice(steps, guidance=2.0)) - set(objective.advice(steps))), None)


def steps_of(objective: Objective) -> int:
    """Return the fewest steps that a method is meant for."""
    return max(objective.sampling.least, min(objective.trained or (1,)))


def needs(package: str, extra: str) -> None:
    """Raise ValueError where a package is not installed, naming the extra that brings it along."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"this needs the package {package}, which is not installed: pip install 'flowleap[{extra}]'"
        )


def needed(module: str, package: str, extra: str) -> Any:
    """Return a module that imports a package which may not be installed, or may be too old.

    Raises: ValueError where it cannot be imported, naming the extra that brings the package along.
    """
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: diffusers imports its parts late
        raise ValueError(f"this needs {package}: pip install 'flowleap[{extra}]' ({error})") from error
