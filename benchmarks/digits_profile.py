"""Where the time of the default job goes: `flowleap train` on digits, from the first import to its table.

    uv run python benchmarks/digits_profile.py --write            # on an otherwise idle machine

1. The job as a user runs it, with the parts of training timed where they are named (`flowleap.clock.named`): drawing,
   forward, backward, optimizer, averages, log, online evaluation, pictures, checkpoints, the table at the end. The rest
   is the start: imports, data, trial steps, files.
2. Some steps of the same training under torch.profiler, with one thread: how much of forward and backward are matrix
   products, how much other operations (element-wise, normalization, softmax, copies), and how much is not computing:
   Python, dispatch, views, the bookkeeping of autograd. The profiler itself takes time in each operation, which counts
   in the last of these.
"""

from __future__ import annotations

import time

BEGIN = time.perf_counter(), time.process_time()

import argparse
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import Training
from torch.profiler import ProfilerActivity, profile

from flowleap import data, pictures, runs

IMPORTS = time.perf_counter() - BEGIN[0], time.process_time() - BEGIN[1]
ASIDE = ("draw", "optimizer", "averages", "log", "evaluate", "sample", "save", "table")
PRODUCTS = {
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
}  # fmt: skip
VIEWS = {
    "aten::linear", "aten::matmul", "aten::t", "aten::transpose", "aten::view", "aten::_unsafe_view",
    "aten::reshape", "aten::expand", "aten::as_strided", "aten::slice", "aten::select",
    "aten::unsqueeze", "aten::squeeze", "aten::permute", "aten::empty", "aten::empty_like",
    "aten::empty_strided", "aten::new_empty", "aten::detach", "aten::alias", "aten::chunk",
    "aten::split", "aten::unbind", "aten::flatten", "aten::unflatten", "aten::narrow",
    "aten::result_type", "aten::resolve_conj", "aten::resolve_neg", "aten::lift_fresh",
    "aten::contiguous", "aten::to", "aten::is_nonzero", "aten::scaled_dot_product_attention",
    "aten::layer_norm", "aten::_to_copy", "aten::split_with_sizes", "aten::expand_as", "aten::view_as",
    "aten::item",
}  # fmt: skip
"""Operations that compute nothing themselves."""
KINDS = ("matrix products", "other operations", "framework")


def job(args: argparse.Namespace) -> tuple[dict[str, float], float, int, int]:
    """Run the default job; return the seconds of its parts and of all of it, its steps and its CPU threads."""
    options: dict[str, Any] = {} if args.steps is None else {"steps": args.steps}
    options |= {"batch": 32, "eval_num": 0, "online_share": 0.0} if args.tiny else {}
    settings = [("network.width", "16"), ("network.depth", "1")] if args.tiny else []
    config = runs.configure(settings=settings, threads=args.threads, device=args.device, **options)
    before = time.process_time() if args.busy else time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, measuring.stopwatch(args) as seconds:
        runs.train(config, Path(folder) / "run")
        whole = (time.process_time() if args.busy else time.perf_counter()) - before
        count = runs.read_config(Path(folder) / "run").parallel.threads or torch.get_num_threads()
    imports = IMPORTS[args.busy]
    found = {part: seconds[part] for part in ("forward", "backward", *ASIDE)}
    return (
        {"start": imports + whole - sum(found.values()), **found},
        imports + whole,
        config.schedule.steps,
        count,
    )


def kind_of(name: str) -> str:
    """Return what an event of the profiler is: one of `KINDS`."""
    if name in PRODUCTS:
        return KINDS[0]
    return KINDS[1] if name.startswith("aten::") and name not in VIEWS else KINDS[2]


