"""flowleap report: one HTML file that compares runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from flowleap.cli import options
from flowleap.cli.group import echo, print_json, waiting
from flowleap.formatting import plural

Runs = Annotated[list[Path], Argument(metavar="RUN…", help="Run folders that `flowleap train` wrote.")]
Out = Annotated[
    Path | None,
    Option(
        metavar="FILE.html",
        help="Where to write: the file.",
        show_default="report.html in the run folder; for several runs in the folder that holds them",
    ),
]


def report(
    run: Runs,
    out: Out = None,
    title: Annotated[str | None, Option(help="The title.", show_default="names the runs")] = None,
    steps: options.Counts = None,
    num: Annotated[
        int | None,
        Option(min=0, help="How many samples are shown; 0 for none.", show_default="20; 1500 points"),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    weights: options.Weights = "ema",
    vae: options.Vae = None,
    device: options.Device = "auto",
    imports: options.Imports = None,
) -> None:
    """Write an HTML file that shows runs side by side.

    It has a table with confidence intervals, quality against network evaluations and seconds, samples from the same
    noise, nearest training images, training curves, the diagnosis and the settings. It is self-contained and works
    offline.
    """
    options.import_all(imports)
    budgets = options.numbers(steps or options.BUDGETS, "--steps")

    from flowleap import reports

    path = reports.write(
        run,
        out,
        title,
        overwrite=overwrite,
        steps=budgets,
        num=num,
        weights=weights,
        device=options.device(device),
        vae=vae,
        waiting=waiting,
    )
    if as_json:
        print_json({"file": str(path), "runs": [str(one) for one in run], "bytes": path.stat().st_size})
        return
    echo(f"{path}: report of {plural(len(run), 'run')}, {path.stat().st_size / 1e6:.2f} MB")
