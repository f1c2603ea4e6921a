"""Memory of a training step: what `flowleap train --dry-run` says beside what is measured.

    uv run python benchmarks/memory.py --write
    uv run python benchmarks/memory.py --device cuda --write

Each configuration trains three steps in a process of its own, as often as `--rounds` says; the median counts. Compared
are activations and gradients, as the estimate counts them, with the peak of the process less what it held before its
first step, weights, copies and libraries, and less the moments of the optimizer, which the first step adds. On a CPU
the peak is that of resident memory, on CUDA that of the allocator.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import Training, noise_images

from flowleap import data, pictures, runs
from flowleap.data import Dataset
from flowleap.runs import estimate
from flowleap.training.config import TrainConfig

GUIDED = ("guidance", '{"type": "Guidance", "omega": 1.0, "kappa": 0.5}')
GOAL = 0.15
"""How far the estimate may be from what is measured."""


@dataclass(frozen=True)
class Case:
    """A configuration: a method with settings of its own, on images of noise."""

    method: str
    settings: tuple[tuple[str, str], ...] = ()
    network: str | None = None
    image: tuple[int, int] = (1, 16)
    """Channels and side."""
    more: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "digits, as it comes (ESC)": Case("esc"),
    "flow matching": Case("flow_matching", network="dit"),
    "MeanFlow, central difference": Case(
        "meanflow", (("target.derivative", "CentralDifference"),), network="dit"
    ),
    "MeanFlow, two passes (TwoPass)": Case("meanflow", (("target.derivative", "TwoPass"),), network="dit"),
    "ESC, guided": Case("esc", (GUIDED,), network="dit"),
    "CTM on itself": Case("ctm_self", network="dit"),
    "SiD": Case("sid", network="dit"),
    "MeanFlow, U-Net": Case("meanflow", network="unet-small", image=(3, 32)),
}
DIGITS = next(iter(CASES))


def configured(name: str, args: argparse.Namespace) -> tuple[TrainConfig, Dataset]:
    """Return the configuration of a case and its data."""
    case = CASES[name]
    if name == DIGITS:
        return runs.configure("esc", "digits", device=args.device), data.load("digits")
    channels, side = case.image
    dataset = noise_images(side, channels)
    sizes = {"patch": 2, "width": args.width, "depth": args.depth, "heads": max(1, args.width // 64)}
    own = [(f"network.{key}", str(size)) for key, size in sizes.items()] if case.network == "dit" else []
    settings = [*own, ("label_dropout", "0.1"), *case.settings]
    kind = None if case.network == "dit" else case.network
    batch = args.batch if case.network == "dit" else args.batch // 2
    config = runs.configure(
        case.method, dataset, network=kind, settings=settings, batch=batch, device=args.device
    )
    return config, dataset


def resident(key: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))


def give_back() -> None:
    """Give memory that is not used back to the system, where the C library can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def one(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return estimate and measurement of a case, in bytes."""
    config, dataset = configured(name, args)
    found = estimate.estimate(config, len(dataset), speed=False).memory
    cuda = args.device == "cuda"
    small = Training(config.replace(batch=16, per_device=None), dataset)
    small.step()  # loads libraries and makes their workspaces
    del small
    give_back()
    training = Training(config, dataset)
    give_back()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = torch.cuda.memory_allocated() if cuda else resident("VmRSS")
    for _ in range(3):
        training.step()
    peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
    return {
        "name": name,
        "rows": found.rows,
        "estimate": found.activations + found.gradients,
        "measured": peak - before - found.optimizer,
        "state": found.weights + found.optimizer + found.copies,
    }


def in_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return `one` of processes of its own: that with the median of what was measured.

    Arrays of more than 64 KiB are given back to the system when they are freed: what is measured is what is in use, as
    on a device, not what the C library keeps.
    """
    words = ["--one", name, "--device", args.device, "--threads", "1"]
    words += [word for key in ("width", "depth", "batch") for word in (f"--{key}", str(vars(args)[key]))]
    script = str(Path(__file__).resolve())
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    found: list[dict[str, Any]] = []
    for _ in range(args.rounds):
        done = subprocess.run(
            [sys.executable, script, *words], stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    ordered = sorted(found, key=lambda one: one["measured"])
    return ordered[len(ordered) // 2] | {"spread": [ordered[0]["measured"], ordered[-1]["measured"]]}


def page(found: list[dict[str, Any]], args: argparse.Namespace) -> list[str]:
    """Return the page as lines of Markdown."""
    rows = [
        [
            row["name"],
            str(row["rows"]),
            f"{row['estimate'] / 1e6:,.1f} MB",
            f"{row['measured'] / 1e6:,.1f} MB ({row['spread'][0] / 1e6:,.1f}–{row['spread'][1] / 1e6:,.1f})",
            f"{row['estimate'] / row['measured']:.2f}",
            f"{row['state'] / 1e6:,.1f} MB",
        ]
        for row in found
    ]
    near = sum(abs(row["estimate"] / row["measured"] - 1) <= GOAL for row in found)
    return [
        f"DiT {args.depth} × {args.width}, 64 tokens, where nothing else is said; fp32. Activations and gradients.",
        "",
        *measuring.table(
            ["configuration", "rows", "estimate", "measured", "ratio", "weights, moments, copies"], rows
        ),
        "",
        f"Within {GOAL:.0%}: {near} of {len(found)}.",
    ]


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw the estimates beside the measurements."""
    figure, (axis,) = measuring.axes(7, 3.6)
    names = [row["name"] for row in found][::-1]
    for index, key in enumerate(("measured", "estimate")):
        places = [place + 0.38 * index for place in range(len(found))]
        axis.barh(
            places, [row[key] / 1e6 for row in found][::-1], 0.36, color=pictures.COLORS[index], label=key
        )
    axis.set_yticks([place + 0.19 for place in range(len(found))], names)
    axis.set_xlabel("MB at the peak of a step, without weights, moments and copies")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = measuring.parser(__doc__, rounds=5)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="their names; default: all")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = measuring.parsed(parser, {"width": 32, "depth": 1, "batch": 32, "cases": list(CASES)[1:3]})
    if args.one:
        print(json.dumps(one(args.one, args)))
        return
    found = [in_process(name, args) for name in args.cases]
    measuring.publish(
        args, "Memory of a training step", page(found, args), {"cases": found}, lambda path: draw(found, path)
    )


if __name__ == "__main__":
    main()