def operations(
    training: Training, count: int
) -> tuple[dict[str, dict[str, float]], list[tuple[str, str, float, int]]]:
    """Profile steps of a training; return seconds of a step by part and kind, and its longest operations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(2):
        training.step()
    with profile(activities=[ProfilerActivity.CPU]) as traced:
        for _ in range(count):
            training.step()
    torch.set_num_threads(threads)
    parts: dict[str, dict[str, float]] = {
        part: dict.fromkeys(KINDS, 0.0) for part in ("draw", "forward", "backward", "optimizer", "averages")
    }
    longest: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in traced.events():
        part, above = None, event
        while above is not None:
            part, above = (above.name if above.name in parts else part), above.cpu_parent
        if part is None:
            continue
        seconds = event.self_cpu_time_total / 1e6 / count
        parts[part][kind_of(event.name)] += seconds
        entry = longest[part, event.name]
        entry[0], entry[1] = entry[0] + seconds, entry[1] + 1 / count
    ranked = sorted(longest.items(), key=lambda item: -item[1][0])[:20]
    return parts, [(part, name, seconds, round(calls)) for (part, name), (seconds, calls) in ranked]


def shares(parts: dict[str, float], steps: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the seconds of the job by what they are for; forward and backward are divided as the profiler has it."""
    found = dict.fromkeys(KINDS, 0.0)
    for part in ("forward", "backward"):
        whole = sum(steps[part].values())
        for kind in KINDS:
            found[kind] += parts[part] * steps[part][kind] / whole
    return found | {
        "drawing": parts["draw"],
        "optimizer and averages": parts["optimizer"] + parts["averages"],
        "log and checkpoints": parts["log"] + parts["save"],
        "measuring and pictures": parts["evaluate"] + parts["sample"] + parts["table"],
        "start": parts["start"],
    }


def draw(found: dict[str, float], path: Path) -> None:
    """Draw the shares as bars."""
    whole = sum(found.values())
    figure, (axis,) = measuring.axes(7.0, 2.8)
    bars = axis.barh(list(found), [100 * seconds / whole for seconds in found.values()], color=pictures.BLUE)
    axis.bar_label(bars, [f"{seconds / whole:.1%}" for seconds in found.values()], padding=4, fontsize=9)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("% of the time of the job", color=pictures.INK)
    figure.savefig(path)


def main() -> None:
    parser = measuring.parser(__doc__, rounds=1)
    parser.add_argument("--steps", type=int, help="default: those of the job")
    args = measuring.parsed(parser, {"steps": 2})
    parts, whole, steps, threads = job(args)
    digits = data.load("digits")
    config = runs.configure(data=digits, device=args.device, steps=measuring.STEPS)
    profiled, longest = operations(Training(config, digits), 1 if args.tiny else 20)
    found = shares(parts, profiled)
    clock = "processor" if args.busy else "wall"
    lines = [
        f"{steps:,} steps in {whole:.1f} s of {clock} time, with {threads} CPU threads at the end.",
        "",
        *measuring.table(
            ["for", "seconds", "share"],
            ([name, f"{seconds:.1f}", f"{seconds / whole:.1%}"] for name, seconds in found.items()),
        ),
        "",
        "![Shares](digits_profile.png)",
        "",
        "Forward and backward are divided into matrix products, other operations and framework as profiled below. "
        "*Start*: imports, data, trial steps that choose the threads, files, and what has no name.",
        "",
        "## A step under the profiler, one thread",
        "",
        *measuring.table(
            ["part", *(f"{kind}, ms" for kind in KINDS)],
            ([part, *(f"{1000 * one[kind]:.2f}" for kind in KINDS)] for part, one in profiled.items()),
        ),
        "",
        *measuring.table(
            ["part", "operation", "calls", "ms"],
            (
                [part, f"`{name}`", f"{calls}", f"{1000 * seconds:.2f}"]
                for part, name, seconds, calls in longest
            ),
        ),
    ]
    numbers = {"seconds": whole, "steps": steps, "shares": found, "parts": parts, "profile": profiled}
    measuring.publish(args, "Where the time of the default job goes", lines, numbers, partial(draw, found))


if __name__ == "__main__":
    main()
