"""flowleap methods: which there are, what they are made of, where two differ; all read off the values."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowleap.cli import options
from flowleap.cli.group import echo

if TYPE_CHECKING:
    from flowleap.objectives import Objective
    from flowleap.terminal import FittedTable

app = typer.Typer(
    no_args_is_help=True, help="List the methods, show what they are made of, and where two differ."
)

WORDS = {
    "path": "flow path",
    "parameterization": "network output",
    "times": "time law",
    "coupling": "noise coupling",
    "guidance": "guidance in training",
    "target": "target, r < t",
    "loss": "loss metric",
    "frozen": "target network",
    "batching": "batches",
    "label_dropout": "label dropout",
}
HEADINGS = ("name", "type", "steps")  # what names an objective, or belongs to a run


@app.command("list")
def list_methods(as_json: options.AsJson = False, imports: options.Imports = None) -> None:
    """List every method with what it is and where it comes from."""
    options.import_all(imports)
    from flowleap import methods

    rows: list[dict[str, Any]] = [
        {
            "name": hyphens(name),
            "summary": summary(name),
            "references": [
                {"key": paper.key, "title": paper.title, "year": paper.year, "eprint": paper.eprint}
                for paper in methods.citations(name)
            ],
        }
        for name in methods.names()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = new_table("method", "what it is")
    for row in rows:
        table.add(hyphens(row["name"]), row["summary"])
    show(table)


@app.command("show")
def show_methods(
    names: Annotated[
        list[str], typer.Argument(metavar="METHOD", help="One method, or several side by side.")
    ],
    as_json: options.AsJson = False,
    imports: options.Imports = None,
) -> None:
    """Show the components of methods side by side: every part is exchangeable on its own."""
    options.import_all(imports)
    plain = plain_values(names)
    if as_json:
        typer.echo(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    table = new_table("", *(hyphens(name) for name in plain))
    for label, cells in component_rows(plain):
        table.add(label, *cells)
    show(table)


@app.command("table")
def table_methods(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD]…", help="Methods, one column each.", show_default="all"),
    ] = None,
    as_json: options.AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print one Markdown table.")] = False,
    imports: options.Imports = None,
) -> None:
    """Show the design table: how each method fills the two-step template that all of them share.

    The one-step prediction from t to r is regressed onto a first step t → s and a second step s → r. Everything is
    read off the parts of the methods. Where the terminal is too narrow for all columns, they follow in blocks.
    """
    options.import_all(imports)
    from flowleap import methods

    asked = [canonical(name) for name in names or methods.names()]
    columns = {hyphens(name): design(methods.get(name)) for name in dict.fromkeys(asked)}
    if as_json:
        typer.echo(json.dumps(columns, indent=2, ensure_ascii=False))
    elif markdown:
        typer.echo(as_markdown(columns))
    else:
        table = new_table("", *columns)
        table.ruled = True
        for label in DESIGN:
            table.add(label, *(column[label] for column in columns.values()))
        show(table)


@app.command("diff")
def diff_methods(
    first: Annotated[str, typer.Argument(metavar="METHOD", help="One method.")],
    second: Annotated[str, typer.Argument(metavar="METHOD", help="Another.")],
    as_json: options.AsJson = False,
    imports: options.Imports = None,
) -> None:
    """Show only the components in which two methods differ."""
    options.import_all(imports)
    plain = plain_values([first, second])
    left, right = list(plain) if len(plain) == 2 else list(plain) * 2
    from flowleap import values

    found = [row for row in values.differences(plain[left], plain[right]) if row[0] not in HEADINGS]
    if as_json:
        rows = [{"field": field, left: a, right: b} for field, a, b in found]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not found:
        echo(f"{hyphens(left)} and {hyphens(right)} are the same")
        return
    table = new_table("field", hyphens(left), hyphens(right))
    for field, a, b in found:
        table.add(field, written(a), written(b))
    show(table)


DESIGN = (
    "model type",
    "flow path",
    "network output",
    "time law",
    "first step t → s",
    "second step s → r",
    "one-step prediction",
    "velocity",
    "loss metric",
    "weight",
    "target network",
    "noise coupling",
    "batches",
    "label dropout",
    "guidance in training",
    "sampler",
    "sampled from",
    "steps",
)
"""The rows of the design table."""
BLANK = "–"
MOST_STEPS = 128
"""The largest number of sampling steps that the design table asks a method about."""


def design(objective: Objective) -> dict[str, str]:
    """How a method fills the rows of the design table, in words read off its parts."""
    told = in_words(objective) | loss_in_words(objective.loss)
    told |= {
        "flow path": brief(objective.path, usual=False),
        "network output": brief(objective.parameterization, usual=False),
        "time law": brief(objective.times),
        "velocity": brief(objective.velocity),
        "target network": brief(objective.frozen),
        "noise coupling": brief(objective.coupling),
        "batches": brief(objective.batching),
        "label dropout": f"{objective.label_dropout:g}",
        "guidance in training": BLANK if objective.guidance is None else brief(objective.guidance),
    }
    told |= sampling_in_words(objective)
    return {label: told.get(label, BLANK) for label in DESIGN}


def sampling_in_words(objective: Objective) -> dict[str, str]:
    """The sampler of a method, the time its samples start at, and the numbers of steps that it gives no advice on."""
    start = objective.path.t_max if objective.start is None else objective.start
    counts = objective.trained or [n for n in range(1, MOST_STEPS + 1) if not objective.advice(n)]
    steps = ", ".join(map(str, counts))
    if objective.trained is None and MOST_STEPS in counts:
        steps = "any" if counts[0] == 1 else f"{counts[0]} or more"
    return {"sampler": objective.sampling.in_words(), "sampled from": f"t = {start:g}", "steps": steps}


def loss_in_words(loss: Any) -> dict[str, str]:
    """The metric and the weight of a loss by its `template`, around those of the loss inside it."""
    told = (
        loss_in_words(loss.inner) if hasattr(loss, "inner") else {"loss metric": spoken(loss), "weight": "1"}
    )
    template: dict[str, str] = getattr(loss, "template", {})
    return told | {name: text.format(**vars(loss) | told) for name, text in template.items()}


def brief(part: Any, usual: bool = True) -> str:
    """A part in one phrase: its type in words, its numbers (also `usual` ones, the defaults), and the parts inside it.

    >>> from flowleap.times import LogitNormal, SortedPair
    >>> brief(SortedPair(LogitNormal(mean=-0.4, std=1.0), diagonal=0.75))
    'sorted pair (diagonal 0.75, fixed) of logit normal (mean -0.4, std 1)'
    """
    held = {f.name: getattr(part, f.name) for f in fields(part)}
    inner = [brief(value) for value in held.values() if is_dataclass(value)]
    knobs = [knob(name, value) for name, value in held.items() if not is_dataclass(value)]
    if not usual:
        changed = (f.name for f in fields(part) if held[f.name] != f.default)
        knobs = [knob(name, held[name]) for name in changed if not is_dataclass(held[name])]
    said = ", ".join(text for text in knobs if text)
    return " of ".join([f"{spoken(part)} ({said})" if said else spoken(part), *inner])


def knob(name: str, value: Any) -> str:
    """A field and its value in a few characters; nothing where it is switched off or not set."""
    if value is None or value is False:
        return ""
    words = name.replace("_", " ")
    return words if value is True else f"{words} {scalar(value)}"


def as_markdown(columns: dict[str, dict[str, str]]) -> str:
    """The design table as Markdown."""
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[label, *(column[label] for column in columns.values())] for label in DESIGN]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def hyphens(name: str) -> str:
    """A method's name as the command line spells it."""
    return name.replace("_", "-")


