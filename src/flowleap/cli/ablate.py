"""flowleap ablate: a method without its components, or with other values, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowleap.cli import compare, options

Method = Annotated[
    str, typer.Argument(metavar="[METHOD]", help="See `flowleap methods list`.", show_default="esc")
]
Drop = Annotated[
    str | None,
    typer.Option(
        metavar="all|NAME,NAME,…",
        help="Components: those of esc are plug-in, gradual-end, learned-weight and class-consistent.",
        show_default="all, without --over",
    ),
]
Over = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=VALUE,VALUE,…",
        help="A field and the values to try, as in --set, or the first word of a part; repeatable, for every "
        "combination. Not with --drop.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Where to write: the folder of the ablation.", show_default="runs/ablate-METHOD-DATA"),
]


def ablate(
    method: Method = "esc",
    drop: Drop = None,
    over: Over = None,
    data: options.Data = None,
    budget: compare.Budget = "3m",
    seeds: compare.Seeds = 3,
    teacher: options.Teacher = None,
    out: Out = None,
    equal: compare.Alike = None,
    show: compare.Show = "128,4,1",
    num: compare.Num = 1000,
    jobs: compare.Jobs = 1,
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
    settings: options.Settings = None,
    device: options.TrainingDevice = None,
    imports: options.Imports = None,
) -> None:
    """Take a method apart: train it whole, without each of its components, with each alone, and with none.

    With --over, train it at every combination of the values of some fields instead. All rows begin with the same
    weights and have the same budget; each is compared with the whole method, seed by seed. Otherwise as
    `flowleap compare`: Ctrl-C stops, the same command continues, and table.md, table.csv, table.json, samples.png
    and report.html are left.

    flowleap ablate esc --drop plug-in,gradual-end --data digits --seeds 3

    flowleap ablate meanflow --over path=linear,trigonometric --over times.diagonal=0.25,0.5,0.75
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
    from flowleap.studies.ablation import choices

    options.pairs(over or [], "--over")
    names = tuple(name.strip() for name in ("" if drop is None else drop).split(",") if name.strip())
    request = studies.Request(
        methods=(method.strip(),),
        data=compare.data_of(data, teacher),
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
        drop=names or (() if over else ("all",)),
        over=tuple(choices(text) for text in over or []),
    )
    name = request.names()[0]
    compare.carry_out(
        request, out or Path("runs") / f"ablate-{name}-{data_sets.short(request.data)}", jobs, threads
    )
