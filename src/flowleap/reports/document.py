"""A report as one HTML text, with its styles, script, charts and images inside."""

from __future__ import annotations

import base64
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowleap.citations import Citation
from flowleap.evaluation.diagnosis.measurements import ORDER
from flowleap.evaluation.protocol import same
from flowleap.evaluation.quality_table import MEMORIZED, closer, metric
from flowleap.formatting import number, plural, roughly
from flowleap.provenance import version
from flowleap.reports import figures, images, samples, tables
from flowleap.reports.charts import LOOKS, MARKERS, Chart, draw
from flowleap.reports.entry import Entry, Group, finite, groups, unique
from flowleap.tables import Table
from flowleap.training.config import flattened

if TYPE_CHECKING:
    import jinja2

GENERATOR = "flowleap report"
TEMPLATES = Path(__file__).parent / "templates"
SHAPES = {
    "o": "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
    "s": "M3.5 3.5h9v9h-9z",
    "^": "M8 2.5l5.5 10h-11z",
    "D": "M8 2l6 6l-6 6l-6-6z",
    "v": "M8 13.5l5.5-10h-11z",
    "P": "M6 2.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",
    "X": "M5 2.2l3 3l3-3l2.8 2.8l-3 3l3 3l-2.8 2.8l-3-3l-3 3l-2.8-2.8l3-3l-3-3z",
    "p": "M8 2l6 4.4l-2.3 7h-7.4l-2.3-7z",
    "*": "M8 1.5l1.7 4.7l4.9.2l-3.9 3l1.4 4.8l-4.1-2.8l-4.1 2.8l1.4-4.8l-3.9-3l4.9-.2z",
}
TEASER = 8  # samples on the card of a run


