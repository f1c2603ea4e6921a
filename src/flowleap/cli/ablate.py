"""flowleap ablate: train a method without its components, or with other values, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from flowleap.cli import compare, options

Method = Annotated[str, Argument(metavar="[METHOD]", help="See `flowleap methods list`.", show_default="esc")]
Drop = Annotated[
    str | None,
    Option(
        metavar="all|NAME,NAME,…",
        help="Components to remove: those of esc are plug-in, gradual-end, learned-weight and class-consistent.",
        show_default="all, without --over",
    ),
]
Over = Annotated[
    list[str] | None,
    Option(
        metavar="FIELD=VALUE,VALUE,…",
        help="A setting, as in --set, and the values to try; repeatable, for all combinations. A component may be "
        "named by its first word. Not with --drop.",
    ),
]
Out = Annotated[
    Path | None,
    Option(help="Where to write: the folder of the ablation.", show_default="runs/ablate-METHOD-DATA"),
]


@options.grouped
def ablate(
    method: Method = "esc",
    *,
    drop: Drop = None,
    over: Over = None,
    study: compare.Study,
    out: Out = None,
    settings: options.Settings = None,
) -> None:
    """Ablate a method: train it complete, without each of its components, with each alone, and without any.

    With --over, train it with every combination of the values of some settings instead. All runs have the same initial
    weights and the same budget; each is compared with the complete method, seed by seed. Ctrl-C stops, and the same
    command continues. Writes table.md, table.csv, table.json, samples.png and report.html, as `flowleap compare`.
    """
    from flowleap.studies.ablation import choices

    options.pairs(over or [], "--over")
    names = tuple(name.strip() for name in (drop or "").split(",") if name.strip())
    study.carry_out(
        settings,
        out,
        methods=(method.strip(),),
        drop=names or (() if over else ("all",)),
        over=tuple(choices(text) for text in over or []),
    )
