"""flowleap recipes: published settings and their results; `flowleap train --recipe NAME` uses them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from flowleap.cli import options
from flowleap.cli.group import print_json, show
from flowleap.tables import Table

if TYPE_CHECKING:
    from flowleap.runs.recipes import Recipe

Name = Annotated[str | None, Argument(metavar="[RECIPE]", help="Show all settings of this recipe.")]
LIST = "list"
"""The value of --recipe that lists all."""


def recipes(name: Name = None, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """List the recipes of `flowleap train --recipe NAME`, or show one with its settings and published results."""
    from flowleap.runs import recipes as known

    chosen = [known.get(name)] if name else [known.get(one) for one in known.names()]
    if as_json:
        content = [described(recipe) for recipe in chosen]
        print_json(content[0] if name else content)
    elif name:
        show_one(chosen[0])
    else:
        table = Table(["recipe", "what it is", "steps × batch", "published", "here"], text=(0, 1, 3, 4))
        for recipe in chosen:
            length = f"{recipe.steps:,} × {recipe.batch}"
            table.add(recipe.name, recipe.title, length, headline(recipe), recipe.measured)
        show(table)


def headline(recipe: Recipe) -> str:
    """The published result in a few words."""
    if not recipe.numbers:
        return "–"
    kinds = [number.what.split(", ")[1].partition(" ") for number in recipe.numbers]
    if len(kinds) == 3 and all(rest.startswith("step") for *_, rest in kinds):
        shown = " / ".join(f"{number.value:g}" for number in recipe.numbers)
        return f"{shown} at {' / '.join(count for count, *_ in kinds)} steps"
    return f"{recipe.numbers[0].value:g}, {recipe.numbers[0].what}"


def described(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON-able values, its objective as changes to its method."""
    content = {name: value for name, value in asdict(recipe).items() if name != "objective"}
    return {**content, "changes": changes(recipe), "options": dict(recipe.options)}


def changes(recipe: Recipe) -> list[str]:
    """Return the changes that a recipe makes to its method, in words."""
    from flowleap import runs

    return runs.changes(runs.configure(recipe=recipe.name))


def show_one(recipe: Recipe) -> None:
    """Print all about a recipe."""
    table = Table.of_words(recipe.name, recipe.title)
    classes = f"{recipe.classes} classes" if recipe.classes else "no classes"
    rows = {
        "data": f"{recipe.data}; {recipe.kind} of {' × '.join(map(str, recipe.shape))}, {classes}",
        "method": "; ".join([recipe.method.replace("_", "-"), *changes(recipe)]),
        "network": " ".join([recipe.network, *(f"{name}={value}" for name, value in recipe.options.items())]),
        "training": f"{recipe.steps:,} steps of {recipe.batch}, {recipe.precision}",
        "optimizer": f"Adam, lr {recipe.lr:g}, betas {recipe.betas}, weight decay {recipe.weight_decay:g}"
        + ("" if recipe.muon is None else f", Muon for the matrices of blocks, {recipe.muon:g} × lr")
        + f", clipped at {recipe.clip}, warm-up {recipe.warmup:g} and decay {recipe.decay:g} of the run",
        "averages": ", ".join(f"{decay:g}" for decay in recipe.ema),
        "published": "\n".join(f"{n.value:g}: {n.what} ({n.source})" for n in recipe.numbers) or "–",
        "settings from": recipe.source,
        "hardware": recipe.hardware,
        "notes": "\n".join(recipe.notes),
        "here": recipe.measured,
        "command": f"flowleap train --recipe {recipe.name}"
        + (" --data PATH" if recipe.dataset is None else ""),
    }
    for label, text in rows.items():
        if text:
            table.add(label, text)
    show(table)
