"""What a study says while it runs: a live table on a terminal, plain lines elsewhere, and when it will end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from flowleap.formatting import duration, number, plural, scaled
from flowleap.studies import table
from flowleap.studies.outcome import Outcome, Study, known, place_of, progress
from flowleap.studies.plan import Plan, Row
from flowleap.tables import Table
from flowleap.terminal import print_line

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["Board"]

EVERY = 30.0  # seconds between plain lines


class Board:
    """Speaks of a study; where a run stands is read from its folder, whichever process makes it."""

    def __init__(self, console: Console, every: float = EVERY) -> None:
        self.console, self.every = console, every
        self.study: Study | None = None
        self.jobs = 1
        self.running: dict[
            tuple[str, int], tuple[float, float]
        ] = {}  # when it began here, seconds trained by then
        self.overhead: list[float] = []  # seconds that runs took here beyond their training
        self.done: dict[tuple[str, int], Outcome] = {}

    @property
    def alive(self) -> bool:
        """Whether there is a terminal that can show a table in place."""
        return self.console.is_terminal and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """Print a line, taken literally."""
        print_line(self.console, text)

    def introduce(self, study: Study) -> None:
        """Say what is compared, on which terms, and where."""
        self.study, plan = study, study.plan
        request = plan.request
        what = "methods" if plan.full is None else "variants"
        extent = f"{len(plan.rows)} {what} × {plural(request.seeds, 'seed')}"
        self.say(f"{extent} on {request.data}, {request.budget} a run, equal {plan.equal}, into {study.out}")
        for row in plan.rows:
            self.say(f"  {row.method}: {extent_of(row)}")

    @contextmanager
    def showing(self, study: Study, jobs: int) -> Iterator[None]:
        """Show how far the study is for as long as the context lasts."""
        self.study, self.jobs = study, jobs
        if self.alive:
            from rich.live import Live

            with Live(get_renderable=self.render, console=self.console, refresh_per_second=1):
                yield
            return
        ended = threading.Event()
        speaker = threading.Thread(target=self.murmur, args=(ended,), daemon=True)
        speaker.start()
        try:
            yield
        finally:
            ended.set()
            speaker.join()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show on a terminal that something is going on."""
        if self.alive:
            with self.console.status(text):
                yield
        else:
            yield

    def begin(self, row: Row, seed: int) -> None:
        """Note that a run begins or goes on."""
        assert self.study is not None
        done = progress(place_of(self.study.out, row.method, seed))
        self.running[row.method, seed] = (time.perf_counter(), done.seconds)
        if not self.alive:
            begun = f", continued from step {done.steps}" if done.steps else ""
            self.say(f"{row.method} seed {seed}: training {row.steps} steps{begun}{self.remaining()}")

    def end(self, row: Row, seed: int) -> None:
        """Note that a run is done."""
        assert self.study is not None
        start, seconds = self.running.pop((row.method, seed))
        outcome = known(self.study.out, row.method, seed)
        if outcome is None:
            return
        if not outcome.failed:
            self.overhead.append(max(0.0, time.perf_counter() - start - max(0.0, outcome.seconds - seconds)))
        if self.alive:
            return
        if outcome.failed:
            self.say(f"{row.method} seed {seed}: failed, {outcome.reason}{self.remaining()}")
            return
        plan = self.study.plan
        cells = [c for c in table.aggregate(plan, [outcome]) if c["method"] == row.method]
        told = ", ".join(f"{table.cell(c)} at {c['steps']}" for c in cells)
        self.say(f"{row.method} seed {seed}: {told}{self.remaining()}")

    # ------------------------------------------------------------ how far it is

    def outcome(self, method: str, seed: int) -> Outcome | None:
        """Return the outcome of a run, read once."""
        assert self.study is not None
        if (method, seed) not in self.done:
            found = known(self.study.out, method, seed)
            if found is None or not found.final:
                return found
            self.done[method, seed] = found
        return self.done[method, seed]

    def left(self) -> float | None:
        """Return the seconds to the end of the study: what is left to compute, at the pace so far."""
        assert self.study is not None
        spent = seconds = rest = 0.0
        runs_left = 0
        for row, seed in self.study.plan.runs():
            outcome = self.outcome(row.method, seed)
            if outcome is not None and (row.method, seed) not in self.running:
                spent, seconds = spent + outcome.forward_equivalents, seconds + outcome.seconds
                continue
            done = progress(place_of(self.study.out, row.method, seed))
            spent, seconds = spent + done.spent(row), seconds + done.seconds
            rest, runs_left = rest + row.total - done.spent(row), runs_left + 1
        pace = seconds / spent if spent else _planned(self.study.plan)
        if pace is None:
            return None
        overhead = sum(self.overhead) / len(self.overhead) if self.overhead else 0.0
        return (rest * pace + runs_left * overhead) / max(1, min(self.jobs, runs_left))

    def remaining(self) -> str:
        """Return how much of the study is left, in words."""
        assert self.study is not None
        every = self.study.plan.runs()
        done = sum(self.outcome(row.method, seed) is not None for row, seed in every)
        seconds = self.left()
        eta = "" if seconds is None or done == len(every) else f", about {duration(seconds)} left"
        return f"  [{done} of {len(every)} runs{eta}]"

    def murmur(self, ended: threading.Event) -> None:
        """Print a plain line from time to time, where a run is further than in the last one."""
        before: list[str] = []
        while not ended.wait(self.every):
            told = [self.standing(method, seed) for method, seed in list(self.running)]
            if told and told != before:
                self.say(f"{'; '.join(told)}{self.remaining()}")
            before = told

    def standing(self, method: str, seed: int) -> str:
        """Return where a run that is being made stands, in words."""
        assert self.study is not None
        row = self.study.plan.row(method)
        done = progress(place_of(self.study.out, method, seed))
        if done.steps >= row.steps:
            return f"{method} seed {seed} is trained and is being measured"
        pairs = f", pair {done.pairs}/{row.pairs}" if 0 < done.pairs < row.pairs else ""
        return f"{method} seed {seed} at step {done.steps}/{row.steps}{pairs}"

    def render(self) -> Group:
        """Return the table as it stands, for a terminal."""
        from rich.console import Group
        from rich.text import Text

        assert self.study is not None
        plan = self.study.plan
        found = {(row.method, seed): self.outcome(row.method, seed) for row, seed in plan.runs()}
        outcomes = [outcome for outcome in found.values() if outcome is not None]
        rows = table.aggregate(plan, outcomes)
        drawn = Table(["method", *table.headings(plan, rows), "seeds"])
        for row in plan.rows:
            cells = table.distances(plan, rows, row.method)
            states = [self.state(row, seed, found[row.method, seed]) for seed in plan.seeds]
            drawn.add(row.method, *cells, " ".join(states))
        return Group(Text(f"{plan.request.data}{self.remaining()}"), drawn)

    def state(self, row: Row, seed: int, outcome: Outcome | None) -> str:
        """Return where a run stands, in a word."""
        assert self.study is not None
        if outcome is not None:
            return "failed" if outcome.failed else "✓"
        done = progress(place_of(self.study.out, row.method, seed))
        share = f"{100 * done.spent(row) / row.total:.0f} %"
        if (row.method, seed) in self.running:
            return "measuring" if done.steps >= row.steps else share
        return f"({share})" if done.steps else "·"

    def table(self, plan: Plan, outcomes: Sequence[Outcome], rows: Sequence[dict[str, Any]]) -> None:
        """Print the finished table, and what must be known of it."""
        drawn = Table(["method", *table.headings(plan, rows), "seconds"])
        for row in plan.rows:
            seconds = next(one["seconds"] for one in rows if one["method"] == row.method)
            drawn.add(row.method, *table.distances(plan, rows, row.method), number(seconds))
        self.console.print(drawn)
        for note in table.notes(plan, outcomes, rows):
            self.say(note)


def extent_of(row: Row) -> str:
    """Return in words how long a row trains and what that costs."""
    half = row.steps // 2
    split = f", half and half: {half} for its teacher, then {half} for the student" if row.phases == 2 else ""
    spent = f"{scaled(row.total)} forward-equivalents"
    seconds = row.seconds_per_step
    timed = "" if seconds is None else f", about {duration(seconds * row.steps)}"
    return f"{row.steps} steps{split}; {spent}{timed} ({row.variant})"


def _planned(plan: Plan) -> float | None:
    """Seconds of a forward-equivalent as measured before the start, None where nothing was."""
    known_rows = [row for row in plan.rows if row.seconds_per_step is not None]
    total = sum(row.total for row in known_rows)
    return sum((row.seconds_per_step or 0.0) * row.steps for row in known_rows) / total if total else None
