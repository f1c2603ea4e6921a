"""One run of a study: trained or resumed, evaluated, and its outcome written to the folder of the run."""

from __future__ import annotations

import json
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from flowleap import evaluation, runs
from flowleap.data import Dataset
from flowleap.files import replace_file
from flowleap.studies.plan import GIVEN, Plan, Row
from flowleap.training.log import lines_of
from flowleap.training.report import write_table

OUTCOME = "outcome.json"
LONGEST = 80  # characters of a label in the name of a folder


@dataclass(frozen=True)
class Outcome:
    """The result of a run of a study.

    Args:
        method, seed: of the run.
        reason: why it failed, None where it did not.
        again: whether continuing the study tries a failed run again; not one that diverged, which would do so again.
        seconds, forward_equivalents: of training, of all phases.
        rows: its evaluation, as `evaluation.evaluate` returns it.
    """

    method: str
    seed: int
    reason: str | None = None
    again: bool = False
    seconds: float = 0.0
    forward_equivalents: float = 0.0
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the run failed, so that nothing was measured."""
        return self.reason is not None

    @property
    def final(self) -> bool:
        """Whether continuing the study leaves this run as it is."""
        return not (self.failed and self.again)


@dataclass(frozen=True)
class Study:
    """A plan and its folder; the data and the evaluator are loaded once, on first use."""

    out: Path
    plan: Plan

    @cached_property
    def dataset(self) -> Dataset:
        """The data of all runs."""
        return self.plan.request.dataset()

    @cached_property
    def evaluator(self) -> evaluation.Evaluator:
        """The evaluator of all runs."""
        first = self.plan.rows[0].configured(0)
        return evaluation.held_out(self.dataset.turned(first.data.flip), first.evaluation.features)

    def jobs(self) -> list[Job]:
        """Return all runs, in the order in which they are made."""
        return [Job(self, row, seed) for row, seed in self.plan.runs()]

    def place(self, outcome: Outcome) -> Path:
        """Return the folder of the run of an outcome."""
        given = self.plan.request.teacher
        if outcome.method == GIVEN and given is not None:
            return Path(given)
        return place_of(self.out, outcome.method, outcome.seed)


def place_of(out: Path, method: str, seed: int) -> Path:
    """Return the folder of a run of a method; for a given teacher, that of its outcome only."""
    return out / "runs" / f"{folder_name(method)}-seed{seed}"


def folder_name(label: str) -> str:
    """Return a label as the name of a folder, with a checksum where characters had to be replaced.

    >>> folder_name("flow-matching"), folder_name("esc without plug-in"), folder_name("esc, times.diagonal=0.25")
    ('flow-matching', 'esc-without-plug-in', 'esc-times.diagonal=0.25')
    """
    plain = label.replace(", ", "-").replace(" ", "-")
    safe = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", plain)[:LONGEST]
    return safe if safe == plain else f"{safe.strip('-.')}-{zlib.crc32(label.encode()):08x}"


def known(out: Path, method: str, seed: int) -> Outcome | None:
    """Return the outcome of a finished run; None where there is none, or its file is damaged."""
    path = place_of(out, method, seed) / OUTCOME
    try:
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Progress:
    """The progress of a run: logged steps of all its phases, pairs made, and the seconds of both."""

    steps: int = 0
    pairs: int = 0
    seconds: float = 0.0

    def spent(self, row: Row) -> float:
        """Return the forward-equivalents so far."""
        trained = row.forward_equivalents * row.images * min(1.0, self.steps / row.steps)
        return trained + (row.once * min(1.0, self.pairs / row.pairs) if row.pairs else 0.0)


def progress(place: Path) -> Progress:
    """Return the progress of the run in a folder, including its own teacher and its pairs."""
    steps, seconds = 0, 0.0
    for folder in (place / runs.TEACHER, place):
        if rows := lines_of(folder / "metrics.jsonl"):
            steps, seconds = steps + int(rows[-1]["step"]), seconds + float(rows[-1]["seconds"])
    try:
        index = json.loads((place / runs.PAIRS / "index.json").read_text(encoding="utf-8"))
        pairs = min(index["count"], index["shard"] * len(index["checksums"]))
        return Progress(steps, pairs, seconds + float(index["seconds"]))
    except (OSError, ValueError, KeyError):
        return Progress(steps, 0, seconds)


@dataclass(frozen=True)
class Job:
    """One run of a study: a row and a seed."""

    study: Study
    row: Row
    seed: int

    def __str__(self) -> str:
        return f"{self.row.method} seed {self.seed}"

    @property
    def key(self) -> tuple[str, int]:
        """Identifies the run within its study."""
        return self.row.method, self.seed

    @property
    def place(self) -> Path:
        """The folder of the run."""
        return place_of(self.study.out, self.row.method, self.seed)

    def progress(self) -> Progress:
        """Return the progress of the run, whichever process makes it."""
        return progress(self.place)

    def outcome(self) -> Outcome | None:
        """Return the outcome of the run; None where there is none yet."""
        return known(self.study.out, self.row.method, self.seed)

    def perform(self, console: Console) -> int | None:
        """Train and evaluate the run, or what is left of it, and write its outcome.

        Returns: the number of the signal that interrupted it, None where none did.
        """
        try:
            signal = self.train(console)
            if signal is not None:
                return signal
            outcome = self.measured()
        except runs.Diverged as error:
            outcome = self.failure(f"diverged: {error}", again=False)
        except Exception as error:  # whatever it is, the other runs go on
            outcome = self.failure(f"{type(error).__name__}: {error}", again=True)
        keep(self.place, outcome)
        return None

    def train(self, console: Console) -> int | None:
        """Train the run, from its last checkpoint where there is one; return the signal that interrupted it, if any."""
        begun = (self.place / "config.json").is_file()
        self.place.parent.mkdir(parents=True, exist_ok=True)
        config = self.row.configured(self.seed).replace(threads=torch.get_num_threads())  # alike in all runs
        return runs.train(
            config, self.place, resume=begun, dataset=self.study.dataset, console=console
        ).signal

    def measured(self) -> Outcome:
        """Evaluate the trained run, write its table to its folder, and return its outcome."""
        rows = quality(self.study, self.place)
        if not (self.place / "table.json").exists():
            write_table(self.place, rows, evaluation.quality_table.notes(rows))
        seconds, spent = self.progress().seconds, self.row.total
        return Outcome(self.row.method, self.seed, seconds=seconds, forward_equivalents=spent, rows=rows)

    def failure(self, reason: str, *, again: bool) -> Outcome:
        """Return the outcome of a failed run, with its cost until then."""
        done = self.progress()
        words = " ".join(reason.split())
        return Outcome(self.row.method, self.seed, words, again, done.seconds, done.spent(self.row))


def keep(place: Path, outcome: Outcome) -> None:
    """Write the outcome of a run to its folder, which makes it finished."""
    place.mkdir(parents=True, exist_ok=True)
    replace_file(place / OUTCOME, json.dumps(asdict(outcome), indent=2) + "\n")


def measured_teacher(study: Study) -> Outcome | None:
    """Return the outcome of a given teacher, evaluated once; None where there is none."""
    if (row := study.plan.teacher) is None:
        return None
    job, given = Job(study, row, row.config.seed), Path(str(study.plan.request.teacher))
    found = job.outcome()
    if found is None:
        rows, seconds = quality(study, given), progress(given).seconds
        found = Outcome(row.method, job.seed, seconds=seconds, forward_equivalents=row.total, rows=rows)
        keep(job.place, found)
    return found


def quality(study: Study, place: Path) -> list[dict[str, Any]]:
    """Evaluate the run in a folder at all numbers of steps of a study."""
    request = study.plan.request
    run = runs.load_run(place, device=request.device)
    with warnings.catch_warnings():  # the table puts what a method is not made for in parentheses
        warnings.simplefilter("ignore", UserWarning)
        rows = evaluation.evaluate(
            run.flow,
            run.objective,
            study.dataset,
            steps=request.steps,
            num=request.num,
            weights=run.weights,
            evaluator=study.evaluator,
        )
    for one in rows:
        one["intended"] = not run.objective.advice(one["steps"])
    return rows
