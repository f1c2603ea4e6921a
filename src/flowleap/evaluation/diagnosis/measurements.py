"""The numbers of a diagnosis by probe, those of the training and the quality table of a run, and the findings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from flowleap.formatting import plural

Severity = Literal["note", "warning", "problem"]
ORDER: tuple[Severity, ...] = ("problem", "warning", "note")
VARIANCE = 0.05
"""Of points: a distance below this share of their variance is small, whatever that between halves of them."""


@dataclass(frozen=True)
class Finding:
    """A finding: its title, and a text with the numbers, the likely cause and what to do."""

    severity: Severity
    title: str
    text: str


@dataclass(frozen=True)
class Curve:
    """A number for each bin of a variable: bin i holds edges[i] ≤ variable < edges[i + 1], the last its end too.

    `value` and `error`, its standard error, are None where nothing was measured. Only finite rows count.
    """

    edges: tuple[float, ...]
    count: tuple[int, ...]
    value: tuple[float | None, ...]
    error: tuple[float | None, ...]

    @property
    def centers(self) -> list[float]:
        """The middle of each bin."""
        return [(low + high) / 2 for low, high in pairwise(self.edges)]


@dataclass(frozen=True)
class Error:
    """The raw error of the objective's regression, per dimension, by departure time.

    Args:
        diagonal, jumps: mean over the rows r = t and over the rows r < t; None where a method has none.
        share: of the rows of a training batch with r = t. `diagonal` is measured even where it is 0.
        ratio: of the error on r = t to that on r < t, the geometric mean over the bins that have both.
        explained: 1 − (error on r = t) / (mean square of the target there): 0 for a network that outputs zero; below 1
            for the best one, since targets are random.
        behind: E‖u(x_t, t, t) − v‖² relative to that of the isotropic Gaussian fitted to the data, v the velocity of
            the pair, the geometric mean over the bins; None for guided training, which moves u away from v.
        joint: E‖u(x_t, t, t) − v‖² / E‖u(x_t, t, t − ε) − v‖², ε a fiftieth of the range; None without jumps.
    """

    diagonal: Curve
    jumps: Curve | None
    share: float
    ratio: float | None
    explained: float | None
    behind: float | None
    joint: float | None


@dataclass(frozen=True)
class Semigroup:
    """The distance between one jump and two, relative to the length of the jump; 0 for every exact flow.

        √( Σ‖X_{t→r}(x_t) − X_{s→r}(X_{t→s}(x_t))‖² / Σ‖X_{t→r}(x_t) − x_t‖² ), sums over the rows of a bin

    t is uniform on the range of times (in ln t for noise levels), r and s uniform below it; x_t are noised data.
    Time laws on a grid draw their own (t, s, r). Sums are divided, not rows, since single rows may hardly move.

    Args:
        by_time: random (t, s, r), by t. by_span: by t − r as a share of the range, with the rows of `to_data`.
        to_data: r = t_min, one-step maps to the data, by t.
        short: random spans below a fifth of the range. long: all spans from four fifths of it.
    """

    by_time: Curve
    by_span: Curve
    to_data: Curve
    overall: float | None
    short: float | None
    long: float | None


@dataclass(frozen=True)
class Tangent:
    """dF/dt = ∂_t F + (∇F) u(x_t, t, t), at fixed r; for methods without jumps along the diagonal, r = t.

    For noise levels t stands for the share of the way in ln t. Norms are root mean squares over the dimensions.

    Args:
        strategy: "exact JVP", or "central difference" where the network has no forward-mode derivative.
        median, p95, largest: of the rows of each bin of t.
        relative: √(Σ‖dF/dt‖² / Σ‖F‖²) of each bin.
        gap: √(Σ‖exact − central difference‖² / Σ‖exact‖²), ε = 1/200 of the range, the median over the bins, since a
            rough time embedding is rough everywhere; None without the exact derivative.
    """

    strategy: str
    median: Curve
    p95: Curve
    largest: Curve
    relative: Curve
    gap: float | None


@dataclass(frozen=True)
class Sensitivity:
    """√(Σ‖F' − F‖² / Σ‖F‖²) where one input alone is replaced; None without that input.

    Without jumps `time` replaces t and r = t together, and `landing` is None. `size` is the root mean square of F.
    """

    time: float | None
    landing: float | None
    label: float | None
    size: float | None


@dataclass(frozen=True)
class Spread:
    """The variety of samples of a number of steps, within their class.

    Args:
        spread: total variance within a class relative to that of the data: 1 is right, 0 is one image per class.
        diversity: effective number of directions, (tr C)²/tr C², relative to that of as many rows of the data.
        offset: squared distance of the class means to those of the data, in units of the variance of the data.
        gap: √(Σ‖x − y‖² / Σ‖y − z‖²) to the samples y of the most steps, z the noise of both.
    """

    steps: int
    spread: float | None
    diversity: float | None
    offset: float | None
    gap: float | None


@dataclass(frozen=True)
class Gradient:
    """The norm of the gradient of the mean loss over all parameters: `spread` is its std/mean over the batches."""

    mean: float | None
    spread: float | None
    largest: float | None
    batches: int


@dataclass(frozen=True)
class Trends:
    """The course of training by its metrics; None where there are too few rows with the number.

    Args:
        fall: 1 − (raw error in the last quarter)/(in the quarter before). rise: last quarter / best before it.
        spikes: rows whose gradient norm is `SPIKE` times the median of the 20 before; `worst` the largest factor.
        growth: ‖du/dt‖ in the last quarter relative to the second.
        skipped: steps skipped as not finite; `lost`: their share of all steps.
        rate: the learning rate at the end relative to the highest.
    """

    steps: int
    rows: int
    fall: float | None
    rise: float | None
    spikes: int
    worst: float | None
    worst_step: int | None
    growth: float | None
    skipped: int
    lost: float
    rate: float | None


@dataclass(frozen=True)
class Quality:
    """One row of the quality table of a run; `intended`: whether its method is meant for that number of steps."""

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
        """The number of steps as text: 1 step, 4 steps."""
        return plural(self.steps, "step")


@dataclass(frozen=True)
class RunFacts:
    """The length of the training of a run, and its quality table.

    Args:
        steps, batch: of the training so far, None where it is not known; `planned`: steps of the whole training.
        images: rows of the training data.
        classes: the number of classes, None without labels.
        rows: of the table, without those of given times; empty without a table of these weights.
        other: the weights of the table, where these are not the ones diagnosed.
        metric: the name of the distance. num: samples of each row.
        floor: the distance between halves of the reference data. real: that of `num` real images to the reference.
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
        """Passes over the data so far."""
        return None if self.steps is None else self.steps * self.batch / max(1, self.images)

    @property
    def intended(self) -> list[Quality]:
        """The rows of step counts that the method is meant for, fewest steps first; all where there are none."""
        measured = sorted((row for row in self.rows if row.distance is not None), key=lambda row: row.steps)
        return [row for row in measured if row.intended] or measured

    def ratio(self, row: Quality) -> float:
        """Return the distance of a row relative to that of as many real images; 0 where that is not known."""
        if row.distance is None or not self.real:
            return 0.0
        if self.variance is not None and row.distance < VARIANCE * self.variance:
            return 0.0
        return row.distance / self.real


@dataclass(frozen=True)
class Diagnosis:
    """The numbers measured of a map, and the findings, worst first.

    Args:
        jumps: whether the method trains rows r < t. one_step: whether it is meant for one step.
        not_finite: the share of probed rows that were not finite, which do not count.
    """

    method: str
    data: str
    num: int
    batch: int
    seed: int
    jumps: bool
    one_step: bool
    not_finite: float
    error: Error
    semigroup: Semigroup
    tangent: Tangent
    sensitivity: Sensitivity
    spread: tuple[Spread, ...]
    gradient: Gradient | None
    trends: Trends | None
    settings: Mapping[str, Any]
    run: RunFacts | None = None
    findings: tuple[Finding, ...] = ()

    def panels(self) -> dict[str, dict[str, tuple[list[float], tuple[float | None, ...]]]]:
        """Return the series of `pictures.panels`: lines (t, value) by title and name."""
        e, g = self.error, self.semigroup
        lines = {
            "unweighted error": {"r = t": e.diagonal} | ({} if e.jumps is None else {"r < t": e.jumps}),
            "two jumps against one": {"random": g.by_time, "to the data": g.to_data},
            "‖du/dt‖ / ‖u‖": {"": self.tangent.relative},
        }
        return {
            title: {name: (curve.centers, curve.value) for name, curve in curves.items()}
            for title, curves in lines.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain data: every number finite or None."""
        plain: dict[str, Any] = _plain(asdict(replace(self, settings=dict(self.settings))))
        return {"format": 1, **plain}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
