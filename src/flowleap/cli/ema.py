"""flowleap ema: a running average of the weights whose width is chosen after training."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from flowleap.cli import options
from flowleap.cli.group import echo, waiting

Width = Annotated[
    float,
    typer.Option(
        "--width",
        help="How wide the average is: the standard deviation of the steps it averages over, as a fraction of the run; "
        "0.05 and 0.1 are usual.",
    ),
]
Step = Annotated[
    int | None,
    typer.Option(help="A step at which averages were stored.", show_default="the last"),
]


def ema(run: options.RunFolder, width: Width, step: Step = None, imports: options.Imports = None) -> None:
    """Make an average of the weights of any width, after training.

    The run must have stored averages on its way: `flowleap train … --set widths=0.05,0.1`, every `width_every` steps.
    The average is written into the run folder; `flowleap sample` and `flowleap evaluate` take it by
    --weights width-WIDTH.
    """
    options.import_all(imports)
    from flowleap import runs

    with waiting(f"averaging weights, width {width:g}"):
        path = runs.write_average(run, width, step)
    name = shlex.quote(str(run))
    echo(f"{path}; use it with: flowleap sample {name} --weights {path.stem}")
