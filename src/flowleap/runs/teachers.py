"""The teacher of a run: found, checked against what its student expects, and loaded."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowleap import networks
from flowleap.data import Dataset
from flowleap.data.classes import listed
from flowleap.data.shards import checksum
from flowleap.interfaces import Draw
from flowleap.networks.options import core, inside, with_core
from flowleap.objectives import Objective
from flowleap.randomness import RowGenerator
from flowleap.runs.phases import TEACHER, asks_null, length, needs_pairs, number_of_pairs, own_teacher
from flowleap.runs.reading import Run, device_of, load_run, read_config, weights_file
from flowleap.training import folder
from flowleap.training.config import TrainConfig

PROGRESS = (0.0, 0.5, 1.0)


def place_of(config: TrainConfig, place: Path) -> Path:
    """Return the folder of the teacher of the run in `place`."""
    return place / TEACHER if config.teacher.path is None else Path(config.teacher.path)


def find(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return the config of a run with all that follows from its teacher and its data, which fit one another.

    Raises: ValueError for a teacher that is not finished or does not fit, or that is not the one the run began with;
        for settings that the method has no use for; FileNotFoundError for a teacher that is no run.
    """
    objective = config.objective
    if not objective.needs_run and config.teacher.path is not None:
        raise ValueError(
            f"{config.method} has no teacher, but {config.teacher.path} was given: leave it out, or choose a method "
            "that has one, such as consistency-distillation"
        )
    if needs_pairs(objective):
        config = config.replace(pairs=number_of_pairs(config, len(dataset)))
    elif config.teacher.pairs is not None or config.teacher.pair_guidance is not None:
        raise ValueError(
            f"{config.method} is not trained on pairs of a teacher: leave out pairs and pair_guidance"
        )
    own = own_teacher(config)
    try:
        objective.for_run(length(config))
    except ValueError as error:
        half = f" (the first half of {config.schedule.steps} steps trains its teacher)" if own else ""
        raise ValueError(f"{error}{half}") from error
    return config if config.teacher.path is None else _found(config, Path(config.teacher.path), dataset)


def _found(config: TrainConfig, place: Path, dataset: Dataset) -> TrainConfig:
    """Return the config with the name and the checksum of the weights of a teacher that fits."""
    unfinished(place)
    run = load_run(place)
    check(run, config, dataset)
    return identified(config, run)


def unfinished(place: Path) -> None:
    """Refuse a teacher that has not come to its end.

    Raises: ValueError, or FileNotFoundError where there is no run at all.
    """
    config = read_config(place)
    if finished(place):
        return
    try:
        done = weights_file(place, config, "ema")[1]
    except FileNotFoundError:
        done = 0
    raise ValueError(
        f"the teacher {place} has done {done} of {length(config)} steps: it is still training, or was interrupted. "
        f"Wait for it, or finish it with: flowleap train --resume --out {shlex.quote(str(place))}"
    )


def finished(place: Path) -> bool:
    """Whether a run has come to its end, and its averaged weights are there."""
    if not folder.is_run(place) or not (place / "ema.safetensors").exists():
        return False
    config = read_config(place)
    path, step = weights_file(place, config, "ema")
    return path.parent == place and step >= length(config)


def check(run: Run, config: TrainConfig, dataset: Dataset) -> None:
    """Check a teacher against what its student expects.

    Raises: ValueError for another data shape, number of classes, path, or network where its weights are to be gone on
        with; for a method that does not learn what is asked for, the instantaneous velocity or, of a first stage, jumps
        to the data; for a null label that was never trained.
    """
    student, name = config.objective, f"the teacher {run.folder}"
    if run.shape != dataset.shape:
        raise ValueError(
            f"{name} makes samples of shape {run.shape}, but those of {dataset.name} are {dataset.shape}: give a "
            "teacher that was trained on this data"
        )
    classes = networks.build_on_meta(config.network).num_classes
    if classes != run.num_classes:
        raise ValueError(
            f"{name} knows {run.num_classes or 'no'} classes, but its student {classes or 'none'}: give both the same "
            "(--set network.classes=none trains without labels)"
        )
    named = [names for names in (run.classes, dataset.class_names) if not all(map(str.isdecimal, names))]
    if classes is not None and len(named) == 2 and named[0] != named[1]:
        raise ValueError(
            f"{name} knows the classes {listed(named[0])}, and {dataset.name} has {listed(named[1])}: give a teacher "
            "that was trained on the same classes"
        )
    try:
        student.with_teacher(run.flow)
    except ValueError as error:
        raise ValueError(f"{name} does not fit: {error}") from error
    if student.needs_teacher and student.frozen.network_kind is not None:
        if not learns_data(run.objective):
            raise ValueError(
                f"{name} is {run.objective.name}, which is not trained to go to the data in one step (r = 0), as a "
                f"first stage does: give a run of {student.taught_by}"
            )
    elif student.needs_teacher and not learns_velocity(run.objective):
        raise ValueError(
            f"{name} is {run.objective.name}, which is not trained for the instantaneous velocity (r = t) that a "
            "teacher is asked for: give a run of flow-matching, or of another method with rows r = t"
        )
    ours = body(inside(config.network))
    theirs = body(networks.build_on_meta(run.config.network).config)  # with the options that came later
    if student.starts_from_teacher and theirs != ours:
        names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        raise ValueError(
            f"{config.method} goes on from the weights of its teacher, but the network of {run.folder} has "
            f"{listed([f'{name}={theirs.get(name)}' for name in names])}, where "
            f"{listed([f'{name}={ours.get(name)}' for name in names])} is asked for: leave out --network and "
            "--set network.…"
        )
    if asks_null(config) and run.objective.label_dropout == 0:
        raise ValueError(
            f"{name} was trained with label_dropout=0, so its null label, which guidance needs, was never trained: "
            "train it with --set label_dropout=0.1, or leave out guidance"
        )


def body(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network but for its log-variance head, which starts at 0 whatever comes before."""
    inner = {name: value for name, value in core(options).items() if name != "log_variance"}
    return with_core(options, inner)


def _draws(objective: Objective) -> list[Draw]:
    """Return times of 64 rows at some times of a run."""
    return [objective.times.draw(RowGenerator(0, "times", total=64), progress) for progress in PROGRESS]


def learns_velocity(objective: Objective) -> bool:
    """Whether a method trains rows r = t at any time of a run."""
    return any(draw.num_jumps < 64 for draw in _draws(objective))


def learns_data(objective: Objective) -> bool:
    """Whether a method trains rows on the whole way to the data, as consistency models do, at any time of a run."""
    low = objective.path.t_min
    whole = [(draw.r[: draw.num_jumps] <= low).any() for draw in _draws(objective)]
    return any(bool(each) for each in whole) and objective.times.boundary is None


def identified(config: TrainConfig, run: Run) -> TrainConfig:
    """Return the config with the name and the checksum of the weights that teach.

    Raises: ValueError where the config names others.
    """
    found = checksum(run.folder / "ema.safetensors")
    if config.teacher.checksum not in (None, found):
        raise ValueError(
            f"the teacher {run.folder} is not the one that this run began with: the checksum of its weights "
            f"({run.weights}) is {found[:12]}…, not {str(config.teacher.checksum)[:12]}… ({config.teacher.weights}). "
            "Put the former weights back, or start a new run"
        )
    return config.replace(teacher_weights=run.weights, teacher_checksum=found)


def load(config: TrainConfig, place: Path) -> Run:
    """Return the teacher of the run in `place`, on the device of the run."""
    return load_run(place_of(config, place), device=device_of(config.parallel.device))
