"""flowleap compare: training objectives on equal terms, in one table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowleap.cli import options
from flowleap.cli.group import say

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
Budget = Annotated[
    str,
    typer.Option(
        help="What each run may spend on training, both phases of a method with a teacher together (half of the "
        "steps each): 400steps, 50kimg (thousand images), 90s, 3m or 1h. A time is turned into steps by "
        "measuring the steps of each method before the start."
    ),
]
Seeds = Annotated[
    int,
    typer.Option(min=1, help="Runs of each method, with the seeds 0, 1, …. More may be asked for later."),
]
Alike = Annotated[
    Equal | None,
    typer.Option(
        help="What is equal for all runs: steps, flops (counted network evaluations) or time. If the budget has "
        "another unit, all get what flow matching, or the full method of an ablation, uses within it.",
        show_default="time for a time, else steps",
    ),
]
Jobs = Annotated[
    int,
    typer.Option(min=1, help="Runs at the same time, each on its share of the cores; times are less exact."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Where to write: the folder of the comparison.", show_default="runs/compare-DATA"),
]
Num = Annotated[int, typer.Option(min=1, help="How many samples are behind each number.")]
Show = Annotated[
    str, typer.Option(metavar="N,N,…", help="Numbers of sampling steps of the final pictures and table.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="[METHOD:]FIELD=VALUE",
        help="Any other setting of all runs, or of those of one method, as in `flowleap train`; repeatable.",
    ),
]


def compare(
    methods: Methods = "all",
    data: options.Data = None,
    budget: Budget = "3m",
    seeds: Seeds = 3,
    teacher: options.Teacher = None,
    out: Out = None,
    equal: Alike = None,
    show: Show = "128,4,1",
    num: Num = 1000,
    jobs: Jobs = 1,
    threads: options.TrainingThreads = None,
    network: options.Network = None,
    batch: options.Batch = None,
    lr: options.Lr = None,
    square: options.SquarePolicy = None,
    size: options.Size = None,
    flip: options.Flip = None,
    strict: options.Strict = None,
    workers: options.Workers = None,
    precision: options.Precision = None,
    settings: Settings = None,
    device: options.TrainingDevice = None,
    imports: options.Imports = None,
) -> None:
    """Compare training objectives from the same initial weights, on the same data, with the same budget.

    Every method and seed is an ordinary run. Ctrl-C stops; the same command continues where it stopped, and
    asks nothing again when all is done. Leaves table.md, table.csv, table.json, samples.png and report.html.
    """
    options.import_all(imports)
    counts = options.numbers(show, "--show")
    chosen = options.as_settings(
        settings,
        lr=lr,
        square=square,
        size=size,
        flip=flip,
        strict=strict,
        workers=workers,
        precision=precision,
    )

    from flowleap import data as data_sets
    from flowleap import studies

    request = studies.Request(
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        data=data_of(data, teacher),
        budget=budget.strip(),
        equal=None if equal is None else equal.value,
        seeds=seeds,
        steps=counts,
        num=num,
        network=network,
        batch=batch,
        device=device or "auto",
        settings=chosen,
        teacher=None if teacher is None else str(teacher),
    )
    carry_out(request, out or Path("runs") / f"compare-{data_sets.short(request.data)}", jobs, threads)


def data_of(data: str | None, teacher: Path | None) -> str:
    """Return the data of a study: those named, those of the teacher that was given, or digits."""
    if data is not None or teacher is None:
        return data or "digits"
    from flowleap import runs

    return runs.read_config(teacher).data or "digits"


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
