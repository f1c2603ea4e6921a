"""The content of a report: an entry for each run; entries of the same group are repetitions, such as seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from flowleap.citations import Citation


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Samples and their nearest training samples.

    `typical` is the median distance of real samples to the nearest other real one.

    Shapes: samples, nearest (n, channels, height, width); distance (n,).
    Units: Euclidean distance between pixels in [−1, 1].
    """

    nfe: int
    samples: Tensor
    nearest: Tensor
    distance: Tensor
    typical: float


@dataclass(frozen=True, eq=False)
class Entry:
    """One run of a report. Everything but the label may be left out.

    Args:
        label: of the run; labels of a report should differ (see `unique`).
        group: entries of the same group share color and marker, and the table shows their mean ± standard deviation.
        note: a remark on the run.
        config: its settings, nested as in config.json.
        rows: its evaluation, as `evaluation.evaluate` returns it: one row per NFE.
        metrics, quality: the lines of metrics.jsonl and of quality.jsonl.
        samples: for each NFE, images (n, channels, height, width) in [−1, 1] or points (n, 2);
            sample i from the same noise in all of them and in all entries.
        classes: the class of each sample. names: those of all classes; empty where they are numbers.
        real: real samples of the same kind, images in the order of `classes`.
        neighbors: samples beside their nearest training samples.
        diagnosis: as in diagnosis.json.
        parameters: of the network.
        environment: versions, commit and commands, as in environment.json.
        papers: to cite.
        commands: that made the run and its numbers.
        missing: what could not be shown, and how to get it.
    """

    label: str
    group: str | None = None
    note: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    quality: Sequence[Mapping[str, Any]] = ()
    samples: Mapping[int, Tensor] = field(default_factory=dict)
    classes: Tensor | None = None
    names: Sequence[str] = ()
    real: Tensor | None = None
    neighbors: Neighbors | None = None
    diagnosis: Mapping[str, Any] | None = None
    parameters: int | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    papers: Sequence[Citation] = ()
    commands: Sequence[str] = ()
    missing: Sequence[str] = ()


def finite(value: Any) -> float | None:
    """Return a finite number as a float; None for anything else."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def unique(names: Iterable[str]) -> list[str]:
    """Return the names with (2), (3), … behind those that came before.

    >>> unique(["esc", "meanflow", "esc"])
    ['esc', 'meanflow', 'esc (2)']
    """
    found: list[str] = []
    for name in names:
        others = (f"{name} ({number})" for number in count(2))
        found.append(name if name not in found else next(other for other in others if other not in found))
    return found


@dataclass(frozen=True)
class Measured:
    """A number of one group at one NFE: the mean over its runs.

    `low` and `high`: the 95 % interval of a single run, mean ∓ standard deviation of several.
    """

    value: float
    low: float | None
    high: float | None
    runs: int


@dataclass(frozen=True, eq=False)
class Group:
    """The entries of a group; `look` is the number of their color and marker."""

    label: str
    look: int
    entries: Sequence[Entry]

    def nfes(self) -> list[int]:
        """Return the NFEs that were measured."""
        known = (finite(row.get("nfe")) for entry in self.entries for row in entry.rows)
        return sorted({int(nfe) for nfe in known if nfe is not None})

    def at(self, nfe: int) -> list[Mapping[str, Any]]:
        """Return the rows of an NFE."""
        return [row for entry in self.entries for row in entry.rows if row.get("nfe") == nfe]

    def measured(self, nfe: int, name: str = "distance") -> Measured | None:
        """Return a number at an NFE; None where no run has it."""
        rows = self.at(nfe)
        numbers = [number for row in rows if (number := finite(row.get(name))) is not None]
        if not numbers:
            return None
        if len(numbers) > 1:
            mean, spread = fmean(numbers), stdev(numbers)
            return Measured(mean, mean - spread, mean + spread, len(numbers))
        low, high = interval(rows[0]) if name == "distance" and len(rows) == 1 else (None, None)
        return Measured(numbers[0], low, high, 1)


def interval(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the interval of the distance of a row, (None, None) where there is none."""
    bounds = row.get("interval") or ()
    low, high = (finite(bound) for bound in bounds) if len(bounds) == 2 else (None, None)
    return (low, high) if low is not None and high is not None else (None, None)


def groups(entries: Sequence[Entry]) -> list[Group]:
    """Return the groups in the order of their first entries; an entry without a group is one of its own."""
    found: dict[tuple[bool, str], list[Entry]] = {}
    for entry in entries:
        key = (entry.group is None, entry.label if entry.group is None else entry.group)
        found.setdefault(key, []).append(entry)
    return [Group(name, look, members) for look, ((_, name), members) in enumerate(found.items())]
