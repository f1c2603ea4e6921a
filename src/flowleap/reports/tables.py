"""The words and numbers of a report: its summary, its table, how its numbers were made, its settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowleap.reports.entry import Entry, Group, Measured, finite, metric

__all__ = [
    "Cell",
    "Setting",
    "Table",
    "conditions",
    "credited",
    "differing",
    "number",
    "plural",
    "quality_table",
    "settings",
    "summary",
]


@dataclass(frozen=True)
class Column:
    """A column of the table: where its number and its error lie, how they are written and what they mean."""

    name: str
    title: str
    form: str
    meaning: str
    error: str | None = None
    scale: float = 1.0
    real: str | float | None = None
    best: str | None = None


COLUMNS = (
    Column(
        "distance", "{metric}", ".3g",
        "Fréchet distance between the features of samples and of real data; lower is better. In brackets the 95 % "
        "bootstrap interval. Only numbers of the same protocol can be compared.",
        real="floor", best="least",
    ),
    Column(
        "kernel_distance", "10³ {kernel_metric}", ".2f",
        "Kernel distance (squared maximum mean discrepancy, cubic kernel) in thousandths ± its standard error; "
        "lower is better, and unbiased, so to be preferred below 10,000 samples. It may fall slightly below zero.",
        error="kernel_error", scale=1e3,
    ),
    Column(
        "score", "{score_metric}", ".3g",
        "How sharp and how varied the classes of samples are ± its spread; higher is better.", error="score_error",
    ),
    Column("precision", "precision", ".3f", "Share of samples that lie among real data: fidelity."),
    Column("recall", "recall", ".3f", "Share of real data that lies among samples: variety."),
    Column("density", "density", ".3f", "Like precision, but robust against outliers; may exceed 1."),
    Column("coverage", "coverage", ".3f", "Share of real samples that have a generated one nearby."),
    Column("wasserstein2", "W₂", ".3g", "Exact Wasserstein-2 distance between points; lower is better."),
    Column("sliced_wasserstein", "sliced W", ".3g", "Sliced Wasserstein distance; lower is better."),
    Column(
        "agreement", "label accuracy", ".3f",
        "Share of samples that a classifier fitted on real data assigns to the label that was asked for.", real="judge",
    ),
    Column(
        "nearest_ratio", "memorization ratio", ".2f",
        "Distance to the nearest training sample, relative to that between real samples. Well below 1 means copies.",
        real=1.0,
    ),
    Column("seconds", "seconds", ".2f", "Seconds that making the samples took on the machine of the run."),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell of the table: its number, what bounds it, and its mark.

    "best" is the least at its number of evaluations, "near" has an interval that overlaps with that of the least.
    """

    text: str
    bound: str = ""
    mark: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """The table of all groups and budgets; `real` is the line of real data, None where nothing is known of it."""

    columns: Sequence[tuple[str, str]]
    blocks: Sequence[tuple[Group, Sequence[tuple[int, Sequence[Cell]]]]]
    real: Sequence[Cell] | None
    repeated: bool


