"""flowleap ema: make a weight average (EMA) of any width after training."""

from __future__ import annotations

import shlex
from typing import Annotated

from typer import Option

from flowleap.cli import options
from flowleap.cli.group import echo, waiting

Width = Annotated[
    float,
    Option(
        "--width",
        help="Width of the average: the standard deviation of its weights over the steps, as a fraction of the run; "
        "0.05 and 0.1 are usual.",
    ),
]
Step = Annotated[
    int | None,
    Option(help="The step to end at, one at which averages were stored.", show_default="the last"),
]


def ema(run: options.RunFolder, width: Width, step: Step = None, imports: options.Imports = None) -> None:
    """Make a weight average (EMA) of any width after training.

    The run must have stored averages during training: `flowleap train … --set optimizer.widths=0.05,0.1`, every
    `optimizer.width_every` steps. The average is written into the run folder; use it with --weights width-WIDTH in
    `flowleap sample` and `flowleap evaluate`.

    This is the post-hoc EMA of Karras et al. 2023 (arXiv 2312.02696).
    """
    options.import_all(imports)
    from flowleap import runs

    with waiting(f"averaging weights, width {width:g}"):
        path = runs.write_average(run, width, step)
    name = shlex.quote(str(run))
    echo(f"{path}; use it with: flowleap sample {name} --weights {path.stem}")
