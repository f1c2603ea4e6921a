"""The quality table: columns of measured rows, the table for terminals and Markdown, and notes on the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowleap.evaluation.numbers import CERTAIN
from flowleap.evaluation.protocol import same
from flowleap.formatting import number
from flowleap.tables import Cell, Table

MEMORIZED, FAR = 0.8, 1.5
"""A memorization ratio below the first suggests copied training data; above the second samples are unlike any."""
FEW = 2000
"""Fewer training images than this can be memorized: a note then says in words what the memorization ratio means."""
COPIED = 0.1
"""A share of `copies` above this is worth a warning."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A number of measured rows: its format and its meaning.

    Args:
        name: its key in a row. title: may name the features.
        digits, places: as in `formatting.number`. scale: a factor.
        error: the key of its standard error.
        real: the number of real data, or its key.
    """

    name: str
    title: str
    meaning: str
    digits: int = 3
    places: int | None = None
    scale: float = 1.0
    error: str | None = None
    real: str | float | None = None

    def cell(
        self,
        value: float | None,
        interval: Sequence[float] | None = None,
        error: float | None = None,
        mark: str = "",
    ) -> Cell:
        """Return a value with its interval, or else its error, as a cell."""
        bound = ""
        if interval is not None:
            bound = f"({'–'.join(number(end * self.scale, 2) for end in interval)})"
        elif error is not None:
            bound = f"± {number(error * self.scale, 2)}"
        return Cell(self.written(value), bound if value is not None else "", mark)

    def written(self, value: float | None) -> str:
        """Return a value as text."""
        return number(None if value is None else value * self.scale, self.digits, places=self.places)

    def of_real(self, row: Row) -> float | None:
        """Return the number of real data, by a row."""
        return row.get(self.real) if isinstance(self.real, str) else self.real


COLUMNS = (
    Column(
        "distance", "{metric}",
        "Fréchet distance between the features of samples and of real data; lower is better. In parentheses the 95 % "
        "bootstrap interval. Only numbers of the same protocol can be compared.", real="floor",
    ),
    Column(
        "kernel_distance", "10³ {kernel_metric}",
        "Kernel distance (squared maximum mean discrepancy, cubic kernel) in thousandths ± its standard error; "
        "lower is better, and unbiased, so to be preferred below 10,000 samples. It may fall slightly below zero.",
        digits=2, scale=1e3, error="kernel_error",
    ),
    Column(
        "score", "{score_metric}",
        "How sharp and how varied the classes of samples are ± its spread; higher is better.", error="score_error",
    ),
    Column(
        "agreement", "label accuracy",
        "Share of samples that a classifier fitted on real data assigns to their label.",
        places=3, real="judge",
    ),
    Column("precision", "precision", "Share of samples that lie among real data: fidelity.", places=2),
    Column("recall", "recall", "Share of real data that lies among samples: variety.", places=2),
    Column("density", "density", "Like precision, but robust against outliers; may exceed 1.", places=2),
    Column("coverage", "coverage", "Share of real samples that have a generated one nearby.", places=2),
    Column("sliced_wasserstein", "sliced W₂", "Sliced Wasserstein-2 distance; lower is better."),
    Column("wasserstein2", "W₂", "Exact Wasserstein-2 distance between points; lower is better."),
    Column(
        "nearest_ratio", "memorization ratio",
        "Distance to the nearest training sample, relative to that between real samples. Well below 1 means copies.",
        places=2, real=1.0,
    ),
    Column(
        "copies", "copies", "Share of samples that are nearer to a real one than 99 % of real ones are to another.",
        places=3,
    ),
    Column("seconds", "time (s)", "Seconds that making the samples took on the machine of the run."),
)  # fmt: skip
"""Every number of measured rows, in the order of tables."""
PAIRED = {"precision": "recall", "density": "coverage"}
"""Columns that share one in a terminal and in Markdown."""
WIDE = frozenset({"score", "density", "sliced_wasserstein", "copies"})
"""Columns that are only in files, not on a terminal."""


def metric(row: Row) -> str:
    """Return the name of the distance of a row: "FID", "FD-pixel"."""
    return str(row.get("metric") or f"FD-{row.get('features', 'unknown')}")


def title(column: Column, rows: Sequence[Row]) -> str:
    """Return the title of a column; distances and scores are named after their features."""
    usual = {"metric": metric(rows[0]), "kernel_metric": "kernel distance", "score_metric": "score"}
    named = {key: next((row[key] for row in rows if row.get(key)), name) for key, name in usual.items()}
    return column.title.format(**named)


def table(rows: Sequence[Row], *, narrow: bool = True) -> Table:
    """Return the table of rows, real data last, without empty columns; `narrow` for a terminal.

    Raises: ValueError where the rows were measured by different protocols.
    """
    same(rows)
    known = {column.name: column for column in COLUMNS}
    left_out = {*PAIRED.values(), *(WIDE if narrow else ())}
    shown = [
        column
        for name, column in known.items()
        if name not in left_out and any(row.get(name) is not None for row in rows)
    ]

    def cell(row: Row, column: Column) -> str:
        value, other = row.get(column.name), known.get(PAIRED.get(column.name, ""))
        if value is not None and other is not None:
            return f"{column.written(value)}/{other.written(row.get(other.name))}"
        interval = row.get("interval") if column.name == "distance" else None
        return str(column.cell(value, interval, row.get(column.error or "")))

    titles = [title(column, rows) for column in shown]
    titles = [f"{name}/ {PAIRED[name]}" if name in PAIRED else name for name in titles]
    several = len({row.get("guidance") for row in rows}) > 1
    made = Table(["NFE", *(["guidance"] if several else []), *titles], text=())
    for row in rows:  # samples that were there already have a name in place of a number of evaluations
        spent = row["weights"] if row.get("nfe") is None else row["nfe"]
        scale = [str(row.get("guidance"))] if several else []
        made.add(str(spent), *scale, *(cell(row, column) for column in shown))
    real = [column.written(column.of_real(rows[0])) for column in shown]
    made.add("real", *([""] if several else []), *real, style="dim")
    return made


def markdown(rows: Sequence[Row], remarks: Sequence[str]) -> str:
    """Return the whole table and remarks below it as Markdown."""
    return table(rows, narrow=False).markdown(remarks)


def closer(ratios: Iterable[Any], rows_of: str = "training") -> list[str]:
    """Return a warning where a memorization ratio is low; None counts as unknown."""
    if any(ratio is not None and ratio < MEMORIZED for ratio in ratios):
        return [
            f"warning: memorization ratio below {MEMORIZED}: samples are closer to the {rows_of} data than real data"
        ]
    return []


def memory(rows: Sequence[Row]) -> list[str]:
    """Return in a plain sentence what the memorization ratio means, where the training images are few."""
    first, count = rows[0], rows[0].get("reference_size")
    ratio = next((row["nearest_ratio"] for row in rows if row.get("nearest_ratio") is not None), None)
    if ratio is None or count is None or count >= FEW or not first.get("reference_seen"):
        return []
    mirrors = " and their mirror images" if first.get("reference_mirrored") else ""
    meaning = (
        "samples are far from all real images: a longer run is needed"
        if ratio > FAR
        else "samples are no copies"
        if ratio >= MEMORIZED
        else "the network repeats training images"
    )
    return [
        f"memorization ratio {ratio:.2f}: on average a sample is {ratio:.2g} times as far from the nearest of the "
        f"{count:,} training images{mirrors} as they are from one another, so {meaning} (copies have 0, real images 1)"
    ]


def notes(rows: Sequence[Row]) -> list[str]:
    """Return notes on the reference, on intervals and on the protocol, and warnings."""
    first = rows[0]
    rows_of = "training" if first.get("reference_seen") else "reference"
    mirrors = " or mirror image" if first.get("reference_mirrored") else ""
    ratios = [row.get("nearest_ratio") for row in rows]
    bounded = [row for row in rows if row.get("interval") is not None]
    found = ["NFE: network evaluations"]
    if any(ratio is not None for ratio in ratios):
        found[0] += (
            f"; memorization ratio: distance to the nearest {rows_of} row{mirrors}, relative to that between real rows"
        )
    if first["floor"] is not None:
        accuracy = "; classifier accuracy" if first["judge"] is not None else ""
        found.append(f"real data: distance between its halves{accuracy}")
    if first.get("reference"):
        size = "" if first["reference_size"] is None else f" ({first['reference_size']} rows)"
        seen = ", which it was trained on" if first.get("reference_seen") else ""
        found.append(f"reference: {first['reference']}, split {first['reference_split']}{size}{seen}")
    if bounded:
        found.append("in parentheses: 95 % confidence interval of the distance")
    if any(row.get("kernel_distance") is not None for row in bounded):
        found.append(
            f"{first['kernel_metric']} (in thousandths, ± standard error) is unbiased for any number of samples: "
            f"prefer it below {CERTAIN:,} samples"
        )
    found += [*memory(rows), *closer(ratios, rows_of)]
    copies = max((row.get("copies") or 0.0 for row in rows), default=0.0)
    if copies > COPIED:
        found.append(
            f"warning: up to {copies:.0%} of the samples are closer to a {rows_of} row than 99 % of real rows are to "
            "another: they may be copies"
        )
    protocols = dict.fromkeys(str(row["protocol"]) for row in rows)
    return [*found, *(f"protocol: {protocol}" for protocol in protocols)]
