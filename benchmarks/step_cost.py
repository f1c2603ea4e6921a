"""What a training step costs, as a ratio to a plain flow-matching step.

    uv run python benchmarks/step_cost.py            # on an otherwise idle machine
    uv run python benchmarks/step_cost.py --device cuda --write

The same network, batch and process for every method; rounds are interleaved (one step of each method in turn, in an
order that rotates), and the median over rounds is reported. A step is everything that the loop of training does: the
batch, draws, targets, forward, backward, gradient clipping, Adam, averages; in the middle of a run, with the turn of
every trained. Students have a teacher of the same network. `--write` puts the table into benchmarks/step_cost.md.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import flowleap
from flowleap import methods, runs
from flowleap.data import Dataset

Settings = tuple[tuple[str, str], ...]
GUIDED: Settings = (("guidance", '{"type": "Guidance", "omega": 1.0, "kappa": 0.5}'),)
CLASSES, ROWS_OF_DATA, STEPS = 10, 1280, 1_000_000


@dataclass(frozen=True)
class Row:
    """A method with settings of its own, and the ratio it must not exceed."""

    method: str
    settings: Settings = ()
    bound: float | None = None


ROWS: dict[str, Row] = {
    "flow matching": Row("flow_matching"),
    "shortcut, paper, k = 1/4": Row("shortcut", bound=1.25),
    "shortcut, repo, k = 1/4": Row("shortcut_repo", (("times.share", "0.25"),), bound=1.25),
    "meanflow": Row("meanflow", bound=1.5),
    "meanflow, one pass (ExactJVP)": Row("meanflow", (("target.derivative", "ExactJVP"),)),
    "meanflow, central difference": Row("meanflow", (("target.derivative", "CentralDifference"),)),
    "meanflow, guided": Row("meanflow", GUIDED),
    "esc": Row("esc"),
    "esc, guided": Row("esc", GUIDED, bound=2.2),
}
NAMED = {row.method for row in ROWS.values()}
ROWS |= {name.replace("_", " "): Row(name) for name in methods.names() if name not in NAMED}


def stepper(row: Row, args: argparse.Namespace) -> Callable[[int], object]:
    """Return a function that makes one training step with a network of its own, in the middle of a long run."""
    side = 2 * args.side
    random = torch.Generator().manual_seed(0)
    images = torch.randn((ROWS_OF_DATA, 1, side, side), generator=random).clamp(-1, 1)
    data = Dataset("noise", images, torch.arange(ROWS_OF_DATA) % CLASSES, CLASSES)
    sizes = {"patch": 2, "width": args.width, "depth": args.depth, "heads": args.width // 64}
    settings = [(f"network.{name}", str(size)) for name, size in sizes.items()]
    settings += [("label_dropout", str(methods.get(row.method).label_dropout)), *row.settings]
    config = runs.configure(
        row.method, data, settings=settings, steps=STEPS, batch=args.batch, device=args.device
    )
    setup = runs.Setup(config, data, steps=STEPS)
    return lambda k: setup.timed(STEPS // 2 + k, lambda spans: True)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of a step of every method."""
    steppers = {name: stepper(row, args) for name, row in ROWS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    names = list(steppers)
    for k in range(args.warmup + args.rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            start = time.perf_counter()
            steppers[name](k)
            if k >= args.warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def table(medians: dict[str, float]) -> list[str]:
    """Return the table as lines of Markdown."""
    base = medians["flow matching"]
    lines = ["| method | ms per step | ratio to flow matching | at most |", "|---|---:|---:|---:|"]
    for name, median in medians.items():
        bound = ROWS[name].bound
        limit = "" if bound is None else f"{bound:g}"
        lines.append(f"| {name} | {1000 * median:.1f} | {median / base:.2f} | {limit} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--side", type=int, default=8, help="tokens per side (8: 64 tokens)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--write", action="store_true", help="write the table into benchmarks/step_cost.md")
    args = parser.parse_args()
    lines = table(measure(args))
    where = (
        torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    )
    settings = (
        f"DiT {args.depth} × {args.width}, {args.side**2} tokens, batch {args.batch}, fp32, {args.rounds} interleaved "
        f"rounds, {where} ({platform.machine()}), torch {torch.__version__}, flowleap {flowleap.__version__}"
    )
    print(settings, *lines, sep="\n")
    if args.write:
        path = Path(__file__).with_suffix(".md")
        path.write_text("\n".join([*HEADER, settings, "", *lines, *NOTES]) + "\n", encoding="utf-8")


HEADER = (
    "# Cost of a training step",
    "",
    "Made by `uv run python benchmarks/step_cost.py --write`. A step is everything that the loop of training does "
    "(batch, draws, targets, forward, backward, clipping, Adam, averages), in the middle of a run; medians of one "
    "interleaved run; ratios, not milliseconds, are the result.",
    "",
)
NOTES = (
    "",
    "Where the ratios come from: the JVP runs on the quarter of the rows with r < t only, without a reverse graph; "
    "guidance asks the network on rows inside the window that keep their label, both labels in one pass; one student "
    "pass covers all rows; shortcut asks its target network twice, on the rows that jump only.",
    "",
    "By the same measure (SiT 6 × 192, 64 tokens, batch 32, two CPU cores) the reference code of ESC costs 2.80 for "
    "MeanFlow without guidance, 3.51 with guidance and 3.72 for ESC with guidance. CUDA: not measured.",
)

if __name__ == "__main__":
    main()
