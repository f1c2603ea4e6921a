"""What a training step costs, as a ratio to a plain flow-matching step.

    uv run python benchmarks/step_cost.py --write            # on an otherwise idle machine
    uv run python benchmarks/step_cost.py --device cuda --write
    uv run python benchmarks/step_cost.py --device cuda --network dit-base-2 --precision bf16 --compile --batch 256 \\
        --methods "flow matching;meanflow;esc, guided"

The same network, batch and process for every method; one step of each method in turn, in an order that rotates. A step
is everything that the loop of training does: the batch, draws, targets, forward, backward, gradient clipping, Adam,
averages; in the middle of a run, with the turn of every network that is trained. Students have a teacher of the same
network. The floating point operations of matrix products and attention in a step are counted by torch.

A second table has the network and the batch of the default job on digits. A third says how much of a step is drawing,
the optimizer, the averages and the numbers of the log.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import measuring
from measuring import Spread, Training

from flowleap import clock, data, methods, pictures, runs
from flowleap.data import Dataset
from flowleap.training.config import TrainConfig
from flowleap.training.log import Recorder
from flowleap.training.loop import train_step

Settings = tuple[tuple[str, str], ...]
DIFFERENCE: Settings = (("target.derivative", "CentralDifference"),)
TWO_PASS: Settings = (("target.derivative", "TwoPass"),)
ONE_PASS: Settings = (("target.derivative", "ExactJVP"),)
GUIDED: Settings = (("guidance", '{"type": "Guidance", "omega": 1.0, "kappa": 0.5}'),)


@dataclass(frozen=True)
class Row:
    """A method with settings of its own.

    Args:
        bound: the least cost that is known, as a ratio to flow matching, None for that which is counted. A row costs 3
            evaluations, forward and backward; a jump 2 more, for the difference of two values or the two halves; a
            guided row 1 without its label, and 1 with it where that is not what the network is trained to predict.
        goal: the ratio that is asked for, at most.
    """

    method: str
    settings: Settings = ()
    bound: float | None = None
    goal: float | None = None


JUMP = 1 + 0.25 * 2 / 3
NULL = (0.75 * 1 + 0.25 * 2) / 3
ROWS: dict[str, Row] = {
    "flow matching": Row("flow_matching", bound=1.0),
    "shortcut, paper, k = 1/4": Row("shortcut", bound=JUMP, goal=1.2),
    "shortcut, repo, k = 1/4": Row("shortcut_repo", (("times.share", "0.25"),), bound=JUMP, goal=1.2),
    "meanflow": Row("meanflow", bound=JUMP, goal=1.22),
    "meanflow, central difference": Row("meanflow", DIFFERENCE, bound=JUMP),
    "meanflow, two passes (TwoPass)": Row("meanflow", TWO_PASS, bound=JUMP),
    "meanflow, one pass (ExactJVP)": Row("meanflow", ONE_PASS, bound=JUMP),
    "meanflow, guided": Row("meanflow", GUIDED, bound=JUMP + NULL),
    "esc": Row("esc", bound=JUMP, goal=1.25),
    "esc, guided": Row("esc", GUIDED, bound=JUMP + NULL, goal=1.68),
    "sct": Row("sct", bound=1 + 2 / 3, goal=1.8),
    "sct linear": Row("sct_linear", bound=1 + 2 / 3),
}
NAMED = {row.method for row in ROWS.values()}
ROWS |= {name.replace("_", " "): Row(name) for name in methods.names() if name not in NAMED}
ON_DIGITS = {name: replace(row, goal=None) for name, row in list(ROWS.items())[:11]}
ON_DIGITS["meanflow"] = replace(ROWS["meanflow"], goal=1.25)
PARTS = ("draw", "forward", "backward", "optimizer", "averages", "log")
TAKEN_APART = ("flow matching", "meanflow", "esc, guided")


@dataclass(frozen=True)
class Cost:
    """What was measured of a method: seconds of a step, operations, and bytes on a GPU (None: on a CPU)."""

    seconds: Spread
    flops: float
    peak: int | None
    bound: float | None
    goal: float | None


def config_of(row: Row, dataset: Dataset, args: argparse.Namespace, **options: Any) -> TrainConfig:
    """Return the config of a row, with its label dropout."""
    settings = [("label_dropout", str(methods.get(row.method).label_dropout)), *row.settings]
    settings = options.pop("settings", []) + settings
    return runs.configure(
        row.method, dataset, settings=settings, steps=measuring.STEPS, device=args.device, **options
    )


def transformers(args: argparse.Namespace) -> Callable[[Row], Training]:
    """Return what makes the training of a row on random images."""
    if args.network is not None:
        latents = measuring.noise_images(args.side * 2, channels=4)
        given = partial(config_of, network=args.network)
    else:
        latents = measuring.noise_images(args.side * 2)
        sizes = {"patch": 2, "width": args.width, "depth": args.depth, "heads": max(1, args.width // 64)}
        given = partial(config_of, settings=[(f"network.{name}", str(size)) for name, size in sizes.items()])
    return lambda row: Training(
        given(row, latents, args, batch=args.batch, precision=args.precision), latents
    )


def on_digits(args: argparse.Namespace) -> Callable[[Row], Training]:
    """Return what makes the training of a row with the network and the batch of the default job."""
    digits = data.load("digits")
    options: dict[str, Any] = (
        {"batch": 32, "settings": [("network.width", "16"), ("network.depth", "1")]} if args.tiny else {}
    )
    return lambda row: Training(config_of(row, digits, args, **options), digits)


def measure(
    rows: dict[str, Row], build: Callable[[Row], Training], args: argparse.Namespace
) -> tuple[dict[str, Cost], dict[str, Training]]:
    """Return the cost of a step of every row, and the trainings."""
    trainings, flops, peaks = {}, {}, {}
    for name, row in rows.items():
        trainings[name] = training = build(row)
        flops[name] = training.flops(1 if args.tiny else 2)
        if args.compile:
            training.prepare(compiled=True)
        peaks[name] = training.peak() if args.device == "cuda" else None
    works = {name: training.step for name, training in trainings.items()}
    seconds = measuring.timed(works, args, args.warmup)
    costs = {
        name: Cost(seconds[name], flops[name], peaks[name], row.bound, row.goal) for name, row in rows.items()
    }
    return costs, trainings


def cost_table(costs: dict[str, Cost], peak: float, batch: int) -> list[str]:
    """Return what was measured as a table.

    Args:
        peak: operations/s of a large matrix product. batch: images of a step.
    """
    base, rows = costs["flow matching"], []
    cuda = base.peak is not None
    for name, cost in costs.items():
        ratio = cost.seconds.over(base.seconds.median)
        counted = cost.flops / base.flops
        goal = (
            "" if cost.goal is None else f"{cost.goal:g}: {'yes' if ratio.median <= cost.goal else '**no**'}"
        )
        share = cost.flops / cost.seconds.median / peak
        cells = [
            *(
                name,
                f"{1000 * cost.seconds.median:.1f}",
                f"{batch / cost.seconds.median:,.0f}",
                ratio.text(),
                f"{counted:.2f}",
            ),
            *(f"{cost.bound or counted:.2f}", goal, f"{share:.0%}"),
        ]
        rows.append([*cells, f"{(cost.peak or 0) / (base.peak or 1):.2f}"] if cuda else cells)
    head = "method|ms per step|images/s|ratio to flow matching|operations, ratio|bound|goal|share of the matmul peak"
    return measuring.table([*head.split("|"), *(["peak memory, ratio"] if cuda else [])], rows)


def parts_of(training: Training, args: argparse.Namespace) -> dict[str, Spread]:
    """Return the shares of a step that its parts have, and that of the numbers of the log."""
    setup = training.setup
    recorder = Recorder(setup.engine.device, setup.plan.batch, 0.0)
    shares: dict[str, list[float]] = {part: [] for part in PARTS}
    for _ in range(args.rounds):
        before = clock.now(setup.engine.device)
        with measuring.stopwatch(args) as seconds:
            updates = train_step(
                setup.state, setup.objective, setup.data, setup.plan, setup.engine, training.guard
            )
            with clock.named("log"):
                recorder.add(updates[0].numbers, updates[0].norm)
                training.guard.read()
        taken = clock.now(setup.engine.device).since(before)
        whole = taken.work if args.busy else taken.wall
        for part in PARTS:
            shares[part].append(seconds[part] / whole)
    return {part: measuring.spread(found) for part, found in shares.items()}


def parts_table(found: dict[str, dict[str, Spread]]) -> list[str]:
    """Return the shares of the parts of a step as a table."""
    rows = []
    for name, shares in found.items():
        aside = sum(shares[part].median for part in PARTS if part not in ("forward", "backward"))
        rows.append([name, *(f"{shares[part].median:.1%}" for part in PARTS), f"{aside:.1%}"])
    return measuring.table(["step", *PARTS, "all but forward and backward"], rows)


def draw(costs: dict[str, Cost], path: Path) -> None:
    """Draw the ratios with their quartiles, the bounds as strokes."""
    base = costs["flow matching"]
    figure, (axis,) = measuring.axes(7.2, 1.2 + 0.22 * len(costs))
    for index, cost in enumerate(costs.values()):
        low, median, high = cost.seconds.over(base.seconds.median)
        bound = cost.bound or cost.flops / base.flops
        first = index == 0
        axis.plot([low, high], [index, index], color=pictures.BLUE, alpha=0.4, linewidth=4)
        axis.plot(
            median, index, "o", color=pictures.BLUE, label="measured, with quartiles" if first else None
        )
        axis.plot(bound, index, "|", color=pictures.COLORS[1], markersize=12, markeredgewidth=2,
                  label="bound by operations" if first else None)  # fmt: skip
    axis.set_yticks(range(len(costs)), costs)
    axis.invert_yaxis()
    axis.set_xlim(left=0.8)
    axis.set_xlabel("time of a training step / flow-matching step", color=pictures.INK)
    axis.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    figure.savefig(path)


NOTES = (
    "Medians of rounds of one step of each method in turn, with quartiles. *Operations*: those of matrix products and "
    "attention in a step, counted by torch. *Bound*: what the least known way costs, with three evaluations for a row, "
    "forward and backward, two more for a jump (the difference of two values, or two halves), one more for a guided "
    "row without its label and one with it where the network does not predict that anyway; counted where a method has "
    "no such number. Forward-mode differentiation costs as torch does it.",
    "",
)


OTHERS = (
    "",
    "Guidance asks the network without the label on all guided rows, and with it on jumps only: on rows r = t that is "
    "what the network predicts there anyway. One pass of the student covers all rows; shortcut asks its target network "
    "twice, on the rows that jump only. Other implementations by the same measure: peers.md.",
)


def main() -> None:
    parser = measuring.parser(__doc__, rounds=40)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--side", type=int, default=8, help="tokens per side (8: 64 tokens)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--network", help="a network by name, on images of 4 channels, such as dit-base-2")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--methods", help="only these rows of the table, separated by semicolons")
    parser.add_argument("--warmup", type=int, default=3)
    args = measuring.parsed(
        parser, {"rounds": 1, "warmup": 0, "width": 32, "depth": 1, "side": 2, "batch": 32}
    )
    chosen = TAKEN_APART if args.tiny else ROWS if args.methods is None else args.methods.split(";")
    costs, trainings = measure({name: ROWS[name] for name in chosen}, transformers(args), args)
    size = 256 if args.tiny else 8192 if args.device == "cuda" else 2048
    peak = measuring.matmul_peak(args.device, args.precision, size)
    shares = {name: parts_of(trainings[name], args) for name in TAKEN_APART if name in trainings}
    title = f"{args.network or f'DiT {args.depth} × {args.width}'}, {args.side**2} tokens, batch {args.batch}"
    lines = [
        *NOTES,
        f"## {title}, {args.precision}{', compiled' * args.compile}",
        "",
        f"{args.rounds} rounds. Matrix products reach {peak / 1e9:,.0f} GFLOP/s.",
        "",
        *cost_table(costs, peak, args.batch),
        "",
        "![Ratios to flow matching](step_cost.png)",
    ]
    numbers: dict[str, Any] = {"matmul_peak": peak, "costs": as_numbers(costs)}
    if args.methods is None:
        del trainings
        chosen = TAKEN_APART if args.tiny else ON_DIGITS
        small, trainings = measure({name: ON_DIGITS[name] for name in chosen}, on_digits(args), args)
        shares |= {f"{name}, on digits": parts_of(trainings[name], args) for name in TAKEN_APART}
        lines += [
            "",
            "## The network and batch of the default job on digits",
            "",
            *cost_table(small, peak, trainings["flow matching"].setup.plan.batch),
        ]
        numbers["digits"] = as_numbers(small)
    lines += ["", "## Parts of a step", "", *parts_table(shares), *OTHERS]
    numbers["parts"] = {
        name: {part: share._asdict() for part, share in found.items()} for name, found in shares.items()
    }
    measuring.publish(args, "Cost of a training step", lines, numbers, partial(draw, costs))


def as_numbers(costs: dict[str, Cost]) -> dict[str, Any]:
    """Return costs as JSON-able values."""
    return {name: {**asdict(cost), "seconds": cost.seconds._asdict()} for name, cost in costs.items()}


if __name__ == "__main__":
    main()
