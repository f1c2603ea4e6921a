"""The charts of a report: quality, training, diagnosis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowleap.evaluation.quality_table import metric
from flowleap.formatting import number
from flowleap.reports.charts import Chart, Line, thin
from flowleap.reports.entry import Entry, Group, Measured, finite

WIDE = 4.0  # numbers that span a larger factor are drawn on a logarithmic axis
REAL = "two halves of the real data"


def spans(values: Sequence[float]) -> bool:
    """Whether values are all positive and need a logarithmic axis."""
    seen = [value for value in values if math.isfinite(value)]
    return bool(seen) and min(seen) > 0 and max(seen) > WIDE * min(seen)


# ---------------------------------------------------------------- quality


def quality_charts(found: Sequence[Group]) -> list[Chart]:
    """Return the distance against NFE and against seconds."""
    rows = [row for group in found for entry in group.entries for row in entry.rows]
    if not any(finite(row.get("distance")) is not None for row in rows):
        return []
    name, floor = metric(rows[0]), finite(rows[0].get("floor"))
    level = None if floor is None else (floor, REAL)
    nfes = sorted({nfe for group in found for nfe in group.nfes()})
    log = len(nfes) > 1
    lines = [
        _by_nfe(group, (place - (len(found) - 1) / 2) if log else 0.0) for place, group in enumerate(found)
    ]
    height = spans([y for line in lines for y in line.y] + ([] if floor is None else [floor]))
    charts = [
        Chart(
            f"{name} by network evaluations", _told(found, name), [line for line in lines if line.x],
            xlabel="network evaluations", caption="Lower is better.", xlog=log, ylog=height, ticks=nfes, level=level,
        )
    ]  # fmt: skip
    timed = [line for group in found if (line := _by_seconds(group)).x]
    if timed:
        seconds = [x for line in timed for x in line.x]
        samples = rows[0].get("num")
        charts.append(
            Chart(
                f"{name} by seconds", _told(found, name, timed=True), timed,
                xlabel="seconds" + (f" for {samples:,} samples" if isinstance(samples, int) else ""),
                caption="Lower and further left is better; seconds depend on the machine.",
                xlog=spans(seconds), ylog=height, level=level,
            )
        )  # fmt: skip
    return charts


def _by_nfe(group: Group, place: float) -> Line:
    """Points of groups are shifted a little, so that their intervals do not overlap."""
    known = [(nfe, m) for nfe in group.nfes() if (m := group.measured(nfe)) is not None]
    return _line(group, [(nfe * 1.06**place, m, f"NFE {nfe}") for nfe, m in known])


def _by_seconds(group: Group) -> Line:
    known = []
    for nfe in group.nfes():
        quality, time = group.measured(nfe), group.measured(nfe, "seconds")
        if quality is not None and time is not None and time.value > 0:
            known.append((time.value, quality, f"NFE {nfe}, {number(time.value)} s"))
    return _line(group, known)


def _line(group: Group, points: Sequence[tuple[float, Measured, str]]) -> Line:
    """The line of a group through (x, number, words for it)."""
    return Line(
        group.look,
        [x for x, _, _ in points],
        [m.value for _, m, _ in points],
        [m.low for _, m, _ in points],
        [m.high for _, m, _ in points],
        [f"{group.label}, {at}: {said(m)}" for _, m, at in points],
    )


def said(found: Measured) -> str:
    """Return a number with its bounds as text."""
    bound = "" if found.low is None else f" ({number(found.low)} to {number(found.high)})"
    return f"{number(found.value)}{bound}"


def _told(found: Sequence[Group], name: str, timed: bool = False) -> str:
    parts = []
    for group in found:
        known = []
        for nfe in group.nfes():
            if (m := group.measured(nfe)) is None:
                continue
            time = group.measured(nfe, "seconds") if timed else None
            known.append(
                f"{number(m.value)} at {nfe}" + (f" in {number(time.value)} seconds" if time else "")
            )
        if known:
            parts.append(f"{group.label}: {name} {', '.join(known)}")
    return "; ".join(parts) + "."


# ---------------------------------------------------------------- training


CURVES = (
    ("raw_error", "Unweighted error", "Mean squared residual without weights. Targets differ between methods: compare "
     "it within a run only.", True),
    ("grad_norm", "Gradient norm", "Before clipping.", True),
    ("derivative_norm", "‖du/dt‖", "The derivative along the path that enters the target; a steady climb is an early "
     "warning.", True),
    ("images_per_second", "Throughput", "Images per second, while training.", False),
)  # fmt: skip


def training_charts(found: Sequence[Group]) -> list[Chart]:
    """Return the online evaluation at each NFE, then the curves of the log."""
    return [*_while_training(found), *(c for curve in CURVES if (c := _curve(found, *curve)) is not None)]


def _curve(found: Sequence[Group], name: str, title: str, caption: str, logarithmic: bool) -> Chart | None:
    lines, ends = [], []
    for group in found:
        for entry in group.entries:
            x, y = series(entry.metrics, name)
            if not any(math.isfinite(value) for value in y):
                continue
            last = next(value for value in reversed(y) if math.isfinite(value))
            ends.append(f"{entry.label} ends at {number(last)}")
            lines.append(Line(group.look, *thin(x, y), faint=len(group.entries) > 1))
    if not lines:
        return None
    logarithmic = logarithmic and spans([value for line in lines for value in line.y])
    return Chart(title, f"By step; {', '.join(ends)}.", lines, caption=caption, ylog=logarithmic)


def series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Return the steps and the numbers of a log; NaN where nothing finite was logged."""
    known = [(step, finite(row.get(name))) for row in rows if (step := finite(row.get("step"))) is not None]
    return [step for step, _ in known], [math.nan if value is None else value for _, value in known]


