"""Comparisons: every method with every seed as an ordinary run at an equal budget, then one table.

    compare(Request(("all",), budget="3m", seeds=3), "runs/compare-digits")

The folder of a study:

    plan.json                           the request and the resolved configs, with the steps of every run
    runs/<method>-seed<k>/              ordinary run folders; outcome.json is there when a run is done
    table.md  table.csv  table.json     mean and spread over seeds
    samples.png                         a row for each method, a block for each number of steps
    report.html                         everything on one page
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from flowleap import extensions, terminal, threads
from flowleap.evaluation import same
from flowleap.lock import locked
from flowleap.streams import keep_printing
from flowleap.studies import page, picture, table
from flowleap.studies.live import Board
from flowleap.studies.outcome import OUTCOME, Job, Outcome, Study, keep, measured_teacher
from flowleap.studies.plan import Plan, Request, check_place, prepare, read
from flowleap.training.interrupt import Interruption


class Stopped(Exception):
    """A signal interrupted the study; the same request continues it."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted; the same command continues where it stopped")
        self.signal = number


@dataclass(frozen=True)
class Finished:
    """A finished study: its plan, the outcome of each run, the rows of its table, the files it wrote."""

    out: Path
    plan: Plan
    outcomes: list[Outcome]
    rows: list[dict[str, Any]]
    files: list[Path]

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed."""
        return [outcome for outcome in self.outcomes if outcome.failed]


def compare(
    request: Request,
    out: str | Path,
    *,
    jobs: int = 1,
    count: int | None = None,
    console: Console | None = None,
) -> Finished:
    """Make the runs of a study that are left, then its table, picture and report.

    Args:
        jobs: runs at a time, each in a process of its own with its share of the cores.
        count: CPU threads of each run, None for the fastest number, measured when the study is planned.

    Raises: ValueError, before any time is spent, for a budget that is too small, methods or data that are not
        there, a folder that holds something else or another study, or one that another process writes to;
        Stopped where a signal interrupted it.
    """
    keep_printing()
    out, console = Path(out), console or terminal.console()
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: at least one run at a time is needed")
    check_place(out)
    request.names()
    dataset = request.dataset()
    created = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out) as stale:
            say = partial(terminal.print_line, console)
            if stale is not None:
                say(f"{stale} ended unexpectedly; continuing from what it saved")
            study = Study(out, prepare(request, out, dataset, say, jobs, count))
            study.__dict__["dataset"] = dataset
            limit = threads.most(jobs)
            with threads.limited(count or min(study.plan.threads or limit, limit), jobs):
                board = Board(console, study, jobs)
                board.describe()
                with board.showing():
                    (sequentially if jobs == 1 else in_parallel)(study, board, jobs)
                return finish(study, board)
    finally:
        if created and not (out / "plan.json").exists():
            with suppress(OSError):  # nothing began: leave nothing behind
                out.rmdir()


def left(study: Study) -> list[Job]:
    """Return the unfinished runs; deletes the outcomes of failed ones that are tried again."""
    found = [job for job in study.jobs() if (outcome := job.outcome()) is None or not outcome.final]
    for job in found:
        (job.place / OUTCOME).unlink(missing_ok=True)
    return found


def sequentially(study: Study, board: Board, jobs: int) -> None:
    """Make the runs in this process; raises Stopped."""
    for job in left(study):
        board.begin(job)
        number = job.perform(Console(quiet=True))
        if number is not None:
            raise Stopped(number)
        board.end(job)


# ---------------------------------------------------------------- several at a time


def in_parallel(study: Study, board: Board, jobs: int) -> None:
    """Make the runs in `jobs` processes at a time; a signal is forwarded to them once. Raises Stopped."""
    waiting, sources = left(study), extensions.sources()
    count = torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    alive: dict[Any, Job] = {}
    with Interruption() as interruption:
        try:
            while alive or (waiting and not interruption()):
                while waiting and len(alive) < jobs and not interruption():
                    job = waiting.pop(0)
                    board.begin(job)
                    about = (str(study.out), job.row.method, job.seed, count, sources)
                    process = context.Process(target=run_in_process, args=about)
                    process.start()
                    alive[process] = job
                connection.wait([process.sentinel for process in alive], timeout=0.2)
                if interruption():
                    forward_signal(alive)
                for process in [process for process in alive if not process.is_alive()]:
                    job = alive.pop(process)
                    if job.outcome() is None and not interruption():
                        code = process.exitcode
                        keep(job.place, job.failure(f"its process ended with code {code}", again=True))
                    board.end(job)
        finally:
            for process in alive:
                process.kill()
    if interruption.signal is not None:
        raise Stopped(interruption.signal)


def forward_signal(alive: dict[Any, Job]) -> None:
    """Terminate every process once: it finishes its step and saves."""
    for process in alive:
        if not getattr(process, "terminated", False):
            process.terminated = True
            process.terminate()


def run_in_process(out: str, method: str, seed: int, count: int, sources: tuple[str, ...] = ()) -> None:
    """Make one run in this process, which ends when its parent does."""
    for source in sources:
        extensions.imported(source)
    if hasattr(os, "setsid"):
        with suppress(OSError):  # Ctrl-C in the terminal reaches the parent alone, which passes it on once
            os.setsid()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=exit_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(count)
    plan = read(Path(out))
    try:
        number = Job(Study(Path(out), plan), plan.row(method), seed).perform(Console(quiet=True))
    except KeyboardInterrupt:
        number = int(signal.SIGINT)
    sys.exit(0 if number is None else 128 + number)


def exit_with(sentinel: int) -> None:
    """Wait for the parent to end, then exit."""
    connection.wait([sentinel])
    os._exit(1)


# ---------------------------------------------------------------- the end


def finish(study: Study, board: Board) -> Finished:
    """Write table, picture and report of a study whose runs are done."""
    found = [job.outcome() for job in study.jobs()]
    if study.plan.teacher is not None:
        with board.waiting("measuring the teacher"):
            found = [measured_teacher(study), *found]
    outcomes = [outcome for outcome in found if outcome is not None]
    measured = [row for outcome in outcomes for row in outcome.rows]
    files: list[Path] = []
    rows = table.aggregate(study.plan, outcomes)
    if measured:
        same(measured)
    files += table.write(study.out, study.plan, outcomes, rows)
    board.table(study.plan, outcomes, rows)
    if measured:
        with board.waiting("drawing samples and the report"):
            drawn = picture.draw(study, outcomes)
            files += [drawn] if drawn is not None else []
            files.append(page.write(study, outcomes, rows))
    for outcome in outcomes:
        if outcome.failed:
            board.say(f"{outcome.method} seed {outcome.seed} failed: {outcome.reason}")
    board.say(f"done: {', '.join(str(path) for path in files)}")
    return Finished(study.out, study.plan, outcomes, rows, files)
