"""The numbers of a diagnosis as text: a table by departure time, and a line for each other probe."""

from __future__ import annotations

from itertools import pairwise

from flowleap.evaluation.diagnosis.measurements import Curve, Diagnosis
from flowleap.formatting import BLANK, plural
from flowleap.tables import Table


def table(found: Diagnosis) -> Table:
    """Return the table of the probes by departure time."""
    columns = {
        "error r=t": found.error.diagonal,
        "error r<t": found.error.jumps,
        "2 jumps": found.semigroup.by_time,
        "to data": found.semigroup.to_data,
        "‖du/dt‖": found.tangent.relative,
    }
    shown = {title: curve for title, curve in columns.items() if curve is not None}
    made, edges = Table(["t", *shown], text=()), found.error.diagonal.edges
    for row, (low, high) in enumerate(pairwise(edges)):
        cells = [_cell(curve, row, title.startswith("error")) for title, curve in shown.items()]
        made.add(f"{low:.3g}–{high:.3g}", *cells)
    return made


def _cell(curve: Curve, row: int, with_error: bool) -> str:
    value, error = curve.value[row], curve.error[row]
    if value is None:
        return BLANK
    return f"{value:.3g}±{error:.1g}" if with_error and error is not None else f"{value:.3g}"


def lines(found: Diagnosis) -> list[str]:
    """Return the legend of the table, and a line for each other probe."""
    s, g, e = found.sensitivity, found.gradient, found.semigroup
    within = "" if s.label is None else " within a class"
    told = [
        "error: unweighted, ± standard error. 2 jumps: distance between one jump and two, relative to its length, to a "
        "random time and to the data. ‖du/dt‖: relative to ‖u‖",
        f"two jumps against one: {_share(e.short)} apart over short spans, {_share(e.long)} over long ones",
        f"change of the output with another t {_share(s.time)}, another r {_share(s.landing)}, "
        f"another label {_share(s.label)}",
        *(
            f"samples of {plural(one.steps, 'step')}: {_share(one.spread)} of the variance of the data"
            f"{within}, {_share(one.diversity)} of its directions"
            for one in found.spread
        ),
        f"du/dt by {found.tangent.strategy}; it differs from a central difference by {_share(found.tangent.gap)}",
    ]
    if g is not None and g.mean is not None:
        told.append(f"gradient norm {g.mean:.3g}, {_share(g.spread)} from batch to batch")
    return told


def _share(value: float | None) -> str:
    """A percentage with two digits."""
    return BLANK if value is None else f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"
