"""The command line, a file for each command; no other module imports it."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from flowleap.cli import (
    ablate,
    cite,
    compare,
    data,
    diagnose,
    ema,
    evaluate,
    export,
    importing,
    methods,
    recipes,
    report,
    sample,
    train,
)
from flowleap.cli.app import app as show_app
from flowleap.cli.group import OneLine
from flowleap.threads import bound_spinning

__all__ = ["app", "main"]

app = typer.Typer(
    name="flowleap",
    cls=OneLine,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"flowleap {version('flowleap')}")
        raise typer.Exit()


@app.callback()
def common(
    version: Annotated[
        bool,
        Option("--version", callback=show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Train one-step image generators from scratch, sample from them, and measure them.

    Exit codes: 0 done; 1 training diverged, a run of a study failed, or `data check --strict` found problems; 2 wrong
    options, settings or files; 128 + N interrupted by signal N, so 130 after Ctrl-C. Results are printed on standard
    output, notes, progress and errors on standard error; NO_COLOR=1 leaves out colors.
    """


app.command("train")(train.train)
app.command("recipes")(recipes.recipes)
app.command("sample")(sample.sample)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("ablate")(ablate.ablate)
app.command("ema")(ema.ema)
app.command("report")(report.report)
app.command("diagnose")(diagnose.diagnose)
app.command("app")(show_app)
app.command("import")(importing.import_)
app.add_typer(export.app, name="export")
app.add_typer(data.app, name="data")
app.add_typer(methods.app, name="methods")
app.command("cite")(cite.cite)


def main() -> None:
    """Run the command line; an error of the user is one line on standard error and exit code 2."""
    bound_spinning()
    app()
