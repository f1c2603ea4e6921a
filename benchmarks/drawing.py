"""What it costs one of several processes to draw the random numbers of a step.

    uv run python benchmarks/drawing.py --threads 1 --write            # on an otherwise idle machine
    uv run python benchmarks/drawing.py --device cuda --write

The noise of the rows of one process, made for these rows alone, beside that of the whole global batch made by one
generator of torch on the CPU, which is then cut and sent to the device. The last column is everything that
`Objective.draw` does for MeanFlow: order, times, noise, dropped labels, keys of dropout, and the noised data.
Milliseconds on a CPU are those of the processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import measuring
import torch
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from flowleap import Batch, clock, methods, pictures
from flowleap.randomness import RowGenerator, generator

CASES = {
    "64 × 1 × 8 × 8": (64, (1, 8, 8)),
    "256 × 1 × 28 × 28": (256, (1, 28, 28)),
    "256 × 4 × 32 × 32": (256, (4, 32, 32)),
    "1,024 × 4 × 32 × 32": (1024, (4, 32, 32)),
    "4,096 × 4 × 32 × 32": (4096, (4, 32, 32)),
    "256 × 3 × 256 × 256": (256, (3, 256, 256)),
}
PROCESSES = (1, 8, 64)
Work = Callable[[], object]


def works(total: int, shape: tuple[int, ...], processes: int, device: torch.device) -> dict[str, Work]:
    """Return the three things that are timed, for the first of the processes."""
    objective, label = methods.meanflow(), torch.arange(total, device=device) % 10
    rows = torch.arange(total) if processes == 1 else objective.part(total, 0, 0, 0, processes)
    x = torch.zeros(len(rows), *shape, device=device)
    batch = Batch(x, label[rows.to(device)], row=rows, size=total)
    return {
        "whole batch": lambda: torch.randn((total, *shape), generator=generator(0, "noise"))[rows].to(device),
        "own rows": lambda: RowGenerator(0, "noise", total=total, rows=rows, device=device).normal(*shape),
        "all draws": lambda: objective.draw(batch, 0, 0),
    }


def main() -> None:
    given = measuring.parser(__doc__, rounds=15)
    args = measuring.parsed(given, {"rounds": 1})
    device = torch.device(args.device)
    cases = {"6 × 1 × 2 × 2": (6, (1, 2, 2))} if args.tiny else CASES
    processes = (1, 2) if args.tiny else PROCESSES
    numbers, lines = {}, []
    for name, (total, shape) in cases.items():
        for count in processes:
            if count > total:
                continue
            timed = works(total, shape, count, device)
            taken = measuring.interleaved(timed, args.rounds, now=lambda: clock.now(device))
            found = {key: measuring.spread(1e3 * one.work for one in taken[key]) for key in timed}
            each = 1e6 * found["own rows"].median * count / (total * math.prod(shape))
            numbers[f"{name}, {count}"] = {key: list(one) for key, one in found.items()} | {"ns": each}
            times = [one.text(".3g") for one in found.values()]
            lines.append([name, str(count), *times[:2], f"{each:.1f}", times[2]])
    head = ["noise", "processes", "whole batch, ms", "own rows, ms", "ns a number", "all draws, ms"]
    title = "Cost of drawing: one process of several, median and quartiles"
    measuring.publish(
        args, title, measuring.table(head, lines), {"cases": numbers}, lambda to: picture(to, numbers)
    )


def picture(to: Path, numbers: dict[str, dict[str, list[float]]]) -> None:
    """Draw the medians of both ways against the number of processes, a panel for each case."""
    cases = list(dict.fromkeys(key.rpartition(", ")[0] for key in numbers))
    figure, panels = measuring.axes(2.4 * len(cases), 2.6, len(cases))
    for panel, case in zip(panels, cases, strict=True):
        found = {
            int(key.rpartition(", ")[2]): one for key, one in numbers.items() if key.startswith(f"{case}, ")
        }
        for way, color in (("whole batch", pictures.FAINT), ("own rows", pictures.INK)):
            panel.loglog(list(found), [one[way][1] for one in found.values()], "o-", color=color, label=way)
        panel.set_title(case, fontsize=8)
        panel.set_xlabel("processes", fontsize=8)
        panel.set_xticks(list(found), [str(count) for count in found])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("ms", fontsize=8)
    panels[0].legend(fontsize=7, frameon=False)
    figure.savefig(to)


if __name__ == "__main__":
    main()
