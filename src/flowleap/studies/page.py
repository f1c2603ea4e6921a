"""The report of a study: its runs as entries, the seeds of a method as one group."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowleap import reports
from flowleap.files import replace_file
from flowleap.formatting import plural, scaled
from flowleap.studies import table
from flowleap.studies.outcome import Outcome, Study
from flowleap.studies.plan import Row

NAME = "report.html"


def write(study: Study, outcomes: Sequence[Outcome], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the report of a study, and return its path."""
    request = study.plan.request
    firsts = {outcome.method: outcome for outcome in reversed(outcomes)}
    entries = [entry(study, outcome, first=outcome is firsts[outcome.method]) for outcome in outcomes]
    text = reports.page(
        table.title(study.plan),
        entries,
        subtitle=f"{request.budget} a run, equal {study.plan.equal}, {plural(request.seeds, 'seed')}",
        commands=[f"{table.command(study.plan)} --out {study.out}"],
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    replace_file(study.out / NAME, text)
    return study.out / NAME


def entry(study: Study, outcome: Outcome, *, first: bool) -> reports.Entry:
    """Return a run as an entry; only the first of a method shows samples."""
    request, row = study.plan.request, study.plan.row(outcome.method)
    label = f"{outcome.method}, seed {outcome.seed}"
    try:
        made = reports.gather(
            study.place(outcome), label, steps=request.steps, num=None if first else 0, device=request.device
        )
    except ValueError as error:
        made = reports.Entry(label, missing=[str(error)])
    missing = [*made.missing, *([f"failed: {outcome.reason}"] if outcome.failed else [])]
    return replace(
        made, group=row.method, rows=outcome.rows, note=note(row, outcome), missing=missing, commands=()
    )


def note(row: Row, outcome: Outcome) -> str:
    """Return the variant of a row, its cost, its phases, and the steps it is not meant for."""
    said = [f"variant {row.variant}", f"{scaled(outcome.forward_equivalents)} forward-equivalents"]
    if row.phases == 2:
        said.append(f"teacher and student, {row.steps // 2} steps each")
    outside = [str(one["steps"]) for one in outcome.rows if not one["intended"]]
    if outside:
        said.append(f"not meant for {', '.join(outside)} step{'s' * (outside != ['1'])}")
    return "; ".join(said)
