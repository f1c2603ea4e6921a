"""Measured rows for the eye: the same table in a terminal and in Markdown, and what a reader of it needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowleap.evaluation.numbers import CERTAIN
from flowleap.evaluation.protocol import same
from flowleap.terminal import FittedTable

__all__ = ["COLUMNS", "cells", "markdown", "notes", "table"]

MEMORIZED = 0.8
"""A memorization ratio below this suggests copied training data."""
COPIED = 0.1
"""A share of samples nearer to a real row than 99 % of real rows are to another that is worth a warning."""
Row = Mapping[str, Any]


def number(name: str, form: str) -> Callable[[Row], str]:
    """Return what writes one number of a row, – where there is none."""
    return lambda row: "–" if row.get(name) is None else format(row[name], form)


def budget(row: Row) -> str:
    """Return how many evaluations a row spent; samples that were there already have their name instead."""
    return str(row["weights"] if row.get("nfe") is None else row["nfe"])


def ranged(row: Row) -> str:
    """Return the distance with its interval, 0.302 (0.28–0.33)."""
    interval = row.get("interval")
    small = 0 < abs(row.get("distance") or 0) < 0.005  # three places would leave nothing of it
    text = number("distance", ".2g" if small else ".3f")(row)
    return text if interval is None else f"{text} ({interval[0]:.2f}–{interval[1]:.2f})"


def erring(row: Row) -> str:
    """Return the kernel distance with its standard error, in thousandths."""
    if row.get("kernel_distance") is None:
        return "–"
    return f"{1e3 * row['kernel_distance']:.1f} ± {1e3 * row['kernel_error']:.1f}"


def pair(first: str, second: str) -> Callable[[Row], str]:
    """Return what writes two shares of a row, 0.91/0.88."""
    return lambda row: "–" if row.get(first) is None else f"{row[first]:.2f}/{row[second]:.2f}"


COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "nfe": ("NFE", budget),
    "distance": ("{metric}", ranged),
    "kernel_distance": ("10³ {kernel_metric}", erring),
    "score": ("{score_metric}", number("score", ".2f")),
    "agreement": ("label accuracy", number("agreement", ".3f")),
    "precision": ("precision/ recall", pair("precision", "recall")),
    "density": ("density/ coverage", pair("density", "coverage")),
    "sliced_wasserstein": ("sliced W2", number("sliced_wasserstein", ".4f")),
    "wasserstein2": ("W2", number("wasserstein2", ".4f")),
    "nearest_ratio": ("memorization ratio", number("nearest_ratio", ".2f")),
    "copies": ("copies", number("copies", ".3f")),
    "seconds": ("seconds", number("seconds", ".2f")),
}
"""Every column: its title, which may name the features, and how a row fills it."""
NARROW = (
    "nfe",
    "distance",
    "kernel_distance",
    "agreement",
    "precision",
    "wasserstein2",
    "nearest_ratio",
    "seconds",
)
"""The columns that a terminal is shown; files hold all."""


def cells(rows: Sequence[Row], names: Sequence[str] = tuple(COLUMNS)) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the formatted lines, real data last, of the columns that hold anything.

    Raises: ValueError where the rows were measured by different protocols.
    """
    same(rows)
    first = rows[0]
    real = {"distance": first["floor"], "agreement": first["judge"], "nearest_ratio": 1.0}
    shown = [name for name in names if name == "nfe" or any(row.get(name) is not None for row in rows)]
    lines = [[COLUMNS[name][1](row) for name in shown] for row in (*rows, real | {"nfe": "real"})]
    named = {"metric": f"FD-{first['features']}", "kernel_metric": "", "score_metric": ""} | dict(first)
    return [COLUMNS[name][0].format(**named) for name in shown], lines


def table(rows: Sequence[Row]) -> FittedTable:
    """Return the table for a terminal: the numbers that matter most, in blocks where it is narrow."""
    titles, lines = cells(rows, NARROW)
    return FittedTable(titles, list(lines), text=(), styles={len(lines) - 1: "dim"})


def markdown(rows: Sequence[Row], remarks: Sequence[str]) -> str:
    """Return the whole table and remarks below it as Markdown."""
    titles, lines = cells(rows)
    head = [titles, ["---:"] * len(titles)]
    drawn = ["| " + " | ".join(line) + " |" for line in [*head, *lines]]
    return "\n".join([*drawn, "", *(f"- {remark}" for remark in remarks)]) + "\n"


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what the numbers were compared with, how certain they are, warnings, and the protocol."""
    first = rows[0]
    rows_of = "training" if first.get("reference_seen") else "reference"
    found = ["NFE: network evaluations"]
    if any(row.get("nearest_ratio") is not None for row in rows):
        found[0] += (
            f"; memorization ratio: distance to the nearest {rows_of} row, relative to that between real rows"
        )
    if first["floor"] is not None:
        judged = "; classifier accuracy" if first["judge"] is not None else ""
        found.append(f"real data: distance between its halves{judged}")
    if first.get("reference"):
        size = "" if first["reference_size"] is None else f" ({first['reference_size']} rows)"
        seen = ", which it was trained on" if first.get("reference_seen") else ""
        found.append(f"reference: {first['reference']}, split {first['reference_split']}{size}{seen}")
    if any(row.get("interval") is not None for row in rows):
        found.append("in parentheses: 95 % confidence interval of the distance")
    if any(row.get("interval") is not None and row.get("kernel_distance") is not None for row in rows):
        found.append(
            f"{first['kernel_metric']} (in thousandths, ± standard error) is unbiased for any number of samples: "
            f"prefer it below {CERTAIN:,} samples"
        )
    ratios = [row["nearest_ratio"] for row in rows if row["nearest_ratio"] is not None]
    if ratios and min(ratios) < MEMORIZED:
        found.append(
            f"warning: memorization ratio below {MEMORIZED}: samples are closer to the {rows_of} data than real data"
        )
    copies = max((row.get("copies") or 0.0 for row in rows), default=0.0)
    if copies > COPIED:
        found.append(
            f"warning: up to {copies:.0%} of the samples are closer to a {rows_of} row than 99 % of real rows are to "
            "another: they may be copies"
        )
    return [*found, f"protocol: {first['protocol']}"]
