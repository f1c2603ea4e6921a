"""What the benchmarks of time share: interleaved rounds, medians and quartiles, the machine, a page with its numbers.

A benchmark that is called with `--write` leaves a page (.md), its numbers (.json) and its picture (.png) beside itself,
or in the folder that follows; `--tiny` is for a smoke run of seconds, whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

import flowleap
from flowleap import clock, pictures, runs
from flowleap.clock import Moment
from flowleap.data import Dataset
from flowleap.training.config import TrainConfig
from flowleap.training.guard import Guard
from flowleap.training.loop import train_step
from flowleap.training.start import make_ready

STEPS = 1_000_000
"""The length of the runs whose steps are timed, in their middle, past the horizons of most schedules."""


class Spread(NamedTuple):
    """The median of a measurement and its quartiles."""

    low: float
    median: float
    high: float

    def over(self, base: float) -> Spread:
        """Return the three as multiples of a base."""
        return Spread(*(value / base for value in self))

    def text(self, form: str = ".2f") -> str:
        """Return the median with the quartiles behind it, as in "1.18 (1.17–1.20)"."""
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


def spread(values: Iterable[float]) -> Spread:
    """Return the median and the quartiles of values; all three are the value where there is one."""
    found = list(values)
    if len(found) == 1:
        return Spread(*3 * found)
    return Spread(*statistics.quantiles(found, n=4, method="inclusive"))


def interleaved(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    now: Callable[[], Moment] = lambda: clock.now(torch.device("cpu")),
) -> dict[str, list[Moment]]:
    """Return wall and processor seconds of each work, run in turn, in an order that rotates.

    Args:
        warmup: rounds before those that are timed. now: the clocks, by default for work on a CPU.
    """
    taken: dict[str, list[Moment]] = {name: [] for name in works}
    names = list(works)
    for turn in range(-warmup, rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            before = now()
            works[name]()
            if turn >= 0:
                taken[name].append(now().since(before))
    return taken


def timed(
    works: Mapping[str, Callable[[], object]], args: argparse.Namespace, warmup: int
) -> dict[str, Spread]:
    """Return the seconds of each work in interleaved rounds, by the device and the clock that `args` name."""
    taken = interleaved(works, args.rounds, warmup, lambda: clock.now(torch.device(args.device)))
    return {
        name: spread(moment.work if args.busy else moment.wall for moment in moments)
        for name, moments in taken.items()
    }


@contextmanager
def stopwatch(args: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Yield the seconds, so far, of the parts of training that `clock.named` names, by the clock that `args` name."""
    seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def taking(name: str) -> Iterator[None]:
        before = clock.now(torch.device(args.device))
        yield
        taken = clock.now(torch.device(args.device)).since(before)
        seconds[name] += taken.work if args.busy else taken.wall

    with mock.patch.object(clock, "named", taking):
        yield seconds


class Training:
    """A training in the middle of a long run, that goes on step by step.

    Attributes:
        bytes: what the weights, averages and teachers of this training take on a GPU.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset) -> None:
        self.held = torch.cuda.memory_allocated() if config.parallel.device == "cuda" else 0
        self.setup = runs.Setup(config, dataset, steps=STEPS, say=lambda text: print(text, file=sys.stderr))
        self.setup.state.step = STEPS // 2
        self.guard = Guard(self.setup.engine.device)
        self.prepare(compiled=False)

    def prepare(self, *, compiled: bool) -> None:
        """Make ready for steps, with the loss compiled or not."""
        setup = self.setup
        setup.engine.compiled = compiled
        make_ready(setup.engine, setup.state, setup.objective, setup.data, setup.plan)

    def step(self) -> None:
        """Make a step: batch, draws, targets, forward, backward, clipping, optimizer, averages."""
        setup = self.setup
        train_step(setup.state, setup.objective, setup.data, setup.plan, setup.engine, self.guard)
        setup.state.step += 1

    def flops(self, steps: int = 2) -> float:
        """Return the floating point operations of matrix products and attention in a step, mean of some; uncompiled."""
        with FlopCounterMode(display=False) as counter:
            for _ in range(steps):
                self.step()
        return counter.get_total_flops() / steps

    def peak(self, steps: int = 2) -> int:
        """Return the most bytes that this training had on the GPU in some steps, its weights included."""
        others = self.held
        torch.cuda.reset_peak_memory_stats()
        for _ in range(steps):
            self.step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - others


def noise_images(side: int, channels: int = 1, rows: int = 1280, classes: int = 10) -> Dataset:
    """Return images of random numbers with labels."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn((rows, channels, side, side), generator=random).clamp(-1, 1)
    return Dataset("noise", images, torch.arange(rows) % classes, classes)


