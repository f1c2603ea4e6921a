"""flowleap ablate: a method without its components, or with other values, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowleap.cli import compare, options
from flowleap.cli.train import pairs

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
    Path | None, typer.Option(help="The folder of the ablation.", show_default="runs/ablate-METHOD-DATA")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="A setting of all runs, as in `flowleap train`; repeatable."
    ),
]


def ablate(
    method: Method = "esc",
    drop: Drop = None,
    over: Over = None,
    data: compare.Data = "digits",
    budget: compare.Budget = "3m",
    seeds: compare.Seeds = 3,
    teacher: compare.Teacher = None,
    out: Out = None,
    equal: compare.Alike = None,
    steps_to_evaluate: compare.Steps = "128,4,1",
    num: compare.Num = 1000,
    jobs: compare.Jobs = 1,
    threads: compare.Threads = None,
    network: compare.Network = None,
    batch: compare.Batch = None,
    settings: Settings = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    imports: options.Imports = None,
) -> None:
    """Take a method apart: train it whole, without each of its components, with each alone, and with none.

    With --over, train it at every combination of the values of some fields instead. All rows begin with the same
    weights and have the same budget; each is held against the whole method, seed by seed. Otherwise as
    `flowleap compare`: Ctrl-C stops, the same command continues, and table.md, table.csv, table.json, samples.png
    and report.html are left.

    flowleap ablate esc --drop plug-in,gradual-end --data digits --seeds 3

    flowleap ablate meanflow --over path=linear,trigonometric --over times.diagonal=0.25,0.5,0.75
    """
    options.import_all(imports)
    counts = options.numbers(steps_to_evaluate, "--steps-to-evaluate")

    from flowleap import studies
    from flowleap.studies.ablation import choices

    pairs(over or [], "--over")
    names = tuple(name.strip() for name in ("" if drop is None else drop).split(",") if name.strip())
    request = studies.Request(
        methods=(method.strip(),),
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
        drop=names or (() if over else ("all",)),
        over=tuple(choices(text) for text in over or []),
    )
    name = request.names()[0]
    compare.carry_out(request, out or Path("runs") / f"ablate-{name}-{data}", jobs, threads)
