"""Resolve a run as `flowleap train` and `flowleap.train` are asked for it: new or continued, by a plan or a recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowleap.data import Dataset
from flowleap.runs import planning, recipes
from flowleap.runs.configuring import Resolved, reconfigure, resolve
from flowleap.runs.reading import read_config
from flowleap.runs.resume import resumed_folder
from flowleap.training import folder
from flowleap.training.config import TrainConfig
from flowleap.training.settings import refuse_twice

Say = Callable[[str], None]
Waiting = Callable[[str], AbstractContextManager[None]]


WORDS = frozenset({"track", "validation_labels"})
"""Options that are several words: in a command one text, with commas between them."""


def words(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return words, which may be given as a text with commas between them; None for None.

    >>> words("tensorboard, wandb"), words(["a"]), words(None)
    (('tensorboard', 'wandb'), ('a',), None)
    """
    if given is None:
        return None
    return (
        tuple(word.strip() for word in given.split(",") if word.strip())
        if isinstance(given, str)
        else tuple(given)
    )


def silently(text: str) -> AbstractContextManager[None]:
    """Show nothing while something is measured."""
    return nullcontext()


@dataclass(frozen=True)
class Length:
    """The time that a run takes in seconds, and as it was given."""

    seconds: float
    text: str

    @classmethod
    def of(cls, minutes: float | None, hours: float | None) -> Length | None:
        """Return the time of --minutes or --hours, None where neither is given.

        Raises: ValueError where both are.
        """
        given = [("minutes", minutes, 60), ("hours", hours, 3600)]
        found = [cls(value * unit, f"--{name} {value:g}") for name, value, unit in given if value is not None]
        if len(found) > 1:
            raise ValueError(
                f"{' and '.join(one.text for one in found)} are the same setting: leave one of them out"
            )
        return found[0] if found else None


@dataclass(frozen=True)
class Prepared:
    """The config of a run that is to be trained or continued, its folder (None: the usual one), and its data.

    `dataset` is None for a run that is continued, which reads its own.
    """

    config: TrainConfig
    out: Path | None
    dataset: Dataset | None


def prepare(
    asked: Mapping[str, Any],
    out: Path | None = None,
    recipe: str | None = None,
    length: Length | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    only_planned: bool = False,
    say: Say = print,
    waiting: Waiting = silently,
) -> Prepared:
    """Resolve a new run, or read the config of the one that is continued and change it by what is asked.

    Args:
        asked: what `resolve` takes, with the settings of `launched`; None for what is not given.
        length: the time that a new run takes.
        overwrite: whether `out` may hold another run.
        only_planned: a recipe may be resolved without the data that it is for, and `out` may be taken.
        say: given the plan and what is changed about a recipe, in lines. waiting: shown while steps are measured.

    Raises: FileExistsError for an `out` that is taken, ValueError for what does not fit together, both before any data
        are read; as `resolve` and `planned`.
    """
    known = {name: value for name, value in launched(asked).items() if value is not None}
    refuse_twice(known, known.get("settings", ()))
    if resume:
        return continued(known, out, recipe, length, say)
    if out is not None and not only_planned:
        folder.refuse_taken(out, overwrite=overwrite)
    one = recipes.get(recipe) if recipe else None
    if one is not None and one.dataset is None and "data" not in known and not only_planned:
        raise ValueError(
            f"the recipe {one.name} is for {one.data}: say where it is, --data PATH; or see what it takes, --dry-run"
        )
    found = resolved(known | ({"recipe": recipe} if recipe else {}), length, say, waiting)
    for line in found.changes:
        say(line)
    return Prepared(found.config, out, found.dataset)


def continued(
    known: Mapping[str, Any], out: Path | None, recipe: str | None, length: Length | None, say: Say
) -> Prepared:
    """Return the run in a folder, or the newest one by its method, data and seed, changed by what is known.

    Raises: ValueError for a recipe.
    """
    if recipe:
        raise ValueError(f"--recipe {recipe}: a resumed run has its settings: leave it out")
    names = {name: known[name] for name in ("method", "data", "seed") if name in known}
    place = out or resumed_folder(**names)
    config = reconfigure(read_config(place), **known)
    if length is not None:
        say(
            f"{length.text} is for a new run: this one keeps the {config.schedule.steps:,} steps of its plan, which "
            "--steps N changes"
        )
    return Prepared(config, place, None)


def resolved(known: dict[str, Any], length: Length | None, say: Say, waiting: Waiting) -> Resolved:
    """Return a new run: planned, with its plan said, for a time or for images of one's own; else as it is asked."""
    if length is None and planning.unplanned(known):
        return resolve(**known)
    time = () if length is None else (length.seconds,)
    with waiting("planning: measuring a few steps …"):
        found = planning.planned(*time, text="" if length is None else length.text, **known)
    for line in found.lines:
        say(f"plan: {line}")
    return found.resolved


def launched(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those of `accelerate launch` where they are not given.

    Raises: ValueError for float16 and DeepSpeed, which training does not support.
    """
    told = os.environ.get
    given = {name: value for name, value in asked.items() if value is not None}
    precision = told("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16") and "precision" not in given:
        raise ValueError(
            f"--mixed_precision {precision} of accelerate launch: training is in fp32 or bf16; derivatives of the "
            "network leave the range of fp16"
        )
    if told("ACCELERATE_USE_DEEPSPEED", "false") == "true":
        raise ValueError(
            "--use_deepspeed of accelerate launch: DeepSpeed is not supported: divide weights among processes with "
            "--shard"
        )
    steps = int(told("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    told_there = {
        "precision": "bf16" if precision == "bf16" else None,
        "accumulate": steps if steps > 1 else None,
        "shard": True if told("ACCELERATE_USE_FSDP", "false") == "true" else None,
        "compiled": True if told("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO" else None,
    }
    return {name: value for name, value in told_there.items() if value is not None} | given