def summary(name: str) -> str:
    """The first line of a method's docstring; a variant without a function borrows that of its method."""
    from flowleap import methods

    method, variant = name, ""
    while method and not methods.about(method):
        method, _, last = method.rpartition("_")
        variant = f"{last} {variant}".strip()
    lines = methods.about(method).strip().splitlines() if method else []
    text = lines[0] if lines else name
    return f"{text} Variant {variant}." if variant and method else text


def plain_values(names: list[str]) -> dict[str, dict[str, Any]]:
    """Methods as plain data, by their names.

    Raises: ValueError for an unknown method, naming its neighbors.
    """
    from flowleap import methods, values

    return {hyphens(canonical(name)): values.to_dict(methods.get(name)) for name in names}


def canonical(name: str) -> str:
    """A method's name as the library spells it."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def component_rows(plain: dict[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """One row for each field of the objectives, and the steps of their targets below those."""
    rows, tall = [], len(plain) > 2
    for field in next(iter(plain.values())):
        if field in HEADINGS:
            continue
        rows.append((WORDS.get(field, field), [written(values[field], tall) for values in plain.values()]))
        if field == "target":
            rows += template_rows(list(plain))
        if field == "sampling":
            rows += sampling_rows(list(plain))
    return rows


def template_rows(names: list[str]) -> list[tuple[str, list[str]]]:
    """What the targets tell of the two-step template, one row for each thing that any of them tells."""
    from flowleap import methods

    told = [in_words(methods.get(name)) for name in names]
    labels = dict.fromkeys(label for template in told for label in template)
    return [(f"  {label}", [template.get(label, "–") for template in told]) for label in labels]


def sampling_rows(names: list[str]) -> list[tuple[str, list[str]]]:
    """How methods are sampled, in words."""
    from flowleap import methods

    told = [sampling_in_words(methods.get(name)) for name in names]
    return [(f"  {label}", [words[label] for words in told]) for label in told[0]]


def in_words(objective: Objective) -> dict[str, str]:
    """What a target tells of itself: the first line of its docstring, and its steps where it has a `template`.

    A template maps names of steps to words, in which {velocity} and {output} stand for the objective's own.
    """
    doc = (type(objective.target).__doc__ or "").strip().splitlines()
    meaning = getattr(objective.parameterization, "inner", objective.parameterization)
    parts = {"velocity": spoken(objective.velocity), "output": spoken(meaning)}
    template: dict[str, str] = getattr(objective.target, "template", {})
    steps = {name: text.format(**parts) for name, text in template.items()}
    return {"in words": doc[0] if doc else "–"} | steps


def spoken(part: Any) -> str:
    """The type of a part as words: AverageVelocity is "average velocity", GridEMA "grid EMA", EDM stays."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", type(part).__name__)
    return " ".join(word if word.isupper() else word.lower() for word in name.split())


