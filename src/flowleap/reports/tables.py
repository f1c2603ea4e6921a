"""The summary of a report, its table of numbers, their conditions, and the settings of its runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowleap.evaluation.quality_table import COLUMNS, Column, metric, title
from flowleap.formatting import BLANK, number, plural
from flowleap.reports.entry import Entry, Group, Measured, finite
from flowleap.tables import Cell, Table


def credited(authors: str) -> str:
    """Return the authors of a BibTeX entry as papers name them.

    >>> credited("Ho, Jonathan and Salimans, Tim"), credited("Song, Jiaming and Meng, Chenlin and Ermon, Stefano")
    ('Ho and Salimans', 'Song et al.')
    """
    names = [name.split(",")[0] for name in authors.split(" and ")]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns that are not empty."""
    return [column for column in COLUMNS if any(finite(row.get(column.name)) is not None for row in rows)]


def meanings(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the titles of the columns that are not empty, and what they mean."""
    return [(title(column, rows), column.meaning) for column in columns(rows)]


def quality_table(found: Sequence[Group]) -> Table | None:
    """Return the table of all groups and NFEs, real data last; None where nothing was measured."""
    rows = [row for group in found for entry in group.entries for row in entry.rows]
    if not rows:
        return None
    shown, sections = columns(rows), []
    made = Table(["run", "NFE", *(name for name, _ in meanings(rows))], heads=2)
    for group in found:
        for index, nfe in enumerate(group.nfes()):
            cells = [_cell(found, group, nfe, column) for column in shown]
            made.add(Cell("" if index else group.label, look=group.look), str(nfe), *cells)
        sections.append(len(made.rows) - 1)
    made.sections = sections
    real = [
        next((number for row in rows if (number := finite(column.of_real(row))) is not None), None)
        for column in shown
    ]
    if any(value is not None for value in real):
        cells = [column.cell(value) for column, value in zip(shown, real, strict=True)]
        made.add("real data", "", *cells, style="real")
    return made


def _cell(found: Sequence[Group], group: Group, nfe: int, column: Column) -> Cell:
    known = group.measured(nfe, column.name)
    if known is None:
        return Cell(BLANK)
    if known.runs > 1 and known.high is not None:
        return column.cell(known.value, error=known.high - known.value, mark=_mark(found, group, nfe, column))
    interval = None if known.low is None or known.high is None else (known.low, known.high)
    error = finite(group.at(nfe)[0].get(column.error)) if column.error else None
    return column.cell(known.value, interval, error, _mark(found, group, nfe, column))


def _mark(found: Sequence[Group], group: Group, nfe: int, column: Column) -> str:
    """Return "best" for the least distance at an NFE, "near" where the interval overlaps with its."""
    if column.name != "distance":
        return ""
    measured = {other.look: m for other in found if (m := other.measured(nfe)) is not None}
    if len(measured) < 2 or group.look not in measured:
        return ""
    own, least = measured[group.look], min(measured.values(), key=lambda m: m.value)
    if own is least:
        return "best"
    return "near" if own.low is not None and least.high is not None and own.low <= least.high else ""


# ---------------------------------------------------------------- text


def summary(found: Sequence[Group]) -> str:
    """Return the best group at the least NFE, and whether its interval overlaps with that of the next, as text."""
    runs = sum(len(group.entries) for group in found)
    nfes = sorted({nfe for group in found for nfe in group.nfes() if group.measured(nfe) is not None})
    if not nfes:
        has = "nothing of it has" if runs == 1 else "nothing of them has"
        return f"{plural(runs, 'run')}; {has} been measured yet."
    nfe = nfes[0]
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
        return f" ± {number(found.high - found.value, 2)} over {plural(found.runs, 'run')}"
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
    """Return the conditions behind the numbers of rows, as (title, text)."""
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
    """The different values of rows under a key, in their order."""
    return " · ".join(dict.fromkeys(str(row.get(key) or default or "") for row in rows))


# ---------------------------------------------------------------- settings


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings by dotted names; a part has its type under its own name.

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
    """Return a setting as text."""
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


def differing(entries: Sequence[Entry]) -> Table:
    """Return the settings in which runs differ; parts of different types as a whole."""
    made = Table.of_words("setting", *(entry.label for entry in entries))
    made.rows = list(_differing([entry.config or None for entry in entries], ""))
    return made


def _differing(nodes: Sequence[Any], name: str) -> Iterator[Sequence[str | Cell]]:
    known = [node for node in nodes if node is not None] if not name else list(nodes)
    if all(node == known[0] for node in known[1:]):
        return
    kinds = {node.get("type") if isinstance(node, Mapping) else ABSENT for node in known}
    if len(kinds) > 1 or ABSENT in kinds:
        yield [name, *(_part(node) for node in nodes)]
        return
    for key in dict.fromkeys(key for node in known for key in node if key != "type"):
        inner = [ABSENT if node is None else node.get(key, ABSENT) for node in nodes]
        compared = [value for value, node in zip(inner, nodes, strict=True) if node is not None]
        if any(value != compared[0] for value in compared[1:]):
            yield from _differing(inner, f"{name}.{key}" if name else key)


ABSENT = object()


def _part(value: Any) -> Cell:
    """The cell of a setting, with the fields of a part."""
    if value is ABSENT:
        return Cell(BLANK)
    if not isinstance(value, Mapping):
        return Cell(written(value))
    return Cell(str(value.get("type", "")), ", ".join(_fields(value)))


def _fields(part: Mapping[str, Any]) -> list[str]:
    shown = []
    for key, value in part.items():
        if isinstance(value, Mapping):
            inner = ", ".join(_fields(value))
            shown.append(f"{key} {value.get('type', '')}" + (f" ({inner})" if inner else ""))
        elif key != "type":
            shown.append(f"{key} {written(value)}")
    return shown
