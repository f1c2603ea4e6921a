"""flowleap methods: list methods, show their components, and compare two."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import Argument, Option

from flowleap.cli import options
from flowleap.cli.group import echo, print_json, show

app = typer.Typer(
    no_args_is_help=True, help="List the methods, show their components, and compare two of them."
)


@app.command("list")
def list_methods(
    as_json: options.AsJson = False, quiet: options.Quiet = False, imports: options.Imports = None
) -> None:
    """List all methods with a summary; --json adds their references."""
    options.import_all(imports)
    from flowleap import design, methods
    from flowleap.tables import Table

    rows: list[dict[str, Any]] = [
        {
            "name": design.hyphens(name),
            "summary": design.summary(name),
            "references": [
                {"key": paper.key, "title": paper.title, "year": paper.year, "eprint": paper.eprint}
                for paper in methods.citations(name)
            ],
        }
        for name in methods.names()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table.of_words("method", "what it is")
    for row in rows:
        table.add(row["name"], row["summary"])
    show(table)


@app.command("show")
def show_methods(
    names: Annotated[list[str], Argument(metavar="METHOD", help="One method, or several side by side.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    imports: options.Imports = None,
) -> None:
    """Show the components of methods side by side; each can be exchanged with --set."""
    options.import_all(imports)
    from flowleap import design

    plain = design.plain(names)
    if as_json:
        print_json(plain)
    else:
        show(design.components(plain))


@app.command("table")
def table_methods(
    names: Annotated[
        list[str] | None,
        Argument(metavar="[METHOD]…", help="Methods, one column each.", show_default="all"),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    markdown: Annotated[bool, Option("--markdown", help="Print one Markdown table.")] = False,
    imports: options.Imports = None,
) -> None:
    """Show the design table: how each method fills the two-step template that all of them share.

    The one-step prediction from t to r is regressed onto a target of two steps, t → s and s → r. Columns that do not
    fit into the terminal follow below.
    """
    options.import_all(imports)
    from flowleap import design
    from flowleap.tables import Table

    columns = design.table(names)
    if as_json:
        print_json(columns)
        return
    table = Table.of_words("", *columns, ruled=True)
    for label in design.DESIGN:
        table.add(label, *(column[label] for column in columns.values()))
    if markdown:
        typer.echo(table.markdown(), nl=False)
    else:
        show(table)


@app.command("diff")
def diff_methods(
    first: Annotated[str, Argument(metavar="METHOD", help="One method.")],
    second: Annotated[str, Argument(metavar="METHOD", help="Another.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    imports: options.Imports = None,
) -> None:
    """Show only the components in which two methods differ."""
    options.import_all(imports)
    from flowleap import design, serialize
    from flowleap.tables import Table

    plain = design.plain([first, second])
    left, right = list(plain) if len(plain) == 2 else list(plain) * 2
    found = [row for row in serialize.differences(plain[left], plain[right]) if row[0] not in design.HEADINGS]
    if as_json:
        print_json([{"field": field, left: a, right: b} for field, a, b in found])
        return
    if not found:
        echo(f"{left} and {right} are the same")
        return
    table = Table.of_words("field", left, right)
    for field, a, b in found:
        table.add(field, design.written(a), design.written(b))
    show(table)
