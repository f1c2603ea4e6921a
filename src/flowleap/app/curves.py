"""The log of a run: its curves and the quality that was measured while it trained, from the files of its folder."""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from pathlib import Path

from flowleap import runs
from flowleap.app import markup
from flowleap.evaluation.quality_table import metric
from flowleap.formatting import number
from flowleap.reports import figures, folders
from flowleap.reports.entry import Entry, finite, groups
from flowleap.training import folder

FILES = ("metrics.jsonl", "quality.jsonl", "table.json")
LAST = 12
"""Rows of the table of quality, the last ones."""


def stamp(place: Path) -> Hashable:
    """Return what changes with the log of a run."""
    paths = [place / name for name in FILES]
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None for path in paths)


def show(place: Path, label: str) -> str:
    """Return the log of a run as HTML.

    Raises: ValueError for a folder that is no run.
    """
    if not folder.is_run(place):
        return markup.message("this model comes without the log of its training")
    entry = folders.read(place, label)
    parts = [markup.facts([state(place, entry), *([entry.note] if entry.note else [])])]
    found = figures.training_charts(groups([entry]))
    if not found:
        parts.append(markup.message("nothing was logged yet"))
    return "".join([*parts, quality(entry), markup.charts(found) if found else ""])


def state(place: Path, entry: Entry) -> str:
    """Return how far a run is, and when it wrote the last line of its log."""
    total = runs.length(runs.read_config(place))
    done = max((step for row in entry.metrics if (step := finite(row.get("step"))) is not None), default=0)
    log = place / FILES[0]
    if done >= total or not log.is_file():
        return f"{total:,} steps, finished" if done >= total else f"{total:,} steps, none of them logged"
    written = datetime.datetime.fromtimestamp(log.stat().st_mtime, datetime.UTC)
    return f"step {done:,.0f} of {total:,}, last logged at {written:%H:%M:%S} UTC"


def quality(entry: Entry) -> str:
    """Return the last rows of quality that were measured while training, or the final table, as HTML."""
    rows = [row for row in entry.quality if finite(row.get("distance")) is not None][-LAST:]
    head, cells = ["step"], [[f"{row.get('step', 0):,}"] for row in rows]
    if not rows:
        rows = [row for row in entry.rows if finite(row.get("distance")) is not None]
        head, cells = [], [[] for _ in rows]
    if not rows:
        return ""
    told = [
        [*cell, str(row.get("weights", "")), str(row.get("nfe", "")), number(finite(row["distance"]))]
        for cell, row in zip(cells, rows, strict=True)
    ]
    table = markup.table([*head, "weights", "NFE", metric(rows[0])], told)
    return markup.section("Quality", table)
