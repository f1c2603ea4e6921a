"""How the cost of a training step grows with tokens, width, batch, share of jumps and processes.

    uv run python benchmarks/scaling.py --write            # on an otherwise idle machine

A step as in step_cost.py, of a small diffusion transformer of which one size changes at a time; all sizes and methods
in turn, in an order that rotates. Exponents are fitted to the medians by least squares, seconds = a · sizeᵖ; those of
the counted operations stand beside them. The share of jumps is that of MeanFlow: seconds = a (1 + b · share).

Processes: on one machine, torchrun starts them with one thread each and as many rows for each; and how long one of P
processes draws times, noise and dropout for its share of a batch of latents, without the others.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import Spread, Training

from flowleap import clock, methods, pictures, processes, runs
from flowleap.training.loop import draw_batch

GUIDED = '{"type": "Guidance", "omega": 1.0, "kappa": 0.5}'
METHODS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "flow matching": ("flow_matching", ()),
    "meanflow": ("meanflow", ()),
    "esc, guided": ("esc", (("guidance", GUIDED),)),
}
SIZES: dict[str, tuple[int, ...]] = {
    "tokens": (16, 64, 144, 256),
    "width": (64, 128, 192, 384),
    "batch": (8, 16, 32, 64),
}
SHARES = (0.0, 0.25, 0.5, 1.0)
PARTS = (1, 2, 4, 8, 16, 32)
TINY = {"rounds": 1, "warmup": 0, "tokens": 16, "width": 32, "depth": 1, "batch": 8, "latents": 32}


@dataclass(frozen=True)
class Measured:
    """What was measured at one size: seconds of a step or of a draw, and the counted operations of it."""

    axis: str
    size: float
    method: str
    seconds: Spread
    flops: float | None = None


def training(
    method: str, args: argparse.Namespace, settings: Sequence[tuple[str, str]] = (), **sizes: int
) -> Training:
    """Return the training of a method on random images; `sizes` replace tokens, width or batch."""
    size = {"tokens": args.tokens, "width": args.width, "batch": args.batch} | sizes
    images = measuring.noise_images(2 * math.isqrt(size["tokens"]))
    name, own = METHODS[method]
    network = {
        "patch": 2,
        "width": size["width"],
        "depth": args.depth,
        "heads": max(1, size["width"] // 64),
    }
    config = runs.configure(
        name,
        images,
        settings=[
            *((f"network.{option}", str(value)) for option, value in network.items()),
            ("label_dropout", str(methods.get(name).label_dropout)),
            *own,
            *settings,
        ],
        steps=measuring.STEPS,
        batch=size["batch"],
        device=args.device,
    )
    return Training(config, images)


def steps(args: argparse.Namespace) -> list[Measured]:
    """Return the cost of a step at every size and for every method, and that of MeanFlow at every share of jumps."""
    trainings: dict[tuple[str, float, str], Training] = {}
    for axis, sizes in SIZES.items():
        usual = getattr(args, axis)
        for size in (usual, 4 * usual) if args.tiny else sizes:
            for method in METHODS:
                trainings[axis, size, method] = training(method, args, **{axis: size})
    for share in SHARES:
        settings = [("times.diagonal", str(1 - share))]
        trainings["share of jumps", share, "meanflow"] = training("meanflow", args, settings)
    flops = {key: one.flops(1) for key, one in trainings.items()}
    works = {json.dumps(key): one.step for key, one in trainings.items()}
    seconds = measuring.timed(works, args, args.warmup)
    return [Measured(*key, seconds[json.dumps(key)], flops[key]) for key in trainings]


def draws(args: argparse.Namespace) -> list[Measured]:
    """Return how long one process of several draws for its share of a batch of latents of 4 × 32 × 32."""
    side = 8 if args.tiny else 32
    latents = measuring.noise_images(side, channels=4, rows=args.latents)
    config = runs.configure(
        "meanflow",
        latents,
        settings=[("network.width", "64"), ("network.depth", "1"), ("network.heads", "1")],
        steps=measuring.STEPS,
        batch=args.latents,
        device=args.device,
    )
    setup = Training(config, latents).setup
    trained, device = setup.state.trained, setup.engine.device

    def draw(parts: int) -> None:
        batch = draw_batch(latents, setup.objective, setup.plan, 0, device, 0, parts)
        setup.objective.draw(batch, 0, trained.key(setup.plan.seed), trained.frozen)

    seconds = measuring.timed({str(parts): partial(draw, parts) for parts in PARTS}, args, 1)
    return [
        Measured("processes, drawing", parts, f"{args.latents} latents", seconds[str(parts)])
        for parts in PARTS
    ]


def several(args: argparse.Namespace) -> list[Measured]:
    """Return the cost of a step of MeanFlow on 1, 2, … processes of one thread, as many rows on each."""
    most = min(8, torch.cuda.device_count() if args.device == "cuda" else os.cpu_count() or 1)
    counts = [1 << power for power in range(most.bit_length())]
    found: dict[int, list[float]] = {count: [] for count in counts}
    own = [f"--{name}={getattr(args, name)}" for name in ("tokens", "width", "depth", "batch", "device")]
    for _ in range(3):
        for count in counts:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
            command = [sys.executable, *launcher, __file__, "--child", *own, f"--rounds={args.rounds}"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found[count].append(float(done.stdout.split()[-1]))
    return [
        Measured("processes, a step", count, "meanflow", measuring.spread(found[count])) for count in counts
    ]


def environment() -> dict[str, str]:
    """Return the environment of processes of one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def child(args: argparse.Namespace) -> None:
    """Print the median seconds of a step of this process and those started with it."""
    with processes.together(args.device):
        one = training("meanflow", args, batch=args.batch * processes.count())
        taken = measuring.interleaved(
            {"step": one.step}, args.rounds, 2, lambda: clock.now(one.setup.engine.device)
        )
        if processes.first():
            print(statistics.median(moment.wall for moment in taken["step"]))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return p of the least-squares fit log value = log a + p log size."""
    return statistics.linear_regression(*([math.log(one) for one in each] for each in (sizes, values))).slope


def fits(found: list[Measured]) -> list[list[str]]:
    """Return the rows of the table of exponents."""
    rows = []
    for axis in (*SIZES, "processes, drawing", "processes, a step"):
        for method in dict.fromkeys(one.method for one in found if one.axis == axis):
            points = [one for one in found if (one.axis, one.method) == (axis, method)]
            sizes, seconds = [one.size for one in points], [one.seconds.median for one in points]
            flops = [one.flops for one in points if one.flops is not None]
            if len(points) > 1:
                last = exponent(sizes[-2:], seconds[-2:])
                counted = f"{exponent(sizes, flops):.2f}" if flops else ""
                whole = f"{exponent(sizes, seconds):.2f}"
                rows.append([axis, method, f"{sizes[0]:g} to {sizes[-1]:g}", whole, f"{last:.2f}", counted])
    return rows


def jumps(found: list[Measured]) -> str:
    """Return what a jump costs, by a straight line through the cost against the share of jumps."""
    points = [one for one in found if one.axis == "share of jumps"]
    slopes = []
    for values in ([one.seconds.median for one in points], [one.flops or 0.0 for one in points]):
        line = statistics.linear_regression([one.size for one in points], values)
        slopes.append(line.slope / line.intercept)
    return (
        f"A MeanFlow step in which a share s of the rows are jumps costs 1 + {slopes[0]:.2f} s of one without jumps; "
        f"counted operations 1 + {slopes[1]:.2f} s, and the least known way 1 + 0.67 s."
    )


def draw(found: list[Measured], path: Path) -> None:
    """Draw the times against each size, on logarithmic axes except for the share of jumps."""
    names = list(dict.fromkeys(one.axis for one in found))
    figure, axes = measuring.axes(3.1 * len(names), 3.2, len(names))
    colors = dict(zip(dict.fromkeys(one.method for one in found), pictures.COLORS, strict=False))
    for axis, name in zip(axes, names, strict=True):
        for method in dict.fromkeys(one.method for one in found if one.axis == name):
            points = [one for one in found if (one.axis, one.method) == (name, method)]
            sizes = [one.size for one in points]
            low, middle, high = zip(*(one.seconds for one in points), strict=True)
            axis.vlines(
                sizes, [1000 * y for y in low], [1000 * y for y in high], colors[method], alpha=0.4, lw=4
            )
            axis.plot(sizes, [1000 * y for y in middle], "o-", color=colors[method], ms=4, label=method)
        if name == "share of jumps":
            axis.set_ylim(bottom=0)
        else:
            axis.set_xscale("log", base=2)
            axis.set_yscale("log", base=2)
            axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(name, color=pictures.INK)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("ms", color=pictures.INK)
    figure.savefig(path)


def main() -> None:
    parser = measuring.parser(__doc__, rounds=7)
    for name, value in {
        "tokens": 64,
        "width": 192,
        "depth": 4,
        "batch": 32,
        "latents": 1024,
        "warmup": 1,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = measuring.parsed(parser, TINY)
    if args.child:
        return child(args)
    found = [*steps(args), *draws(args), *([] if args.tiny else several(args))]
    where = f"depth {args.depth}; unless they change, {args.tokens} tokens, width {args.width}, batch {args.batch}"
    lines = [
        f"{args.rounds} interleaved rounds, {where}. Exponents p of seconds = a · sizeᵖ, fitted to the medians.",
        "",
        *measuring.table(
            ["size", "method", "from", "exponent of time", "of the last two", "of operations"], fits(found)
        ),
        "",
        jumps(found),
        "",
        "*Processes, drawing*: one of P processes draws for its share of a batch, −1 where it draws for nobody else. "
        "*Processes, a step*: as many rows on each process of one thread, 0 where they do not hinder one another.",
        "",
        "![Times against sizes](scaling.png)",
        "",
        *measuring.table(
            ["size", "", "method", "ms, with quartiles"],
            (
                [one.axis, f"{one.size:g}", one.method, Spread(*(1000 * s for s in one.seconds)).text(".1f")]
                for one in found
            ),
        ),
    ]
    numbers: dict[str, Any] = {"measured": [{**vars(one), "seconds": one.seconds._asdict()} for one in found]}
    return measuring.publish(args, "How the cost of a step grows", lines, numbers, partial(draw, found))


if __name__ == "__main__":
    main()
