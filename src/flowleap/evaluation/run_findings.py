"""Findings about the results of a run: its quality table and the length of its training.

The limits are set by the runs of benchmarks/digits.md (3,600 steps, 192 passes over the data): ESC, MeanFlow, shortcut
and flow matching stay within them at every number of steps that they are trained for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flowleap.data import Dataset
from flowleap.evaluation.finding import Finding
from flowleap.evaluation.report import COPIED, MEMORIZED
from flowleap.objectives import Objective

__all__ = ["Quality", "RunFacts", "judge_run", "run_facts"]

FAR = 3.0  # distances against that of real images: the runs of digits.md have at most 2.2, in one step of shortcut
VERY_FAR = 5.0  # flow matching in two steps, for which it is not trained, has 5.4: blurred digits
VARIANCE = (
    0.05  # of points: a distance below this share of their variance is small, whatever halves of them have
)
ACCURATE = 0.9  # label accuracy against that of real images: at least 0.98 in digits.md
GUESSED = 0.7  # below this share of it, labels are wrong so often that it shows
PRECISE = 0.3  # precision at best: 0.07 after 200 steps on digits, 0.47 and more for finished runs
VARIED = 0.1  # recall at best: 0.25 and more for finished runs
SHORT = 2000  # steps: digits.md has 3,600, the recipe of Fashion-MNIST 7,000
PASSES = 10.0  # over the data: digits.md has 192, the recipe of Fashion-MNIST 15


@dataclass(frozen=True)
class Quality:
    """One row of the table of a run; `intended` says whether its method is made for that number of steps."""

    steps: int
    intended: bool
    distance: float | None
    accuracy: float | None
    precision: float | None
    recall: float | None
    nearest_ratio: float | None
    copies: float | None

    @property
    def called(self) -> str:
        """The number of steps in words: 1 step, 4 steps."""
        return f"{self.steps} step{'s' * (self.steps > 1)}"


@dataclass(frozen=True)
class RunFacts:
    """How long a run was trained, and its quality table.

    Args:
        steps, batch: of the training so far, None where it is not known; `planned` steps are its whole length.
        images: rows of the training data.
        classes: of the labels it is trained with, None without.
        rows: of the table that were sampled in a number of steps; empty without a table of these weights.
        other: the weights that the table is of, where these are not the ones diagnosed.
        metric: the name of the distance. num: samples of each row.
        floor: the distance between halves of the reference data. real: what `num` real images have.
        real_accuracy: label accuracy of real images.
        variance: of points, the sum over their dimensions; None for anything else.
    """

    steps: int | None
    planned: int | None
    batch: int
    images: int
    classes: int | None = None
    rows: tuple[Quality, ...] = ()
    other: str | None = None
    metric: str = ""
    num: int = 0
    floor: float | None = None
    real: float | None = None
    real_accuracy: float | None = None
    variance: float | None = None

    @property
    def passes(self) -> float | None:
        """How often training has seen the data."""
        return None if self.steps is None else self.steps * self.batch / max(1, self.images)

    @property
    def intended(self) -> list[Quality]:
        """The rows whose number of steps the method is made for, fewest steps first; all where there are none."""
        measured = sorted((row for row in self.rows if row.distance is not None), key=lambda row: row.steps)
        return [row for row in measured if row.intended] or measured

    def ratio(self, row: Quality) -> float:
        """Return the distance of a row against that of as many real images; 0 where nothing is known of these."""
        if row.distance is None or not self.real:
            return 0.0
        if self.variance is not None and row.distance < VARIANCE * self.variance:
            return 0.0
        return row.distance / self.real


def run_facts(
    objective: Objective,
    dataset: Dataset,
    *,
    batch: int,
    steps: int | None,
    planned: int | None = None,
    classes: int | None = None,
    table: Sequence[Mapping[str, Any]] = (),
    weights: str = "",
) -> RunFacts:
    """Return the facts of a run.

    Args:
        steps: of its training so far, None where that is not known; `planned` of its whole training.
        table: the rows of table.json; they count only where they are of the weights of the name `weights`.
    """
    facts = RunFacts(steps, planned, batch, len(dataset), classes)
    rows = [row for row in table if row.get("steps") is not None and row.get("times") is None]
    if not rows:
        return facts
    first = rows[0]
    if first.get("weights") != weights:
        return replace(facts, other=str(first.get("weights")))
    floor, num = first.get("floor"), int(first["num"])
    points = first.get("features") == "point"
    return replace(
        facts,
        rows=tuple(_quality(row, objective) for row in rows),
        metric=str(first.get("metric", "distance")),
        num=num,
        floor=floor,
        real=None if floor is None else floor * _scarcity(first.get("reference_size"), num),
        real_accuracy=first.get("judge"),
        variance=float(dataset.x[:].flatten(1).double().var(0).sum()) if points else None,
    )


def _quality(row: Mapping[str, Any], objective: Objective) -> Quality:
    seen = bool(row.get("reference_seen"))  # only then is the nearest image one of training
    return Quality(
        steps=int(row["steps"]),
        intended=not objective.advice(int(row["steps"])),
        distance=row.get("distance"),
        accuracy=row.get("agreement"),
        precision=row.get("precision"),
        recall=row.get("recall"),
        nearest_ratio=row.get("nearest_ratio") if seen else None,
        copies=row.get("copies") if seen else None,
    )


def _scarcity(size: int | None, num: int) -> float:
    """How much greater the distance of `num` real images to all `size` is than that between two halves of them.

    A Fréchet distance of samples of sizes n and m is biased by a multiple of 1/n + 1/m: 4/size for two halves,
    1/num + 1/size here. At least 1: fewer images never count as nearer than halves are.
    """
    return 1.0 if not size else max(1.0, (size / num + 1) / 4)


def judge_run(run: RunFacts | None) -> list[Finding]:
    """Return what is wrong with the results of a run, most telling first; notes where nothing could be judged."""
    if run is None:
        return []
    found = [*_not_finite(run), *_distance(run), *_labels(run), *_precision(run), *_memorized(run)]
    poor = any(finding.severity != "note" for finding in found)
    return [*found, *_length(run, poor), *_unmeasured(run)]


def _not_finite(run: RunFacts) -> Iterable[Finding]:
    broken = [row for row in run.rows if row.distance is None]
    if broken:
        yield Finding(
            "problem",
            "Samples are not finite",
            f"In {_listed([row.called for row in broken])} some samples are NaN or infinite, so that nothing was "
            "measured. Train with a lower learning rate, or go back to an earlier checkpoint.",
        )


def _distance(run: RunFacts) -> Iterable[Finding]:
    rows = run.intended
    far = [row for row in rows if run.ratio(row) >= FAR]
    if not far:
        return
    best = min(rows, key=lambda row: row.distance or 0.0)
    first = far[0]
    told = f"In {first.called} {run.metric} is {first.distance:.3g}, {run.ratio(first):.2g} times {_compared(run)}"
    thing = "Images" if run.variance is None else "Points"
    if best in far:
        at_best = "" if best is first else f"; at best, in {best.called}, it is {best.distance:.3g}"
        recognized = run.real_accuracy is not None and (best.accuracy or 0.0) >= ACCURATE * run.real_accuracy
        severe = run.ratio(best) >= VERY_FAR and not recognized
        yield Finding(
            "problem" if severe else "warning",
            f"{thing} are far from the data",
            f"{told}{at_best}. Train longer; where that does not help, try another learning rate or a larger network.",
        )
        return
    fewer, called = first.steps < best.steps, first.called
    cause = (
        "Long jumps are learned last: train longer"
        if fewer
        else "The errors of many steps add up: train longer"
    )
    yield Finding(
        "warning",
        f"{thing} of {called} are far from the data",
        f"{told}; in {best.called} it is {best.distance:.3g}. {cause}, or sample in {best.called}.",
    )


def _compared(run: RunFacts) -> str:
    """What a distance is compared with, in words."""
    assert run.real is not None and run.floor is not None
    thing = "images" if run.variance is None else "points"
    if math.isclose(run.real, run.floor):
        return f"the {run.floor:.3g} between two halves of the data"
    return f"the {run.real:.3g} that {run.num:,} real {thing} would have"


def _labels(run: RunFacts) -> Iterable[Finding]:
    rows = [row for row in run.intended if row.accuracy is not None]
    if not rows or not run.real_accuracy:
        return
    wrong = [row for row in rows if (row.accuracy or 0.0) < ACCURATE * run.real_accuracy]
    if not wrong:
        return
    best = max(rows, key=lambda row: row.accuracy or 0.0)
    guessing = "" if not run.classes else f", and guessing {1 / run.classes:.2f}"
    at_best = "" if best is wrong[0] else f" and {best.accuracy:.2f} in {best.called}"
    yield Finding(
        "problem" if (best.accuracy or 0.0) < GUESSED * run.real_accuracy else "warning",
        "Low label accuracy",
        f"A classifier finds the label that was asked for in {wrong[0].accuracy:.2f} of the samples of "
        f"{wrong[0].called}{at_best}, where real images reach {run.real_accuracy:.2f}{guessing}. Train longer; check "
        "that the labels of the data are right.",
    )


def _precision(run: RunFacts) -> Iterable[Finding]:
    precision = max((row.precision for row in run.intended if row.precision is not None), default=1.0)
    recall = max((row.recall for row in run.intended if row.recall is not None), default=1.0)
    if precision < PRECISE:
        yield Finding(
            "warning",
            "Low precision",
            f"At best {precision:.2f} of the samples lie among real data: most do not look like any of them.",
        )
    if recall < VARIED:
        yield Finding(
            "warning",
            "Low recall",
            f"At best {recall:.2f} of the real data lie among the samples: these lack variety. Weaker guidance or "
            "longer training gives more.",
        )


def _memorized(run: RunFacts) -> Iterable[Finding]:
    ratios = [row.nearest_ratio for row in run.intended if row.nearest_ratio is not None]
    copies = max((row.copies or 0.0 for row in run.intended), default=0.0)
    if (ratios and min(ratios) < MEMORIZED) or copies > COPIED:
        ratio = f"memorization ratio {min(ratios):.2f}, 1 for real data" if ratios else ""
        share = f"{copies:.0%} of the samples of a row are almost training images" if copies > COPIED else ""
        yield Finding(
            "warning",
            "Samples are close to training images",
            f"{'; '.join(filter(None, (ratio, share)))}: the network may have memorized them. Use more data, a smaller "
            "network, dropout, or an earlier checkpoint.",
        )


def _length(run: RunFacts, poor: bool) -> Iterable[Finding]:
    if run.steps is None or run.passes is None:
        return
    if run.planned is not None and run.steps < run.planned:
        yield Finding(
            "note",
            "Training is not finished",
            f"These are the weights of step {run.steps} of {run.planned}.",
        )
    if run.steps >= SHORT and run.passes >= PASSES:
        return
    if poor or not run.rows:
        thing = "images" if run.variance is None else "points"
        yield Finding(
            "warning" if poor else "note",
            "Short training",
            f"{run.steps:,} steps of {run.batch:,} are {run.passes:.2g} passes over the {run.images:,} {thing} of the "
            f"data: train longer, at least {SHORT:,} steps and {PASSES:.0f} passes.",
        )


def _unmeasured(run: RunFacts) -> Iterable[Finding]:
    if run.rows:
        return
    why = (
        "There is no quality table (table.json)"
        if run.other is None
        else f"The quality table (table.json) is of the weights {run.other}, which are not those diagnosed here"
    )
    yield Finding(
        "note",
        "The quality of samples is not known",
        f"{why}: measure with flowleap evaluate --save, then diagnose again.",
    )


def _listed(names: Sequence[str]) -> str:
    """Several names in a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
