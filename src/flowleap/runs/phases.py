"""The phases of a run: a teacher of its own, the pairs that a teacher makes, and the training itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flowleap import methods
from flowleap.networks.options import inside
from flowleap.objectives import Objective
from flowleap.times import LogNormal, OneTime
from flowleap.training.config import InitConfig, TeacherConfig, TrainConfig

PAIRS_PER_ROW = 4
"""Pairs that a teacher makes for each row of the data, where their number is not given."""
TEACHER, PAIRS, STUDENT = "teacher", "pairs", "student"
"""The names of the phases; the first two are also those of the folders that they fill."""


@dataclass(frozen=True)
class Phase:
    """A part of a run that is done before the next one begins.

    Args:
        name: one of `TEACHER`, `PAIRS`, `STUDENT`.
        steps: optimizer steps, 0 where nothing is trained.
        images: rows that are trained on, counted as often as they come; of `PAIRS` the samples that are made.
        text: what is done, in words.
    """

    name: str
    steps: int
    images: int
    text: str


def own_teacher(config: TrainConfig) -> bool:
    """Whether a run trains a teacher of its own first."""
    return config.teacher.path is None and config.objective.needs_run


def needs_pairs(objective: Objective) -> bool:
    """Whether a method is trained on pairs that a teacher made."""
    return objective.coupling.stored


def length(config: TrainConfig) -> int:
    """Return the steps of the training itself: all steps, or those that its own teacher leaves."""
    return (
        config.schedule.steps - config.schedule.steps // 2 if own_teacher(config) else config.schedule.steps
    )


def number_of_pairs(config: TrainConfig, rows: int) -> int:
    """Return how many pairs a teacher makes: as many as were asked for, or `PAIRS_PER_ROW` for each row of the data,
    but no more than training uses.

    Raises: ValueError where more are asked for than training uses.
    """
    most, asked = length(config) * config.data.batch, config.teacher.pairs
    if asked is not None and asked > most:
        raise ValueError(
            f"pairs={asked}: {length(config)} steps of {config.data.batch} use {most} of them, the others would be "
            f"made for nothing: give at most {most} pairs, or more steps"
        )
    return min(PAIRS_PER_ROW * rows, most) if asked is None else asked


def asks_null(config: TrainConfig) -> bool:
    """Whether the teacher of a run is asked without its label."""
    objective = config.objective
    scales = [part.teacher_scale for part in objective.asked()]
    scales += [config.teacher.pair_guidance] if needs_pairs(objective) else []
    return any(scale not in (None, 1.0) for scale in scales)


def teacher_config(config: TrainConfig) -> TrainConfig:
    """Return the config of the teacher that a run trains for itself by `Objective.taught_by`, the first half of it.

    Raises: ValueError for a run of one step.
    """
    if config.schedule.steps < 2:
        raise ValueError(
            f"steps={config.schedule.steps}: {config.method} trains a teacher with the first half of its steps, so at "
            "least 2 are expected; or give the folder of a trained one (--teacher)"
        )
    student = config.objective
    teaching = methods.get(student.taught_by)
    dropout = student.label_dropout
    if asks_null(config) and dropout == 0:
        dropout = teaching.label_dropout  # a null label that is to be asked must be trained
    times = teaching.times
    if (student.path.t_max > 1) != (times.support[1] > 1):
        times = OneTime(LogNormal())  # the law of flow matching is one of times up to 1
    objective = replace(
        teaching,
        path=student.path,
        parameterization=student.parameterization,
        times=times,
        label_dropout=dropout,
    )
    return replace(
        config,
        method=student.taught_by,
        objective=objective,
        network=inside(config.network),
        schedule=replace(config.schedule, steps=config.schedule.steps // 2),
        teacher=TeacherConfig(pair_steps=config.teacher.pair_steps),
        init=InitConfig(),
    )


def phases(config: TrainConfig, rows: int) -> tuple[Phase, ...]:
    """Return the phases of a run on a data set of so many rows, in their order."""
    objective, own, found = config.objective, own_teacher(config), []
    if own:
        steps = config.schedule.steps // 2
        text = f"{objective.taught_by.replace('_', ' ')}, {steps} of {config.schedule.steps} steps, into {TEACHER}/"
        found.append(Phase(TEACHER, steps, steps * config.data.batch, text))
    if needs_pairs(objective):
        count = number_of_pairs(config, rows)
        guided = (
            "" if config.teacher.pair_guidance is None else f", guidance {config.teacher.pair_guidance:g}"
        )
        share = f"{count / rows:.3g} for each of {rows} rows"
        text = f"{count} samples of the teacher in {config.teacher.pair_steps} steps{guided} ({share}), into {PAIRS}/"
        found.append(Phase(PAIRS, 0, count, text))
    steps = length(config)
    text = f"{objective.name}, {steps}{f' of {config.schedule.steps}' if own else ''} steps"
    return (*found, Phase(STUDENT, steps, steps * config.data.batch, text))
