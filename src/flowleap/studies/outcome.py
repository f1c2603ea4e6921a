"""One run of a study: trained where it stopped, measured, and its outcome kept in the folder of the run."""

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
    """How a run of a study ended.

    Args:
        method, seed: which run it is.
        reason: why it failed, None where it did not.
        again: whether a failed run is tried again when the study is continued; not one that diverged, which it
            would do again.
        seconds: of training, of all phases.
        forward_equivalents: of training, of all phases.
        rows: what was measured, as `evaluation.evaluate` returns it.
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
        """Whether there is nothing measured."""
        return self.reason is not None

    @property
    def final(self) -> bool:
        """Whether nothing is left to be done for this run."""
        return not (self.failed and self.again)


@dataclass(frozen=True)
class Study:
    """A plan and the folder it is carried out in; what is costly is read once, and only if it is needed."""

    out: Path
    plan: Plan

    @cached_property
    def dataset(self) -> Dataset:
        """The data of all runs."""
        return self.plan.request.dataset()

    @cached_property
    def evaluator(self) -> evaluation.Evaluator:
        """What all samples are held against."""
        return evaluation.held_out(self.dataset, self.plan.rows[0].configured(0).evaluation.features)

    def jobs(self) -> list[Job]:
        """Return all runs, in the order in which they are made."""
        return [Job(self, row, seed) for row, seed in self.plan.runs()]

    def place(self, outcome: Outcome) -> Path:
        """Return the folder of the run that an outcome is of."""
        given = self.plan.request.teacher
        if outcome.method == GIVEN and given is not None:
            return Path(given)
        return place_of(self.out, outcome.method, outcome.seed)


def place_of(out: Path, method: str, seed: int) -> Path:
    """Return the folder of a run of a method; of the teacher that was given, that of its outcome alone."""
    return out / "runs" / f"{folder_name(method)}-seed{seed}"


def folder_name(label: str) -> str:
    """Return a label as the name of a folder; where characters are lost, a checksum keeps it apart from others.

    >>> folder_name("flow-matching"), folder_name("esc without plug-in"), folder_name("esc, times.diagonal=0.25")
    ('flow-matching', 'esc-without-plug-in', 'esc-times.diagonal=0.25')
    """
    plain = label.replace(", ", "-").replace(" ", "-")
    safe = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", plain)[:LONGEST]
    return safe if safe == plain else f"{safe.strip('-.')}-{zlib.crc32(label.encode()):08x}"


def known(out: Path, method: str, seed: int) -> Outcome | None:
    """Return the outcome of a run that is done; None where there is none yet, or not a whole one."""
    path = place_of(out, method, seed) / OUTCOME
    try:
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Progress:
    """How far a run is: the steps of all its phases that are logged, the pairs that are made, and their seconds."""

    steps: int = 0
    pairs: int = 0
    seconds: float = 0.0

    def spent(self, row: Row) -> float:
        """Return the forward-equivalents so far."""
        trained = row.forward_equivalents * row.images * min(1.0, self.steps / row.steps)
        return trained + (row.once * min(1.0, self.pairs / row.pairs) if row.pairs else 0.0)


def progress(place: Path) -> Progress:
    """Return how far the run in a folder is, with a teacher of its own and the pairs that it makes."""
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
        """What tells the run from others of its study."""
        return self.row.method, self.seed

    @property
    def place(self) -> Path:
        """The folder of the run."""
        return place_of(self.study.out, self.row.method, self.seed)

    def progress(self) -> Progress:
        """Return how far the run is, whichever process makes it."""
        return progress(self.place)

    def outcome(self) -> Outcome | None:
        """Return the outcome of the run; None where there is none yet."""
        return known(self.study.out, self.row.method, self.seed)

    def perform(self, console: Console) -> int | None:
        """Train and measure the run, or what is left of it, and keep its outcome.

        Returns: the number of the signal that interrupted it; None where the outcome is there.
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
        """Train the run to its end, from its last checkpoint where there is one; return the signal that ended it."""
        begun = (self.place / "config.json").is_file()
        self.place.parent.mkdir(parents=True, exist_ok=True)
        config = self.row.configured(self.seed).replace(
            threads=torch.get_num_threads()
        )  # the same for all runs
        result = runs.train(config, self.place, resume=begun, dataset=self.study.dataset, console=console)
        return result.signal

    def measured(self) -> Outcome:
        """Measure the trained run at all numbers of steps, leave its table in its folder, and return its outcome."""
        rows = quality(self.study, self.place)
        if not (self.place / "table.json").exists():
            write_table(self.place, rows, evaluation.quality_table.notes(rows))
        seconds, spent = self.progress().seconds, self.row.total
        return Outcome(self.row.method, self.seed, seconds=seconds, forward_equivalents=spent, rows=rows)

    def failure(self, reason: str, *, again: bool) -> Outcome:
        """Return the outcome of the run as a failed one, with what it spent until then."""
        done = self.progress()
        words = " ".join(reason.split())
        return Outcome(self.row.method, self.seed, words, again, done.seconds, done.spent(self.row))


def keep(place: Path, outcome: Outcome) -> None:
    """Write the outcome of a run into its folder: from then on it is done."""
    place.mkdir(parents=True, exist_ok=True)
    replace_file(place / OUTCOME, json.dumps(asdict(outcome), indent=2) + "\n")


def measured_teacher(study: Study) -> Outcome | None:
    """Return the outcome of the teacher that was given, measured once; None where there is none."""
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
    """Measure the run in a folder at all numbers of steps of a study."""
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
