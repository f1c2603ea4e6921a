"""The progress of a study: a live table on a terminal, plain lines elsewhere, with an estimate of the time left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console

from flowleap.formatting import duration, number, plural, scaled
from flowleap.studies import table
from flowleap.studies.outcome import Job, Outcome, Study
from flowleap.studies.plan import Plan, Row
from flowleap.tables import Table
from flowleap.terminal import print_line

if TYPE_CHECKING:
    from rich.console import Group

EVERY = 30.0  # seconds between plain lines
Key = tuple[str, int]


class Board:
    """Shows the progress of a study; that of a run is read from its folder, whichever process makes it."""

    def __init__(self, console: Console, study: Study, jobs: int = 1, every: float = EVERY) -> None:
        self.console, self.study, self.jobs, self.every = console, study, jobs, every
        self.running: dict[Key, tuple[float, float]] = {}  # start of this session, seconds trained before it
        self.overhead: list[float] = []  # seconds of runs beyond their training
        self.done: dict[Key, Outcome] = {}

    @property
    def live(self) -> bool:
        """Whether the console can update a table in place."""
        return self.console.is_terminal and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """Print a line, taken literally."""
        print_line(self.console, text)

    def describe(self) -> None:
        """Print the methods or variants, the budget of each, and the folder."""
        plan, request = self.study.plan, self.study.plan.request
        what = "methods" if plan.full is None else "variants"
        extent = f"{len(plan.rows)} {what} × {plural(request.seeds, 'seed')} on {request.data}"
        self.say(f"{extent}, {request.budget} a run, equal {plan.equal}, into {self.study.out}")
        for row in plan.rows:
            self.say(f"  {row.method}: {extent_of(row)}")

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the progress of the study while the context lasts."""
        if self.live:
            from rich.live import Live

            with Live(get_renderable=self.render, console=self.console, refresh_per_second=1):
                yield
            return
        ended = threading.Event()
        printer = threading.Thread(target=self.print_progress, args=(ended,), daemon=True)
        printer.start()
        try:
            yield
        finally:
            ended.set()
            printer.join()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner with a text on a terminal."""
        with self.console.status(text) if self.live else nullcontext():
            yield

    def begin(self, job: Job) -> None:
        """Note that a run starts or resumes."""
        done = job.progress()
        self.running[job.key] = (time.perf_counter(), done.seconds)
        if not self.live:
            begun = f", continued from step {done.steps}" if done.steps else ""
            self.say(f"{job}: training {job.row.steps} steps{begun}{self.remaining()}")

    def end(self, job: Job) -> None:
        """Note that a run ended."""
        start, seconds = self.running.pop(job.key)
        outcome = job.outcome()
        if outcome is None:
            return
        if not outcome.failed:
            self.overhead.append(max(0.0, time.perf_counter() - start - max(0.0, outcome.seconds - seconds)))
        if self.live:
            return
        if outcome.failed:
            self.say(f"{job}: failed, {outcome.reason}{self.remaining()}")
            return
        rows = table.aggregate(self.study.plan, [outcome])
        told = [f"{table.cell(row)} at {row['steps']}" for row in rows if row["method"] == job.row.method]
        self.say(f"{job}: {', '.join(told)}{self.remaining()}")

    # ------------------------------------------------------------ progress

    def outcome(self, job: Job) -> Outcome | None:
        """Return the outcome of a run; a final one is read once."""
        if job.key not in self.done:
            found = job.outcome()
            if found is None or not found.final:
                return found
            self.done[job.key] = found
        return self.done[job.key]

    def left(self) -> float | None:
        """Return the seconds to the end of the study at the speed so far; None where it is not known."""
        spent = seconds = rest = 0.0
        runs_left = 0
        for job in self.study.jobs():
            outcome = self.outcome(job)
            if outcome is not None and job.key not in self.running:
                spent, seconds = spent + outcome.forward_equivalents, seconds + outcome.seconds
                continue
            done = job.progress()
            used = done.spent(job.row)
            spent, seconds = spent + used, seconds + done.seconds
            rest, runs_left = rest + job.row.total - used, runs_left + 1
        pace = seconds / spent if spent else _planned(self.study.plan)
        if pace is None:
            return None
        overhead = sum(self.overhead) / len(self.overhead) if self.overhead else 0.0
        return (rest * pace + runs_left * overhead) / max(1, min(self.jobs, runs_left))

    def remaining(self) -> str:
        """Return the finished runs and the time left as text."""
        every = self.study.jobs()
        done = sum(self.outcome(job) is not None for job in every)
        seconds = self.left()
        eta = "" if seconds is None or done == len(every) else f", about {duration(seconds)} left"
        return f"  [{done} of {len(every)} runs{eta}]"

    def print_progress(self, ended: threading.Event) -> None:
        """Print a line every so often where a run has made progress."""
        before: list[str] = []
        while not ended.wait(self.every):
            told = [standing(job) for job in self.study.jobs() if job.key in self.running]
            if told and told != before:
                self.say(f"{'; '.join(told)}{self.remaining()}")
            before = told

    def render(self) -> Group:
        """Return the table of the runs that are done, and the progress of the others."""
        from rich.console import Group
        from rich.text import Text

        plan, jobs = self.study.plan, self.study.jobs()
        outcomes = [outcome for job in jobs if (outcome := self.outcome(job)) is not None]
        rows = table.aggregate(plan, outcomes)
        drawn = Table(["method", *table.headings(plan, rows), "seeds"])
        for row in plan.rows:
            states = [self.state(job) for job in jobs if job.row is row]
            drawn.add(row.method, *table.distances(plan, rows, row.method), " ".join(states))
        return Group(Text(f"{plan.request.data}{self.remaining()}"), drawn)

    def state(self, job: Job) -> str:
        """Return the progress of a run in a word."""
        outcome = self.outcome(job)
        if outcome is not None:
            return "failed" if outcome.failed else "✓"
        done = job.progress()
        share = f"{100 * done.spent(job.row) / job.row.total:.0f} %"
        if job.key in self.running:
            return "measuring" if done.steps >= job.row.steps else share
        return f"({share})" if done.steps else "·"

    def table(self, plan: Plan, outcomes: Sequence[Outcome], rows: Sequence[dict[str, Any]]) -> None:
        """Print the finished table and its notes."""
        drawn = Table(["method", *table.headings(plan, rows), "seconds"])
        for row in plan.rows:
            seconds = next(one["seconds"] for one in rows if one["method"] == row.method)
            drawn.add(row.method, *table.distances(plan, rows, row.method), number(seconds))
        self.console.print(drawn)
        for note in table.notes(plan, outcomes, rows):
            self.say(note)


def standing(job: Job) -> str:
    """Return the progress of a running run as text."""
    done, row = job.progress(), job.row
    if done.steps >= row.steps:
        return f"{job} is trained and is being measured"
    pairs = f", pair {done.pairs}/{row.pairs}" if 0 < done.pairs < row.pairs else ""
    return f"{job} at step {done.steps}/{row.steps}{pairs}"


def extent_of(row: Row) -> str:
    """Return the steps of a row and their cost as text."""
    half = row.steps // 2
    split = f", half and half: {half} for its teacher, then {half} for the student" if row.phases == 2 else ""
    spent = f"{scaled(row.total)} forward-equivalents"
    seconds = row.seconds_per_step
    timed = "" if seconds is None else f", about {duration(seconds * row.steps)}"
    return f"{row.steps} steps{split}; {spent}{timed} ({row.variant})"


def _planned(plan: Plan) -> float | None:
    """The seconds of a forward-equivalent as measured before the start, None where nothing was."""
    known = [(row.seconds_per_step, row) for row in plan.rows if row.seconds_per_step is not None]
    total = sum(row.total for _, row in known)
    return sum(seconds * row.steps for seconds, row in known) / total if total else None