def number(value: float | None, form: str = ".3g") -> str:
    """Write a number, with all its digits and a proper minus sign; a dash for None.

    >>> number(0.316), number(0.5), number(-0.0012), number(None), number(1234.5), number(2e-5, ".2g")
    ('0.316', '0.500', '−0.00120', '–', '1,234', '2.0e−5')
    """
    if value is None:
        return "–"
    if form.endswith("g") and 1000 <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    else:
        text = format(value, f"#{form}" if form.endswith("g") else form).removesuffix(".")
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def plural(count: int, word: str) -> str:
    """Write a count: "1 run", "3 runs"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def credited(authors: str) -> str:
    """Return the authors of a BibTeX entry as papers name them.

    >>> credited("Ho, Jonathan and Salimans, Tim"), credited("Song, Jiaming and Meng, Chenlin and Ermon, Stefano")
    ('Ho and Salimans', 'Song et al.')
    """
    names = [name.split(",")[0] for name in authors.split(" and ")]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def quality_table(found: Sequence[Group]) -> Table | None:
    """Return the table, with the columns that hold anything; None where nothing was measured."""
    rows = [row for group in found for entry in group.entries for row in entry.rows]
    if not rows:
        return None
    shown = [c for c in COLUMNS if any(finite(row.get(c.name)) is not None for row in rows)]
    blocks = []
    for group in found:
        lines = [
            (nfe, [_cell(group, nfe, c, _mark(found, group, nfe, c)) for c in shown])
            for nfe in group.budgets()
        ]
        if lines:
            blocks.append((group, lines))
    columns = [(_title(c, rows), c.meaning) for c in shown]
    repeated = any(len(group.at(nfe)) > 1 for group in found for nfe in group.budgets())
    return Table(columns, blocks, _real(shown, rows), repeated)


def _title(column: Column, rows: Sequence[Mapping[str, Any]]) -> str:
    known = {
        "metric": metric(rows[0]),
        "kernel_metric": next(
            (r["kernel_metric"] for r in rows if r.get("kernel_metric")), "kernel distance"
        ),
        "score_metric": next((r["score_metric"] for r in rows if r.get("score_metric")), "score"),
    }
    return column.title.format(**known)


def _mark(found: Sequence[Group], group: Group, nfe: int, column: Column) -> str:
    """ "best", "near" or nothing: nothing where there is no other run to compare with."""
    if column.best is None:
        return ""
    measured = {other.look: m for other in found if (m := other.measured(nfe, column.name)) is not None}
    if len(measured) < 2 or group.look not in measured:
        return ""
    own, least = measured[group.look], min(measured.values(), key=lambda m: m.value)
    if own is least:
        return "best"
    return "near" if own.low is not None and least.high is not None and own.low <= least.high else ""


def _cell(group: Group, nfe: int, column: Column, mark: str) -> Cell:
    found = group.measured(nfe, column.name)
    if found is None:
        return Cell("–")
    return Cell(number(found.value * column.scale, column.form), _bound(group, nfe, column, found), mark)


def _bound(group: Group, nfe: int, column: Column, found: Measured) -> str:
    if found.runs > 1 and found.high is not None:
        return f"± {number((found.high - found.value) * column.scale, '.2g')}"
    if found.low is not None and found.high is not None:
        return f"[{number(found.low, column.form)}, {number(found.high, column.form)}]"
    error = finite(group.at(nfe)[0].get(column.error)) if column.error else None
    return "" if error is None else f"± {number(error * column.scale, '.2g')}"


def _real(shown: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[Cell] | None:
    cells = []
    for column in shown:
        if isinstance(column.real, str):
            known = [value for row in rows if (value := finite(row.get(column.real))) is not None]
            cells.append(Cell(number(known[0] if known else None, column.form)))
        else:
            cells.append(Cell(number(column.real, column.form)))
    return cells if any(cell.text != "–" for cell in cells) else None


# ---------------------------------------------------------------- in plain words


def summary(found: Sequence[Group]) -> str:
    """Return what the numbers say, in plain words: the best at one evaluation, and how sure that is."""
    runs = sum(len(group.entries) for group in found)
    budgets = sorted({nfe for group in found for nfe in group.budgets() if group.measured(nfe) is not None})
    if not budgets:
        has = "nothing of it has" if runs == 1 else "nothing of them has"
        return f"{plural(runs, 'run')}; {has} been measured yet."
    nfe = budgets[0]
    ranked = [(m, group) for group in found if (m := group.measured(nfe)) is not None]
    ranked.sort(key=lambda item: item[0].value)
    name = metric(next(row for row in ranked[0][1].at(nfe)))
    at = "one network evaluation" if nfe == 1 else f"{nfe} network evaluations"
    best, group = ranked[0]
    said = f"{name} {number(best.value)}{_surely(best)}"
    if len(ranked) == 1:
        return f"{group.label} reaches {said} with {at}.{_floor(group, nfe)}"
    second, follower = ranked[1]
    lead = f"With {at}, {group.label} is the best of {len(ranked)}: {said}."
    return f"{lead} {follower.label} follows with {number(second.value)}{_apart(best, second)}.{_floor(group, nfe)}"


def _surely(found: Measured) -> str:
    if found.low is None or found.high is None:
        return ""
    if found.runs > 1:
        return f" ± {number(found.high - found.value, '.2g')} over {plural(found.runs, 'run')}"
    return f" (95 % interval {number(found.low)} to {number(found.high)})"


def _apart(best: Measured, second: Measured) -> str:
    if best.high is None or second.low is None:
        return "; no interval was measured, so the order may be chance"
    if best.high >= second.low:
        return "; their intervals overlap, so the order is not settled"
    return "; their intervals do not overlap"


def _floor(group: Group, nfe: int) -> str:
    floor = finite(group.at(nfe)[0].get("floor"))
    return "" if floor is None else f" Two halves of the real data are {number(floor)} apart."


LABELS = {
    "data": "in the proportions of the classes of the reference",
    "cycle": "0, 1, 2, … in turn, every class equally often",
    "uniform": "drawn, every class equally likely",
}


def conditions(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return under which conditions the numbers of rows were made, as (what, in words)."""
    if not rows:
        return []
    row, id_parts = rows[0], _parts(str(rows[0].get("protocol", "")))
    name, _, size = id_parts.get("ref", "").partition(":")
    known = finite(row.get("reference_size"))
    size = f"{int(known):,}" if known is not None else size
    features = {"pixel": "the pixels themselves", "point": "the coordinates of the points"}.get(
        str(row.get("features")), str(row.get("features", "unknown"))
    )
    split = row.get("reference_split")
    labels = row.get("labels", id_parts.get("labels"))
    said = {
        "distance": f"{metric(row)}, a Fréchet distance between Gaussians fitted to features",
        "features": features,
        "samples": f"{_count(row.get('num', id_parts.get('n')))} for each number, sample i from the noise of seed "
        f"{row.get('seed', id_parts.get('seed', 'unknown'))} and i",
        "labels": LABELS.get(str(labels), labels),
        "reference": f"{row.get('reference', name) or 'unknown'}, {size or 'unknown'} rows"
        + (f" ({split})" if split else "; the split was not recorded"),
        "weights": _all(rows, "weights", id_parts.get("weights")),
        "guidance": _all(rows, "guidance", "none"),
        "sampler": _all(rows, "sampler", "unknown"),
        "code": ", ".join(
            f"{title} {_all(rows, key, '')}" for key, title in (("version", "flowleap"), ("commit", "commit"))
            if any(row.get(key) for row in rows)
        ),
        "protocol id": _all(rows, "protocol", "unknown"),
    }  # fmt: skip
    return [(title, str(text)) for title, text in said.items() if text]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value or "unknown")


