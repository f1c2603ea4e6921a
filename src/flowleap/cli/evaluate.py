"""flowleap evaluate: quality and time of a run, by number of network evaluations."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from flowleap.cli import options
from flowleap.cli.group import waiting

BUDGETS = "1,2,4,128"


def evaluate(
    run: options.RunFolder,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="Numbers of network steps to measure, each 1 or more.",
            show_default=BUDGETS,
        ),
    ] = None,
    times: options.Times = None,
    num: Annotated[int, typer.Option(min=1, help="Samples for each number; 1000 is the protocol's.")] = 1000,
    seed: options.Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list on standard output, and nothing else.")
    ] = False,
    weights: options.WeightsOption = options.Weights.ema,
    guidance: options.Guidance = None,
    batch: options.BatchSize = 250,
    device: options.Device = "auto",
) -> None:
    """Measure a trained run against the real data.

    Fréchet distance, class agreement, distance to the nearest training sample, and seconds. The same command
    twice gives the same numbers.
    """
    if steps is not None and times is not None:
        raise typer.BadParameter("give --steps or --times, not both", param_hint="--times")
    budgets = f"{steps or BUDGETS} steps" if times is None else f"the times {times}"
    counts, grid = options.numbers(steps or BUDGETS, "--steps"), options.instants(times)

    from flowleap import evaluation, runs

    loaded = runs.load_run(run, weights=weights.value, device=options.device(device))
    with waiting(f"measuring {num} samples at {budgets}"):
        rows = evaluation.evaluate(
            loaded.flow,
            loaded.objective,
            loaded.dataset(),
            steps=counts,
            num=num,
            seed=seed,
            batch=batch,
            times=grid,
            guidance=guidance,
            weights=loaded.weights,
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
        return
    from rich.console import Console

    console = Console()
    console.print(evaluation.report.table(rows))
    for line in evaluation.report.notes(rows):
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