def matmul_peak(device: str, precision: str, size: int, rounds: int = 10) -> float:
    """Return the operations/s of a product of square matrices, the best of some rounds."""
    place = torch.device(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=place, dtype=dtype) for _ in range(2))
    taken = interleaved({"product": lambda: left @ right}, rounds, 3, lambda: clock.now(place))
    return 2 * size**3 / min(moment.wall for moment in taken["product"])


def processor() -> str:
    """Return how many cores of which processor this machine has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {model}"


def about(device: str = "cpu") -> dict[str, str]:
    """Return on what and with which versions numbers are measured."""
    gpu = {"GPU": torch.cuda.get_device_name()} if device == "cuda" else {}
    return gpu | {
        "machine": processor(),
        "CPU threads": str(torch.get_num_threads()),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "flowleap": flowleap.__version__,
    }


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark of time has; for `parsed`."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--busy", action="store_true", help="processor time, not wall time; with --threads 1")
    made.add_argument("--threads", type=int, help="CPU threads; default: as torch chooses")
    made.add_argument(
        "--tiny", action="store_true", help="a smoke run of seconds, whose numbers mean nothing"
    )
    made.add_argument(
        "--write",
        metavar="FOLDER",
        nargs="?",
        type=Path,
        const=Path(sys.argv[0]).resolve().parent,
        help="write the page, its numbers and its picture beside the script, or into a folder",
    )
    return made


def parsed(given: argparse.ArgumentParser, tiny: Mapping[str, Any]) -> argparse.Namespace:
    """Return the arguments of the command line, with `tiny` in place of some under `--tiny`; sets the CPU threads."""
    args = given.parse_args()
    if args.tiny:
        vars(args).update(tiny)
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def publish(
    args: argparse.Namespace,
    title: str,
    lines: Sequence[str],
    numbers: Mapping[str, Any],
    draw: Callable[[Path], object],
) -> None:
    """Print a page, and where it is asked for write it, its numbers and what `draw` draws into a given file."""
    script = Path(sys.argv[0])
    words = [word for word in sys.argv[1:] if args.write is None or word != str(args.write)]
    command, place = (
        shlex.join(["uv", "run", "python", f"benchmarks/{script.name}", *words]),
        about(args.device),
    )
    measured = "; ".join(f"{name} {value}" for name, value in place.items())
    page = [f"# {title}", "", f"Made by `{command}`. {measured}.", "", *lines]
    print(*page, sep="\n")
    if args.write is None:
        return
    args.write.mkdir(parents=True, exist_ok=True)
    path = args.write / script.name
    content = {"command": command, "about": place, **numbers}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")
    draw(path.with_suffix(".png"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown, its first column to the left and the others to the right."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def axes(width: float, height: float, panels: int = 1) -> tuple[Any, list[Any]]:
    """Return a matplotlib figure of this size in inches, and its axes side by side, with a faint grid and no frame."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    made = [figure.add_subplot(1, panels, index + 1) for index in range(panels)]
    for axis in made:
        axis.grid(True, color="#eaeef2", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=pictures.FAINT, labelcolor=pictures.INK, labelsize=9)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(pictures.RULE)
    return figure, made
