"""Measured rows for the eye: the same table in a terminal and in Markdown, and what a reader of it needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["markdown", "notes", "table"]

MEMORIZED = 0.8
"""A nearest-neighbor ratio below this smells of copied training data."""
COLUMNS = {
    "nfe": ("evaluations", "d"),
    "distance": ("FD-{features}", ".3f"),
    "agreement": ("class agreement", ".3f"),
    "nearest_ratio": ("nearest ratio", ".2f"),
    "seconds": ("seconds", ".2f"),
}


def cells(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the formatted lines, real data last, of the columns that hold anything."""
    first = rows[0]
    real = {"nfe": None, "distance": first["floor"], "agreement": first["judge"], "nearest_ratio": 1.0}
    columns = {name: column for name, column in COLUMNS.items() if any(row[name] is not None for row in rows)}
    lines = [
        ["–" if row.get(name) is None else format(row[name], form) for name, (_, form) in columns.items()]
        for row in (*rows, real)
    ]
    lines[-1][0] = "real data"
    return [title.format(**first) for title, _ in columns.values()], lines


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table for a terminal."""
    from rich.table import Table

    titles, lines = cells(rows)
    drawn = Table()
    for title in titles:
        drawn.add_column(title, justify="right")
    for line in lines:
        drawn.add_row(*line, style="dim" if line is lines[-1] else None)
    return drawn


def markdown(rows: Sequence[dict[str, Any]], remarks: Sequence[str]) -> str:
    """Return the table and remarks below it as Markdown."""
    titles, lines = cells(rows)
    head = [titles, ["---:"] * len(titles)]
    drawn = ["| " + " | ".join(line) + " |" for line in [*head, *lines]]
    return "\n".join([*drawn, "", *(f"- {remark}" for remark in remarks)]) + "\n"


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return how real data is measured, a warning where samples are too near to it, and the protocol."""
    found = ["real data: its two halves against each other, and its unseen part before the classifier"]
    ratios = [row["nearest_ratio"] for row in rows if row["nearest_ratio"] is not None]
    if ratios and min(ratios) < MEMORIZED:
        found.append(f"warning: nearest ratio below {MEMORIZED}: closer to the training data than real data")
    return [*found, f"protocol: {rows[0]['protocol']}"]