def _parts(protocol: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in protocol.split(";") if "=" in part)


def _all(rows: Sequence[Mapping[str, Any]], key: str, default: Any) -> str:
    """The different values that rows have under a key, in the order they come."""
    return " · ".join(dict.fromkeys(str(row.get(key) or default or "") for row in rows))


def memorized(rows: Sequence[Mapping[str, Any]], limit: float) -> bool:
    """Whether samples are nearer to the training data than real data is."""
    ratios = [ratio for row in rows if (ratio := finite(row.get("nearest_ratio"))) is not None]
    return bool(ratios) and min(ratios) < limit


# ---------------------------------------------------------------- settings


@dataclass(frozen=True)
class Setting:
    """A field of the settings and what it is in every run: a name or number, and the fields of a part."""

    name: str
    values: Sequence[tuple[str, str]]


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted names; a part stands under its own name with its type.

    >>> settings({"times": {"type": "OneTime", "law": {"type": "Uniform"}}, "ema": [0.9, 0.99]})
    {'times': 'OneTime', 'times.law': 'Uniform', 'ema': '0.9, 0.99'}
    """
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if "type" in value:
                found[name] = str(value["type"])
            found |= settings({k: v for k, v in value.items() if k != "type"}, f"{name}.")
        else:
            found[name] = written(value)
    return found


def written(value: Any) -> str:
    """Write a setting as people do."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(
        not isinstance(item, list | tuple | Mapping) for item in value
    ):
        return ", ".join(written(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool):
        return "none" if value is None else "yes" if value else "no"
    return json.dumps(value, default=str)


def differing(entries: Sequence[Entry]) -> list[Setting]:
    """Return the settings in which runs differ, in the order they stand; parts of other types as a whole."""
    return list(_differing([entry.config or None for entry in entries], ""))


def _differing(nodes: Sequence[Any], name: str) -> Iterator[Setting]:
    known = [node for node in nodes if node is not None] if not name else list(nodes)
    if all(node == known[0] for node in known[1:]):
        return
    kinds = {node.get("type") if isinstance(node, Mapping) else ABSENT for node in known}
    if len(kinds) > 1 or ABSENT in kinds:
        yield Setting(name, [_part(node) for node in nodes])
        return
    for key in dict.fromkeys(key for node in known for key in node if key != "type"):
        inner = [ABSENT if node is None else node.get(key, ABSENT) for node in nodes]
        compared = [value for value, node in zip(inner, nodes, strict=True) if node is not None]
        if any(value != compared[0] for value in compared[1:]):
            yield from _differing(inner, f"{name}.{key}" if name else key)


ABSENT = object()


def _part(value: Any) -> tuple[str, str]:
    """A setting in two parts: its name or number, and the fields of a part."""
    if value is ABSENT:
        return ("–", "")
    if not isinstance(value, Mapping):
        return (written(value), "")
    return (str(value.get("type", "")), ", ".join(_fields(value)))


def _fields(part: Mapping[str, Any]) -> list[str]:
    shown = []
    for key, value in part.items():
        if isinstance(value, Mapping):
            inner = ", ".join(_fields(value))
            shown.append(f"{key} {value.get('type', '')}" + (f" ({inner})" if inner else ""))
        elif key != "type":
            shown.append(f"{key} {written(value)}")
    return shown
