"""flowleap diagnose: what seems wrong with a run, in sentences and in numbers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowleap.cli import options
from flowleap.cli.group import say, waiting

if TYPE_CHECKING:
    from flowleap.data import Dataset
    from flowleap.evaluation.diagnostics import Curve, Diagnosis
    from flowleap.evaluation.run_findings import RunFacts
    from flowleap.runs import Run
    from flowleap.terminal import FittedTable

STYLES = {"problem": "bold red", "warning": "yellow", "note": "dim"}

Out = Annotated[
    Path | None,
    typer.Option(
        help="Where to write: the folder for diagnosis.json and diagnosis.png, replaced where they are.",
        show_default="the run folder",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random draws: rows, noise and times.")]


def diagnose(
    run: options.RunFolder,
    num: Annotated[
        int,
        typer.Option(min=64, help="How many samples are in each probe; more take longer and scatter less."),
    ] = 1024,
    seed: Seed = 0,
    out: Out = None,
    as_json: options.AsJson = False,
    weights: options.WeightsOption = options.Weights.ema,
    device: options.Device = "auto",
    imports: options.Imports = None,
) -> None:
    """Say what seems wrong with a trained run, its likely causes and what to do.

    Errors by time, agreement of one jump with two, derivatives, sensitivity to the inputs of the network, the
    variety of samples, gradients, and the course of training. The same command twice gives the same numbers.
    """
    options.import_all(imports)
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give --out a folder")

    from flowleap import pictures
    from flowleap.evaluation import diagnostics
    from flowleap.files import replace_file

    loaded = load(run, weights.value, device)
    dataset = data_of(loaded)
    with waiting(f"diagnosing with {num} rows"):
        found = diagnostics.diagnose(
            loaded.flow,
            loaded.objective,
            dataset,
            seed=seed,
            num=num,
            batch=loaded.config.batch,
            metrics=metrics(run, loaded.step),
            run=facts(loaded, dataset),
        )
    result = {"weights": loaded.weights, "step": loaded.step, "steps": loaded.length, **found.to_dict()}
    text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False)
    folder = run if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "diagnosis.json", text + "\n")
    pictures.panels(found.panels(), folder / "diagnosis.png", xlabel="t", log=loaded.flow.path.t_max > 1)
    if as_json:
        typer.echo(text)
        return
    tell(found, f"{loaded.weights} of {loaded.length} steps", folder)


def load(run: Path, weights: str, device: str) -> Run:
    """Read the run back.

    Raises: FileNotFoundError for a folder that holds no run, or a run that has saved no weights yet.
    """
    from flowleap import runs

    try:
        return runs.load_run(run, weights=weights, device=options.device(device))
    except FileNotFoundError as error:
        if not (run / "config.json").is_file() or weights == "best":
            raise
        command = f"flowleap train --resume --out {shlex.quote(str(run))}"
        raise FileNotFoundError(f"{error}; train it further with: {command}") from error


def data_of(loaded: Run) -> Dataset:
    """Load the data of the run.

    Raises: ValueError where the data was given as tensors, and cannot be loaded by its name.
    """
    name, python = (
        loaded.config.data,
        "flowleap.evaluation.diagnostics.diagnose(run.flow, run.objective, dataset)",
    )
    try:
        dataset = loaded.dataset()
    except ValueError as error:
        if loaded.imported is not None:
            raise
        raise ValueError(
            f"{loaded.folder} was trained on data of the name {name!r}, which cannot be loaded ({error}). Data given "
            f"as tensors are diagnosed from Python: {python}"
        ) from error
    if dataset.shape != loaded.shape:
        raise ValueError(
            f"{loaded.folder} was trained on samples of shape {loaded.shape}, but those of {name!r} are "
            f"{dataset.shape}: it was given tensors. Diagnose it from Python: {python}"
        )
    return dataset


def metrics(run: Path, step: int) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl up to a step, without a last line that was cut off."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict) and row.get("step", 0) <= step]


def facts(loaded: Run, dataset: Dataset) -> RunFacts:
    """The length of the training of a run, and its quality table where it has one."""
    from flowleap.evaluation.run_findings import run_facts

    path = loaded.folder / "table.json"
    trained = loaded.imported is None
    return run_facts(
        loaded.objective,
        dataset,
        batch=loaded.config.batch,
        steps=loaded.step if trained else None,
        planned=loaded.length if trained else None,
        classes=loaded.num_classes,
        table=json.loads(path.read_text(encoding="utf-8")) if path.is_file() else (),
        weights=loaded.weights,
    )


def tell(found: Diagnosis, weights: str, folder: Path) -> None:
    """Print the findings, then the numbers behind them."""
    from flowleap.terminal import console, print_line

    screen = console()
    print_line(screen, f"{found.method} on {found.data}, {weights}")
    for finding in found.findings:
        print_line(screen, "")
        print_line(screen, f"{finding.severity}: {finding.title}", style=STYLES[finding.severity])
        print_line(screen, finding.text)
    print_line(screen, "")
    screen.print(by_time(found))
    for line in lines(found):
        print_line(screen, line, style="dim")
    say(f"written: {folder / 'diagnosis.json'}, {folder / 'diagnosis.png'}")


def by_time(found: Diagnosis) -> FittedTable:
    """The probes that go by departure time."""
    from flowleap.terminal import FittedTable

    columns: dict[str, Curve | None] = {
        "error r=t": found.error.diagonal,
        "error r<t": found.error.jumps,
        "2 jumps": found.semigroup.by_time,
        "to data": found.semigroup.to_data,
        "‖du/dt‖": found.tangent.relative,
    }
    shown = {title: curve for title, curve in columns.items() if curve is not None}
    table = FittedTable(["t", *shown], text=())
    edges = found.error.diagonal.edges
    for row in range(len(edges) - 1):
        cells = [cell(curve, row, title.startswith("error")) for title, curve in shown.items()]
        table.add(f"{edges[row]:.3g}–{edges[row + 1]:.3g}", *cells)
    return table


def cell(curve: Curve, row: int, with_error: bool) -> str:
    """A number of a curve, with its standard error."""
    value, error = curve.value[row], curve.error[row]
    if value is None:
        return "–"
    return f"{value:.3g}±{error:.1g}" if with_error and error is not None else f"{value:.3g}"


def lines(found: Diagnosis) -> list[str]:
    """The other probes, a line each."""
    s, g, e = found.sensitivity, found.gradient, found.semigroup
    within = "" if s.label is None else " within a class"
    told = [
        "error: unweighted, ± standard error. 2 jumps: distance between one jump and two, relative to its length, to a "
        "random time and to the data. ‖du/dt‖: relative to ‖u‖",
        f"two jumps against one: {share(e.short)} apart over short spans, {share(e.long)} over long ones",
        f"change of the output with another t {share(s.time)}, another r {share(s.landing)}, "
        f"another label {share(s.label)}",
        *(
            f"samples of {one.steps} step{'s' * (one.steps > 1)}: {share(one.spread)} of the variance of the data"
            f"{within}, {share(one.diversity)} of its directions"
            for one in found.spread
        ),
        f"du/dt by {found.tangent.strategy}; it differs from a central difference by {share(found.tangent.gap)}",
    ]
    if g is not None and g.mean is not None:
        told.append(f"gradient norm {g.mean:.3g}, {share(g.spread)} from batch to batch")
    return told


def share(value: float | None) -> str:
    """A number as a percentage with two digits, or a dash."""
    return "–" if value is None else f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"
