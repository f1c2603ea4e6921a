"""flowleap compare: training objectives on equal terms, in one table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowleap.cli import options
from flowleap.cli.group import say
from flowleap.cli.train import pairs

if TYPE_CHECKING:
    from flowleap.studies import Request

SIGNALED = 128
FAILED = 1


class Equal(StrEnum):
    """What all runs have alike."""

    steps = "steps"
    flops = "flops"
    time = "time"


Methods = Annotated[
    str,
    typer.Option(
        metavar="all|NAME,NAME,…",
        help="Methods to compare, see `flowleap methods list`; all: the eight rows of the published table.",
    ),
]
Data = Annotated[str, typer.Option(help="digits, two-moons, …: see `flowleap train --help`.")]
Budget = Annotated[
    str,
    typer.Option(
        help="What each run may spend on training, both phases of a method with a teacher together (half of the "
        "steps each): 400steps, 50kimg (thousand images), 90s, 3m or 1h. A time is turned into steps by "
        "measuring the steps of each method before the start."
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="A finished run that teaches every method with a teacher, which then spends the whole budget on itself.",
        show_default="each trains its own",
    ),
]
Seeds = Annotated[
    int,
    typer.Option(min=1, help="Runs of each method, with the seeds 0, 1, …. More may be asked for later."),
]
Out = Annotated[
    Path | None, typer.Option(help="The folder of the comparison.", show_default="runs/compare-DATA")
]
Alike = Annotated[
    Equal | None,
    typer.Option(
        help="What is equal for all runs: steps, flops (counted network evaluations) or time. If the budget has "
        "another unit, all get what flow matching, or the full method of an ablation, uses within it.",
        show_default="time for a time, else steps",
    ),
]
Steps = Annotated[str, typer.Option(metavar="N,N,…", help="Numbers of sampling steps to measure.")]
Num = Annotated[int, typer.Option(min=1, help="Samples behind each number.")]
Jobs = Annotated[
    int,
    typer.Option(min=1, help="Runs at the same time, each on its share of the cores; times are less exact."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads of each run.",
        show_default="OMP_NUM_THREADS, or as many as are fastest in a few trial steps, at most a share of the cores",
    ),
]
Network = Annotated[
    str | None,
    typer.Option(help="The network of all runs, as in `flowleap train`.", show_default="by the data"),
]
Batch = Annotated[int | None, typer.Option(min=1, help="Images per step.", show_default="by the data")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="[METHOD:]FIELD=VALUE",
        help="A setting of all runs, or of those of one method, as in `flowleap train`; repeatable.",
    ),
]


def compare(
    methods: Methods = "all",
    data: Data = "digits",
    budget: Budget = "3m",
    seeds: Seeds = 3,
    teacher: Teacher = None,
    out: Out = None,
    equal: Alike = None,
    steps_to_evaluate: Steps = "128,4,1",
    num: Num = 1000,
    jobs: Jobs = 1,
    threads: Threads = None,
    network: Network = None,
    batch: Batch = None,
    settings: Settings = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    imports: options.Imports = None,
) -> None:
    """Compare training objectives from the same initial weights, on the same data, with the same budget.

    Every method and seed is an ordinary run. Ctrl-C stops; the same command continues where it stopped, and
    asks nothing again when all is done. Leaves table.md, table.csv, table.json, samples.png and report.html.
    """
    options.import_all(imports)
    counts = options.numbers(steps_to_evaluate, "--steps-to-evaluate")

    from flowleap import studies

    request = studies.Request(
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        data=data,
        budget=budget.strip(),
        equal=None if equal is None else equal.value,
        seeds=seeds,
        steps=counts,
        num=num,
        network=network,
        batch=batch,
        device=device,
        settings=tuple(pairs(settings or [])),
        teacher=teacher,
    )
    carry_out(request, out or Path("runs") / f"compare-{data}", jobs, threads)


def carry_out(request: Request, out: Path, jobs: int, threads: int | None) -> None:
    """Make a study; a signal and a run that failed are told by the exit code.

    Raises: typer.Exit.
    """
    from flowleap import studies

    try:
        done = studies.compare(request, out, jobs=jobs, count=threads)
    except studies.Stopped as stopped:
        say(str(stopped))
        raise typer.Exit(SIGNALED + stopped.signal) from None
    if done.failed:
        raise typer.Exit(FAILED)