def _while_training(found: Sequence[Group]) -> list[Chart]:
    every = [row for group in found for entry in group.entries for row in entry.quality]
    nfes = sorted({int(nfe) for row in every if (nfe := finite(row.get("nfe"))) is not None})
    charts = []
    for nfe in nfes:
        lines, ends, name = [], [], "distance"
        for group in found:
            for entry in group.entries:
                for rank, rows in enumerate(_by_weights(entry, nfe)):
                    x, y = series(rows, "distance")
                    if any(math.isfinite(value) for value in y):
                        name = metric(rows[0])
                        weights = rows[0].get("weights")
                        tips = [
                            f"{entry.label}, {weights}, step {a:,.0f}: {number(finite(b))}"
                            for a, b in zip(x, y, strict=True)
                        ]
                        lines.append(
                            Line(group.look, x, y, tips=tips, faint=rank > 0 or len(group.entries) > 1)
                        )
                        ends.append(
                            f"{entry.label} is least, {number(min(v for v in y if math.isfinite(v)))}"
                        )
        if lines:
            charts.append(
                Chart(
                    f"{name} while training, NFE {nfe}", f"By step; {', '.join(ends)}.", lines,
                    caption="Of few samples from a fixed noise set: for trends, not for tables.",
                    ylog=spans([value for line in lines for value in line.y]),
                )
            )  # fmt: skip
    return charts


def _by_weights(entry: Entry, nfe: int) -> list[list[Mapping[str, Any]]]:
    """The lines of each average of the weights, without its step: ema-0.999@20 and ema-0.999@40 are the same."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in entry.quality:
        if row.get("nfe") == nfe:
            found.setdefault(str(row.get("weights")).partition("@")[0], []).append(row)
    return list(found.values())


# ---------------------------------------------------------------- diagnosis


@dataclass(frozen=True)
class Diagram:
    """A chart of a diagnosis, with the dotted names of its curves; the second one is dashed."""

    title: str
    caption: str
    curves: Sequence[str]
    xlabel: str = "t"


DIAGRAMS = (
    Diagram(
        "Unweighted error by time", "Solid: rows with r = t; dashed: rows with r < t. t = 1 is noise, 0 is data.",
        ("error.diagonal", "error.jumps"),
    ),
    Diagram(
        "Two jumps against one", "Relative difference; 0 for an exact flow. Solid: random times; dashed: to the data.",
        ("semigroup.by_time", "semigroup.to_data"),
    ),
    Diagram(
        "Two jumps against one, by length", "Should rise slowly; where it does not, short jumps disagree already.",
        ("semigroup.by_span",), "length of the jump",
    ),
    Diagram(
        "‖du/dt‖ / ‖u‖ by time", "Where it is large, those times dominate the targets.", ("tangent.relative",)
    ),
)  # fmt: skip
TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)


def diagnostic_charts(found: Sequence[Group]) -> list[Chart]:
    """Return the curves of all diagnoses, with their standard errors."""
    charts = []
    for diagram in DIAGRAMS:
        lines = [
            line
            for group in found
            for entry in group.entries
            for rank, name in enumerate(diagram.curves)
            if (line := _diagnosed(group, entry, name, dashed=rank > 0)) is not None
        ]
        if lines:
            log = spans([value for line in lines for value in line.y])
            unit = all(0 <= x <= 1 for line in lines for x in line.x)
            charts.append(
                Chart(
                    diagram.title, diagram.caption, lines, xlabel=diagram.xlabel, caption=diagram.caption, ylog=log,
                    ticks=TIMES if unit else (),
                )
            )  # fmt: skip
    return charts


def curve(diagnosis: Mapping[str, Any] | None, name: str) -> list[tuple[float, float, float | None]]:
    """Return (position, value, standard error) of the bins of a curve by its dotted name; [] where it is none."""
    node: Any = diagnosis
    for part in name.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if not is_curve(node):
        return []
    edges, values, errors = node["edges"], node["value"], node.get("error") or [None] * len(node["value"])
    bins = zip(edges, edges[1:], values, errors, strict=False)
    known = [((finite(a), finite(b)), finite(value), finite(error)) for a, b, value, error in bins]
    return [
        (a + (b - a) / 2, v, e) for (a, b), v, e in known if a is not None and b is not None and v is not None
    ]


def is_curve(value: Any) -> bool:
    """Whether a part of a diagnosis is a `Curve`."""
    return isinstance(value, Mapping) and all(
        isinstance(value.get(key), list | tuple) for key in ("edges", "value")
    )


def _diagnosed(group: Group, entry: Entry, name: str, dashed: bool) -> Line | None:
    points = curve(entry.diagnosis, name)
    if not points:
        return None
    bounded = [(v - e, v + e) if e is not None and e < v else (None, None) for _, v, e in points]
    tips = [f"{entry.label}, {name.replace('_', ' ')}, {number(x)}: {number(v)}" for x, v, _ in points]
    x, y, _ = zip(*points, strict=True)
    low, high = zip(*bounded, strict=True)
    return Line(group.look, x, y, low, high, tips, faint=dashed, dashed=dashed)
