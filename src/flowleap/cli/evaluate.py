"""flowleap evaluate: quality and time of a run, by number of network evaluations."""

from __future__ import annotations

import json
from typing import Annotated, Any

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
    else:
        show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Print measured rows as a table, with the numbers real data would score and the protocol below it."""
    from rich.console import Console
    from rich.table import Table

    first, console = rows[0], Console()
    table = Table("evaluations", f"FD-{first['features']}", "class agreement", "nearest ratio", "seconds")
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        table.add_row(
            str(row["nfe"]),
            text(row["distance"], ".3f"),
            text(row["agreement"], ".3f"),
            text(row["nearest_ratio"], ".2f"),
            text(row["seconds"], ".2f"),
        )
    table.add_row(
        "real data", text(first["floor"], ".3f"), text(first["judge"], ".3f"), "1.00", "", style="dim"
    )
    console.print(table)
    for line in footnotes(rows):
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def text(value: float | None, form: str) -> str:
    """A number in a form, or a dash where nothing was measured."""
    return "–" if value is None else format(value, form)


def footnotes(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader of the table needs: how real data is measured, what a small ratio means, the protocol."""
    from flowleap.evaluation import MEMORIZED

    lines = ["real data: its two halves against each other, and its unseen part before the classifier"]
    ratios = [row["nearest_ratio"] for row in rows if row["nearest_ratio"] is not None]
    if ratios and min(ratios) < MEMORIZED:
        lines.append(f"warning: nearest ratio below {MEMORIZED}: closer to the training data than real data.")
    return [*lines, f"protocol: {rows[0]['protocol']}"]