def page(
    title: str,
    entries: Sequence[Entry],
    *,
    subtitle: str = "",
    commands: Sequence[str] = (),
    made: str = "",
) -> str:
    """Return the report of some runs as the text of one self-contained HTML file.

    All text is escaped, whatever it is.

    Args:
        subtitle: a line above the title.
        commands: that make this report, shown after those of the runs.
        made: the date, as text.

    Raises: ValueError without entries, or for rows of different protocols.
    """
    if not entries:
        raise ValueError("a report needs at least one run, got none")
    same_protocol(entries)
    labels = unique(entry.label for entry in entries)
    named = [replace(entry, label=label) for entry, label in zip(entries, labels, strict=True)]
    found = groups(named)
    script, style = theme_script(), theme() + (TEMPLATES / "style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest())  # lets the page run this script only
    return environment().get_template("report.html.jinja").render(
        title=title, subtitle=subtitle, made=made, generator=GENERATOR, version=version("flowleap"),
        style=style, script=script, script_hash=digest.decode("ascii"),
        entries=named, groups=found, looks=LOOKS, commands=commands,
        **_numbers(found), **_pictures(found), **_background(named),
    )  # fmt: skip


def same_protocol(entries: Sequence[Entry]) -> None:
    """Raise ValueError for rows of different protocols."""
    rows = [dict(row) for entry in entries for row in entry.rows]
    if rows:
        same(rows)


def theme() -> str:
    """Return the style that all pages share: colors, light and dark, fonts, and the bar at the top."""
    return (TEMPLATES / "theme.css").read_text("utf-8")


def theme_script() -> str:
    """Return the script that all pages share: the button of light and dark colors, and printing."""
    return (TEMPLATES / "script.js").read_text("utf-8")


@cache
def environment(folder: Path = TEMPLATES) -> jinja2.Environment:
    """Return the templates of a folder; they escape what is not marked as safe."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(shape=lambda look: SHAPES[MARKERS[look % len(MARKERS)]], credited=tables.credited)
    return made


# ---------------------------------------------------------------- parts of the page


@dataclass(frozen=True, eq=False)
class Drawn:
    """A chart and its SVG element, in which all text of users is escaped."""

    title: str
    caption: str
    svg: Any


@dataclass(frozen=True, eq=False)
class Card:
    """The card of a group at the top: its distance at the least NFE, facts, and some samples."""

    group: Group
    note: str
    number: str
    bound: str
    what: str
    facts: Sequence[tuple[str, str]]
    strip: images.Strip | None
    words: str


def _numbers(found: Sequence[Group]) -> dict[str, Any]:
    rows = [row for group in found for entry in group.entries for row in entry.rows]
    table = tables.quality_table(found)
    ratios = [finite(row.get("nearest_ratio")) for row in rows]
    return {
        "summary": tables.summary(found),
        "cards": [_card(group) for group in found],
        "table": table,
        "meanings": tables.meanings(rows),
        "floor_known": table is not None and "real" in table.styles.values(),
        "repeated": any(len(group.at(nfe)) > 1 for group in found for nfe in group.nfes()),
        "conditions": tables.conditions(rows),
        "memorized": MEMORIZED if closer(ratios) else None,
        "labeled": any(finite(row.get("judge")) is not None for row in rows),
        "unbiased": any(finite(row.get("kernel_distance")) is not None for row in rows),
        "few": any((finite(row.get("num")) or 0) < 10_000 for row in rows),
    }


def _pictures(found: Sequence[Group]) -> dict[str, Any]:
    return {
        "quality": _drawn(figures.quality_charts(found), "quality"),
        "training": _drawn(figures.training_charts(found), "training"),
        "diagnostics": _drawn(figures.diagnostic_charts(found), "diagnosis"),
        "findings": [(e, group, _findings(e)) for group in found for e in group.entries if e.diagnosis],
        "blocks": samples.blocks(found),
        "clouds": samples.clouds(found),
        "across": max((len(entry.samples) for group in found for entry in group.entries), default=1) or 1,
        "pairs": samples.pairs(found),
    }


def _drawn(charts: Sequence[Chart], name: str) -> list[Drawn]:
    from markupsafe import Markup

    with warnings.catch_warnings():  # of glyphs and layouts, which browsers decide here
        warnings.simplefilter("ignore", UserWarning)
        return [
            Drawn(chart.title, chart.caption, Markup(draw(chart, f"{name}-{index}")))
            for index, chart in enumerate(charts)
        ]


def _background(entries: Sequence[Entry]) -> dict[str, Any]:
    papers: dict[str, Citation] = {paper.key: paper for entry in entries for paper in entry.papers}
    return {
        "differing": tables.differing(entries),
        "settings": {entry.label: tables.settings(entry.config) for entry in entries},
        "environments": {entry.label: _sittings(entry) for entry in entries},
        "papers": list(papers.values()),
    }


def _card(group: Group) -> Card:
    first = group.entries[0]
    nfes = [nfe for nfe in group.nfes() if group.measured(nfe) is not None]
    best = group.measured(nfes[0]) if nfes else None
    bound = "" if best is None or best.low is None else f"{number(best.low)} – {number(best.high)}"
    if best is not None and best.runs > 1 and best.high is not None:
        bound = f"± {number(best.high - best.value, 2)} over {plural(best.runs, 'run')}"
    shown, words = None, ""
    if samples.pictured(first):
        nfe = min(first.samples)
        shown = images.strip(first.samples[nfe][:TEASER], cell=32)
        words = f"{TEASER} samples of {group.label} at NFE {nfe}"
    name = metric(group.at(nfes[0])[0]) if nfes else ""
    what = f"{name}, NFE {nfes[0]}" if nfes else "not measured"
    return Card(
        group, first.note, number(best.value if best else None), bound, what, _facts(group), shown, words
    )


def _facts(group: Group) -> list[tuple[str, str]]:
    entry, facts = group.entries[0], []
    config = flattened(entry.config)
    if method := config.get("method"):
        facts.append(("method", str(method).replace("_", "-")))
    if data := config.get("data.name"):
        facts.append(("data", str(data)))
    if entry.parameters:
        facts.append(("parameters", f"{entry.parameters:,}"))
    if steps := finite(config.get("schedule.steps")):
        done = max((step for row in entry.metrics if (step := finite(row.get("step")))), default=None)
        short = f"{done:,.0f} of " if done is not None and done < steps else ""
        facts.append(("steps", f"{short}{steps:,.0f} × {config.get('data.batch', '?')}"))
    seconds = [time for row in entry.metrics if (time := finite(row.get("seconds"))) is not None]
    if seconds:
        facts.append(("training", roughly(max(seconds))))
    if len(group.entries) > 1:
        facts.append(("runs", str(len(group.entries))))
    return facts


def _findings(entry: Entry) -> dict[str, Any]:
    """The findings of a diagnosis, its lists of numbers, and single numbers by dotted names; any part may be absent."""
    diagnosis = dict(entry.diagnosis or {})
    said = [
        {key: str(item.get(key, "")) for key in ("title", "text")}
        | {"severity": item.get("severity") if item.get("severity") in ORDER else "note"}
        for item in _mappings(diagnosis.pop("findings", None))
    ]
    lists = {name: _listed(rows) for name, value in diagnosis.items() if (rows := _mappings(value))}
    others = tables.settings(_without_curves({k: v for k, v in diagnosis.items() if k not in lists}))
    return {"said": said, "lists": lists, "others": others}


def _listed(rows: Sequence[Mapping[str, Any]]) -> Table:
    fields = [tables.settings(row) for row in rows]
    return Table(list(fields[0]), [[row.get(name, "–") for name in fields[0]] for row in fields], heads=0)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list | tuple) else ()
    return [item for item in items if item and isinstance(item, Mapping)]


def _without_curves(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_curves(item) if isinstance(item, Mapping) else item
        for key, item in value.items()
        if not figures.is_curve(item)
    }


def _sittings(entry: Entry) -> list[dict[str, str]]:
    """The sessions of a run in environment.json, each by dotted names."""
    found = entry.environment.get("sittings", [entry.environment] if entry.environment else [])
    return [tables.settings(one) for one in found if isinstance(one, Mapping)]
