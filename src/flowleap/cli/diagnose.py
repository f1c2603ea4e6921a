"""flowleap diagnose: find likely problems of a run, with the numbers behind them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from flowleap.cli import options
from flowleap.cli.group import say, show, waiting

if TYPE_CHECKING:
    from flowleap.evaluation.diagnosis import Diagnosis
    from flowleap.runs import Run

STYLES = {"problem": "bold red", "warning": "yellow", "note": "dim"}

Out = Annotated[
    Path | None,
    Option(
        help="Where to write: the folder for diagnosis.json and diagnosis.png; existing ones are replaced.",
        show_default="the run folder",
    ),
]
Seed = Annotated[int, Option(min=0, help="Seed of all random draws: rows, noise and times.")]


def diagnose(
    run: options.RunFolder,
    num: Annotated[
        int,
        Option(
            min=64, help="How many samples are in each probe; more take longer and give less noisy numbers."
        ),
    ] = 1024,
    seed: Seed = 0,
    out: Out = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    weights: options.Weights = "ema",
    device: options.Device = "auto",
    imports: options.Imports = None,
) -> None:
    """Find likely problems of a trained run, with their causes and what to do.

    Measures errors by time, the difference between one jump and two, derivatives, sensitivity to the inputs of the
    network, the diversity of samples, gradients, and the course of training. Repeating the command gives the same
    numbers.
    """
    options.import_all(imports)
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give --out a folder")

    from flowleap import pictures
    from flowleap.files import replace_file
    from flowleap.runs import diagnosing

    loaded = load(run, weights, device)
    dataset = diagnosing.data_of(loaded)
    with waiting(f"diagnosing with {num} rows"):
        found = diagnosing.diagnose(loaded, dataset, num=num, seed=seed)
    result = {"weights": loaded.weights, "step": loaded.step, "steps": loaded.length, **found.to_dict()}
    text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False)
    folder = run if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "diagnosis.json", text + "\n")
    pictures.panels(found.panels(), folder / "diagnosis.png", xlabel="t", log=loaded.flow.path.t_max > 1)
    if as_json:
        typer.echo(text)
    else:
        tell(found, f"{loaded.weights} of {loaded.length} steps", folder)


def load(run: Path, weights: str, device: str) -> Run:
    """Load the run.

    Raises: FileNotFoundError for a folder without a run, or a run without saved weights.
    """
    from flowleap import runs

    try:
        return runs.load_run(run, weights=weights, device=options.device(device))
    except FileNotFoundError as error:
        if not (run / "config.json").is_file() or weights == "best":
            raise
        command = f"flowleap train --resume --out {shlex.quote(str(run))}"
        raise FileNotFoundError(f"{error}; train it further with: {command}") from error


def tell(found: Diagnosis, weights: str, folder: Path) -> None:
    """Print the findings, then the numbers behind them."""
    from flowleap.evaluation.diagnosis import words
    from flowleap.terminal import console, print_line

    screen = console()
    print_line(screen, f"{found.method} on {found.data}, {weights}")
    for finding in found.findings:
        print_line(screen, "")
        print_line(screen, f"{finding.severity}: {finding.title}", style=STYLES[finding.severity])
        print_line(screen, finding.text)
    print_line(screen, "")
    show(words.table(found), *words.lines(found))
    say(f"written: {folder / 'diagnosis.json'}, {folder / 'diagnosis.png'}")