def written(value: Any, tall: bool = False) -> str:
    """A part in words: its type with its numbers, and the parts within it on lines of their own.

    A `tall` part has its numbers on lines of their own too, which keeps many columns narrow.
    """
    return "\n".join(lines_of(value, tall))


def lines_of(value: Any, tall: bool) -> list[str]:
    """The lines of a part, those of inner parts indented; numbers that are none are left out."""
    if not isinstance(value, dict):
        return [scalar(value)]
    inner = {key: item for key, item in value.items() if isinstance(item, dict)}
    knobs = [
        f"{key}={scalar(item)}"
        for key, item in value.items()
        if key != "type" and key not in inner and item is not None
    ]
    if tall or not knobs:
        lines = [value["type"], *(f"  {knob}" for knob in knobs)]
    else:
        lines = [f"{value['type']}({', '.join(knobs)})"]
    for key, item in inner.items():
        first, *rest = lines_of(item, tall)
        lines += [f"  {key}: {first}", *(f"  {line}" for line in rest)]
    return lines


def scalar(value: Any) -> str:
    """A plain value in a few characters."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return "(" + ", ".join(scalar(item) for item in value) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def new_table(*titles: str) -> FittedTable:
    """A table of words."""
    from flowleap.terminal import FittedTable

    return FittedTable(titles, text=range(len(titles)))


def show(table: FittedTable) -> None:
    """Print a table."""
    from flowleap.terminal import console

    console().print(table)
