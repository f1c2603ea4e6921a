"""Output of a run: averages over log intervals as JSON lines, a progress bar, or plain lines."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowleap import processes, terminal
from flowleap.files import replace_file
from flowleap.formatting import duration
from flowleap.objectives import Objective
from flowleap.streams import keep_printing
from flowleap.tensors import on_its_way
from flowleap.training.guard import Guard
from flowleap.training.state import State

if TYPE_CHECKING:
    from rich.console import Console


def explanation(objective: Objective) -> str:
    """Return a sentence on what the shown error means for a method."""
    losses = objective.losses
    shown = "Shown: unweighted error (mean squared residual); "
    logged = "the weighted loss is in metrics.jsonl."
    if any(part.error_power == 1 for part in losses):
        logged = "the loss itself stays near 1 by design."
    elif any(part.error_power or part.learned for part in losses):
        logged = "the loss itself hardly changes, because its weight follows the error."
    if objective.times.horizon and objective.target.asks_step:
        logged += " The step size of the targets changes during training, and the error with it: compare samples only."
    return shown + logged


class Recorder:
    """The numbers of each step, summed on the device and read once per log interval, and their time."""

    names = ("raw_error", "loss", "grad_norm", "derivative_norm", "rival_error")

    def __init__(self, device: torch.device, batch: int, seconds: float) -> None:
        """Start the clock of a run that has taken `seconds` so far."""
        self.sums = torch.zeros(2, len(self.names), dtype=torch.float64, device=device)
        self.absent = torch.full((), math.nan, device=device)
        self.batch, self.steps, self.paused = batch, 0, 0.0
        self.start = time.perf_counter() - seconds
        self.since = time.perf_counter()
        self.usual_derivative: float | None = None
        self.arriving: list[Callable[[], dict[str, Any]]] = []

    def add(self, numbers: Tensor, grad_norm: Tensor, *, auxiliary: bool = False) -> None:
        """Add the finite numbers of a step; of an auxiliary network its raw error only.

        Shapes: numbers (4,), those of `loss_module.NUMBERS` of the global batch; grad_norm: scalar.
        """
        raw, loss, derivative, jumps = numbers.unbind()
        none, mean = self.absent, derivative / jumps  # not a number where nothing was measured
        row = (none, none, none, none, raw) if auxiliary else (raw, loss, grad_norm, mean, none)
        values = torch.stack([number.detach().double() for number in row])
        finite = values.isfinite()
        self.sums += torch.stack([torch.where(finite, values, 0.0), finite.double()])
        self.steps += not auxiliary

    def close(self, state: State, lr: float, guard: Guard) -> None:
        """End a log interval: its numbers start on their way from the device."""
        arriving = on_its_way(torch.cat([self.sums.flatten(), guard.counts]))
        self.sums.zero_()
        now = time.perf_counter()
        speed = self.batch * self.steps / max(now - self.since - self.paused, 1e-9)
        self.steps, self.paused, self.since = 0, 0.0, now
        state.seconds = now - self.start
        about = {
            "step": state.step,
            "seconds": round(state.seconds, 3),
            "images_per_second": round(speed, 1),
        }

        def row() -> dict[str, Any]:
            """Return the means of the interval, None where nothing was measured; waits until they are here."""
            *sums, skipped, streak = arriving().tolist()
            state.skipped, state.streak = int(skipped), int(streak)
            total, count = sums[: len(self.names)], sums[len(self.names) :]
            means = {name: s / n if n else None for name, s, n in zip(self.names, total, count, strict=True)}
            self.usual_derivative = means["derivative_norm"] or self.usual_derivative
            if means["rival_error"] is None:
                means.pop("rival_error")  # most runs have none
            return {**about, **means, "lr": lr, "skipped": state.skipped}

        self.arriving.append(row)

    def rows(self, *, at_once: bool) -> Iterator[dict[str, Any]]:
        """Yield the rows of closed intervals; that of the last one, which is waited for, only if it is wanted at once.

        The counts of skipped steps in `state` become what they were at the end of the interval.
        """
        while self.arriving and (at_once or len(self.arriving) > 1):
            yield self.arriving.pop(0)()

    @contextmanager
    def aside(self, state: State) -> Iterator[None]:
        """A context whose time does not count in the images per second."""
        begin = time.perf_counter()
        state.seconds = begin - self.start
        yield
        self.paused += time.perf_counter() - begin


class Lines:
    """A file of JSON lines, one object with its `step` per line: metrics.jsonl, quality.jsonl."""

    def __init__(self, path: Path, step: int = 0) -> None:
        """Open the file; rows after `step`, which will be written again, are removed.

        Of several processes only the first reads and writes; to the others the file is empty.
        """
        self.path, self.mine = path, processes.first()
        if not self.mine:
            return
        kept = [row for row in self.rows() if row["step"] <= step]
        replace_file(path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: dict[str, Any]) -> None:
        """Write one row and flush it."""
        if not self.mine:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows; a last line that was cut off by a crash is left out."""
        return lines_of(self.path) if self.mine else []


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines, none without a file; broken lines are skipped."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows = []
    for line in lines:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


class Reporter:
    """Prints messages and progress: a live bar on a terminal, otherwise a line at least every `every` seconds."""

    def __init__(self, console: Console | None = None, every: float = 10.0) -> None:
        """Print to a console, standard output by default; of several processes only the first prints."""
        keep_printing()
        if not processes.first():
            from rich.console import Console

            console = Console(file=io.StringIO(), quiet=True)
        self.console = terminal.console() if console is None else console
        self.every = every
        self.bar = terminal.Bar(0)
        self.shown = False
        self.spoken = -math.inf
        self.said: set[str] = set()

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line, taken literally; nothing where it was printed before: two phases may have the same notes."""
        if text in self.said:
            return
        self.said.add(text)
        terminal.print_line(self.console, text, style)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.say(f"warning: {text}", style="yellow")

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[None]:
        """Show progress from step `done` to `total` for as long as the context lasts."""
        self.bar, self.spoken = terminal.Bar(total, done), -math.inf
        if not self.console.is_terminal or os.environ.get("TERM") == "dumb":
            yield
            return
        from rich.live import Live

        self.shown = True
        try:
            with Live(self.bar, console=self.console, refresh_per_second=2):
                yield
        finally:
            self.shown = False

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self.bar.done = step

    def row(self, row: dict[str, Any]) -> None:
        """Show the numbers of a log interval."""
        self.bar.parts, self.bar.done = describe(row), row["step"]
        self.count("step")

    def count(self, what: str) -> None:
        """Print the progress every `every` seconds and at the end, where no bar is shown."""
        bar = self.bar
        if not self.shown and (time.perf_counter() - self.spoken >= self.every or bar.done >= bar.total):
            self.spoken = time.perf_counter()
            left = bar.left()
            remaining = [] if left is None else [f"{duration(left)} left"]
            self.say("  ".join([f"{what} {bar.done}/{bar.total}", *remaining, *bar.parts]))


def describe(row: dict[str, Any]) -> list[str]:
    """Return the numbers of a log interval, the most telling first."""
    parts = [
        f"{row['images_per_second']:.0f} images/s",
        *(
            f"{title} {row[name]:.4g}"
            for title, name in (
                ("error", "raw_error"),
                ("grad", "grad_norm"),
                ("‖du/dt‖", "derivative_norm"),
            )
            if row[name] is not None
        ),
    ]
    if row["skipped"]:
        parts.insert(0, f"skipped {row['skipped']}")
    return parts
