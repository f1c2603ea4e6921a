"""What sampling costs beside the bare network, and what memory `flowleap sample` takes.

    uv run python benchmarks/sampling.py --write            # on an otherwise idle machine
    uv run python benchmarks/sampling.py --device cuda --write

One step, in turn: the network alone in inference mode; `Objective.sample`, which a library user calls; and
`evaluation.generate`, which also draws the noise of each seed, clamps, and checks that samples are finite. Then
`flowleap sample` writes few and many images, each in a process of its own whose peak of resident memory is read.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import Spread

from flowleap import clock, evaluation, networks, pictures, runs

WAYS = ("network alone", "Objective.sample", "evaluation.generate")
BATCHES = {1: 1.3, 256: 1.05}
"""The batches that are timed, and the ratio that is asked for of each, at most."""


def works(options: dict[str, Any], batch: int, device: str) -> dict[str, Callable[[], object]]:
    """Return one step of sampling in each way."""
    objective = runs.configure("meanflow", "digits").objective
    network = networks.build(options).eval().to(device)
    flow, shape = objective.flow_map(network), tuple(options["image"])
    noise, label = torch.randn(batch, *shape, device=device), torch.arange(batch, device=device) % 10
    t, r, known = torch.ones(batch, device=device), torch.zeros(batch, device=device), label.cpu()

    def alone() -> object:
        with torch.inference_mode():
            return network(noise, t, r, label)

    return {
        WAYS[0]: alone,
        WAYS[1]: lambda: objective.sample(flow, noise, label=label),
        WAYS[2]: lambda: evaluation.generate(flow, objective, shape, batch, label=known, batch=batch),
    }


def timed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return, for each network and batch, the seconds of each way with its ratio to the network alone."""
    default: dict[str, Any] = dict(runs.configure("meanflow", "digits").network)
    wide = {"image": [1, 16, 16], "width": args.width, "depth": args.depth, "heads": max(1, args.width // 64)}
    device, found = torch.device(args.device), []
    for name, options in (("digits", default), (f"DiT {args.depth} × {args.width}", {**default, **wide})):
        for batch in args.batches:
            rounds = args.rounds * (1 if batch > 1 else 20)
            taken = measuring.interleaved(
                works(options, batch, args.device), rounds, 2, lambda: clock.now(device)
            )
            seconds = {way: [moment.wall for moment in moments] for way, moments in taken.items()}
            ratios = {
                way: measuring.spread(a / b for a, b in zip(values, seconds[WAYS[0]], strict=True))
                for way, values in seconds.items()
            }
            alone = measuring.spread(seconds[WAYS[0]])
            found.append({"network": name, "batch": batch, "alone": alone, "ratios": ratios})
    return found


COMMAND = """
import atexit, runpy
from pathlib import Path

def say():
    print(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))

atexit.register(say)
runpy.run_module("flowleap", run_name="__main__")
"""
"""The command, which says the peak of its memory at its end; what the system keeps of an ended process counts in that
of the process that started it."""


def written(run: Path, num: int, out: Path, device: str) -> dict[str, Any]:
    """Return the peak of resident memory of `flowleap sample`, in bytes, and the images/s that it says."""
    words = ["sample", str(run), "--num", str(num), "--out", str(out), "--device", device]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, check=False
    )
    speed = re.search(r"([\d,]+) images/s", done.stdout)
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    if done.returncode or speed is None or peak is None:
        raise SystemExit(done.stdout + done.stderr)
    rate = int(speed[1].replace(",", ""))
    return {"num": num, "out": out.suffix or "folder", "bytes": 1024 * int(peak[1]), "images": rate}


def streamed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return memory and speed of `flowleap sample` for each number of images and kind of output."""
    with tempfile.TemporaryDirectory() as folder:
        config = runs.configure(
            "meanflow", "digits", steps=1, eval_num=0, sample_every=0, checkpoint_every=0, device="cpu"
        )
        run = runs.train(config, Path(folder) / "run").folder
        return [
            written(run, num, Path(folder) / f"{num}{suffix}", args.device)
            for suffix in ("", ".npz", ".png")
            for num in args.num
        ]


def page(found: list[dict[str, Any]], files: list[dict[str, Any]]) -> list[str]:
    """Return the page as lines of Markdown."""
    head = ["network", "batch", "network alone, ms", *(f"{way}, ratio" for way in WAYS[1:]), "asked, at most"]
    rows = [
        [
            row["network"],
            str(row["batch"]),
            f"{1000 * row['alone'].median:.2f}",
            *(row["ratios"][way].text() for way in WAYS[1:]),
            f"{BATCHES.get(row['batch'], float('nan')):g}",
        ]
        for row in found
    ]
    memory = [
        [row["out"], f"{row['num']:,}", f"{row['bytes'] / 1e6:,.0f} MB", f"{row['images']:,}"]
        for row in files
    ]
    return [
        "One step of sampling; medians of ratios of interleaved calls, quartiles in brackets.",
        "",
        *measuring.table(head, rows),
        "",
        "`flowleap sample` on digits: resident memory at its peak, of the whole process, and images/s with writing.",
        "A .npz and a folder are written as images are made; a .png is drawn of all of them.",
        "",
        *measuring.table(["--out", "--num", "peak", "images/s"], memory),
    ]


def draw(found: list[dict[str, Any]], files: list[dict[str, Any]], path: Path) -> None:
    """Draw ratios by batch, and memory by number of images."""
    figure, (left, right) = measuring.axes(9, 3.4, 2)
    for index, way in enumerate(WAYS[1:]):
        ratios: list[Spread] = [row["ratios"][way] for row in found]
        places = [place + 0.35 * index for place in range(len(found))]
        left.bar(places, [one.median for one in ratios], 0.33, color=pictures.COLORS[index], label=way)
    names = [f"{row['network']}\nbatch {row['batch']}" for row in found]
    left.set_xticks([place + 0.17 for place in range(len(found))], names)
    left.axhline(1, color=pictures.INK, linewidth=0.8)
    left.set_ylabel("time / network alone")
    left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    kinds = list(dict.fromkeys(row["out"] for row in files))
    for index, num in enumerate(dict.fromkeys(row["num"] for row in files)):
        sizes = [row["bytes"] / 1e6 for row in files if row["num"] == num]
        places = [place + 0.35 * index for place in range(len(kinds))]
        right.bar(places, sizes, 0.33, color=pictures.COLORS[index], label=f"{num:,} images")
    right.set_xticks([place + 0.17 for place in range(len(kinds))], kinds)
    right.set_ylabel("peak memory, MB")
    right.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    figure.savefig(path)


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)
    parser = measuring.parser(__doc__, rounds=15)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--num", type=int, nargs="+", default=[1000, 10_000])
    tiny = {"rounds": 1, "width": 32, "depth": 1, "batches": [1, 4], "num": [10]}
    args = measuring.parsed(parser, tiny)
    found, files = timed(args), streamed(args)
    numbers = {"one step": found, "flowleap sample": files}
    measuring.publish(args, "Sampling", page(found, files), numbers, lambda path: draw(found, files, path))


if __name__ == "__main__":
    main()
