"""What is wrong with a run: errors per time, self-consistency, derivatives, sensitivities, spread.

| probe       | what is measured                                                                                     |
|-------------|------------------------------------------------------------------------------------------------------|
| error       | the raw squared residual of the objective's own regression, by departure time, r = t and r < t apart |
| semigroup   | √(Σ‖X_{t→r}(x_t) − X_{s→r}(X_{t→s}(x_t))‖² / Σ‖X_{t→r}(x_t) − x_t‖²), by t, by span, and for r = t_min |
| tangent     | ‖dF/dt‖ along the map's own velocity, and how far a central difference is from the exact derivative  |
| sensitivity | √(Σ‖F' − F‖² / Σ‖F‖²) when t, r or the label alone is another                                        |
| spread      | the variance of samples within their class against that of the data, in one and in several steps    |
| gradient    | the norm of the gradient of the loss, over a few batches                                             |
| trends      | what the metrics of the run say: error still falling, spikes, skipped steps, a growing derivative    |
| run         | the quality table of the run against real data, and the length of its training                       |

`findings.judge` puts them into sentences. Everything is a pure function of the map, the data and the seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from flowleap import samplers
from flowleap.couplings import Independent, StoredPairs
from flowleap.data import Dataset, Rows
from flowleap.data.batching import ClassGroups
from flowleap.derivatives import CentralDifference, TwoPass
from flowleap.evaluation import findings
from flowleap.evaluation.finding import Finding
from flowleap.evaluation.findings import Trends
from flowleap.evaluation.generation import device_of, evaluating
from flowleap.evaluation.run_findings import RunFacts
from flowleap.flow_map import FlowMap
from flowleap.losses import Squared
from flowleap.objectives import Consistency, Diagonal, FirstStage, Objective, Refreshed, Self
from flowleap.oracles import Gaussian
from flowleap.paths import Path
from flowleap.point import Batch, Point
from flowleap.randomness import generator
from flowleap.tensors import Image, Label, Time, like, squared_norm
from flowleap.times import Adjacent, NoiseGrid
from flowleap.velocities import Conditional, Teacher

__all__ = ["Curve", "Diagnosis", "diagnose"]

NUM = 1024  # rows of each probe: a hundred for each of ten bins, a standard error of some percent there
BATCH = 96  # rows at a time where nothing is said; the plug-in velocity depends on it, so a run gives its own
BINS = 10  # tenths of the range of times
LOWEST = 0.002  # the noise level that the logarithm of levels starts from, where they end at 0
BATCHES = 8  # gradients that are compared with one another
MANY = 16  # steps of the samples that those of one step are compared with
FITTED = 10_000  # rows that a Gaussian is fitted to, of data that are not held as floats
SAMPLES = 256  # samples whose spread is measured
CLASSES = 16  # classes they are spread over, at most


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
        share: of the rows of a training batch with r = t. Where it is 0, `diagonal` is measured all the same.
        ratio: of the error on r = t to that on r < t, the geometric mean over the bins that have both.
        explained: 1 − (error on r = t) / (mean square of what is regressed there): 0 for a network that knows
            nothing. Random targets cannot be explained in full, so that 1 is out of reach.
        behind: E‖u(x_t, t, t) − v‖² against that of the best round Gaussian in the place of the data, v the velocity
            of the pair, the geometric mean over the bins; None for guided training, which moves u away from v.
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
    """How far one jump is from two, relative to the length of the jump; 0 for every exact flow.

        √( Σ‖X_{t→r}(x_t) − X_{s→r}(X_{t→s}(x_t))‖² / Σ‖X_{t→r}(x_t) − x_t‖² ), sums over the rows of a bin

    t is uniform on the range of times (in ln t for noise levels), r and s uniform below it; x_t are noised data.
    Laws on a grid draw their own (t, s, r). Sums rather than rows are divided, for single rows may hardly move.

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
        gap: √(Σ‖exact − central difference‖² / Σ‖exact‖²), ε a two-hundredth of the range, the median of the bins,
            for a rough time embedding is rough everywhere; None without the exact derivative.
    """

    strategy: str
    median: Curve
    p95: Curve
    largest: Curve
    relative: Curve
    gap: float | None


@dataclass(frozen=True)
class Sensitivity:
    """√(Σ‖F' − F‖² / Σ‖F‖²) where one input alone is another one, drawn at random; None where there is none.

    Without jumps `time` moves t and r = t together, and `landing` is None. `size` is the root mean square of F.
    """

    time: float | None
    landing: float | None
    label: float | None
    size: float | None


@dataclass(frozen=True)
class Spread:
    """The variety of samples made in some number of steps, within their class.

    Args:
        spread: total variance within a class against that of the data: 1 is right, 0 is one image per class.
        diversity: effective number of directions, (tr C)²/tr C², against that of as many rows of the data.
        offset: squared distance of the class means to those of the data, in units of the variance of the data.
        gap: √(Σ‖x − y‖² / Σ‖y − z‖²) to the samples y of the most steps, z the noise both are made from.
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
class Diagnosis:
    """What was measured about a map, and the findings, worst first.

    `jumps` says whether the method trains any rows r < t, `one_step` whether it means to be sampled in one step,
    `not_finite` the share of probed rows that were not finite and do not count.
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
        """Return what `pictures.panels` draws: lines (t, value) by title and name."""
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


def diagnose(
    flow: FlowMap,
    objective: Objective,
    dataset: Dataset,
    *,
    seed: int = 0,
    num: int = NUM,
    batch: int = BATCH,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    run: RunFacts | None = None,
) -> Diagnosis:
    """Measure a map on the data it is meant for, and say in sentences what seems wrong with it.

    The network is left as it is: its mode, its gradients, and which of its parameters require them.

    Args:
        num: rows of each probe. batch: rows at a time; give that of the run, for it is part of some targets.
        metrics: the rows of metrics.jsonl, oldest first, or None.
        run: the length of the training and its quality table, see `run_findings.run_facts`, or None.

    Raises: ValueError for fewer than 64 rows, an empty batch, or a map of another path than the objective's.
    """
    if num < 64 or batch < 1:
        raise ValueError(
            f"num={num} rows in batches of {batch}: at least 64 rows and 1 per batch are expected"
        )
    with evaluating(flow):
        probe = _Probe(flow, objective, dataset, seed, num, batch)
        result = Diagnosis(
            method=objective.name,
            data=dataset.name,
            num=num,
            batch=probe.batch,
            seed=seed,
            jumps=probe.jumps,
            one_step=not objective.advice(1),
            error=probe.error(),
            semigroup=probe.semigroup(),
            tangent=probe.tangent(),
            sensitivity=probe.sensitivity(),
            spread=probe.spread(),
            gradient=probe.gradient(),
            trends=None if metrics is None else findings.trends(metrics),
            settings=findings.settings(objective, flow.network),
            run=run,
            not_finite=probe.lost / max(1, probe.seen),
        )
    return replace(result, findings=findings.judge(result))


# ---------------------------------------------------------------- rows and bins


@dataclass(frozen=True)
class _Clock:
    """The share f of the range of times that has passed since the data: linear in t, or in ln t for noise levels.

    Levels that end at 0 are counted from `LOWEST` on.
    """

    path: Path

    @property
    def _low(self) -> float:
        return self.path.t_min if self.path.t_max <= 1 else max(self.path.t_min, LOWEST)

    @property
    def _log(self) -> float | None:
        low, high = self._low, self.path.t_max
        return math.log(high / low) if high > 1 else None

    def time(self, share: Tensor) -> Time:
        low, high = self._low, self.path.t_max
        return low + (high - low) * share if self._log is None else low * torch.exp(self._log * share)

    def share(self, t: Time) -> Tensor:
        low, high = self._low, self.path.t_max
        return (
            (t - low) / (high - low) if self._log is None else torch.log(t.clamp_min(low) / low) / self._log
        )

    def rate(self, t: Time) -> Tensor:
        """Return dt/df."""
        span = self.path.t_max - self._low
        return torch.full_like(t, span) if self._log is None else t * self._log

    def edges(self) -> Tensor:
        return self.time(torch.linspace(0, 1, BINS + 1, dtype=torch.float64))


@dataclass(frozen=True)
class _Rows:
    """Noised data, the velocity of each pair of data and noise, and times r ≤ s ≤ t."""

    x_t: Image
    v: Image
    t: Time
    s: Time
    r: Time
    label: Label


def _which(position: Tensor, edges: Tensor) -> Tensor:
    return torch.bucketize(position.double(), edges[1:-1].contiguous(), right=True)


def _averaged(position: Tensor, values: Tensor, edges: Tensor) -> Curve:
    """The mean of each bin with its standard error."""
    found = [values[(_which(position, edges) == i) & values.isfinite()] for i in range(len(edges) - 1)]
    return Curve(
        edges=tuple(edges.tolist()),
        count=tuple(len(part) for part in found),
        value=tuple(float(part.mean()) if len(part) else None for part in found),
        error=tuple(float(part.std() / len(part) ** 0.5) if len(part) > 1 else None for part in found),
    )


def _ratio(above: Tensor, below: Tensor) -> tuple[float | None, float | None]:
    """√(Σ above / Σ below) and its standard error over rows; None where nothing, or nothing below, is there."""
    fine = above.isfinite() & below.isfinite()
    above, below = above[fine].double(), below[fine].double()
    total = float(below.sum())
    if not total > 0:
        return None, None
    ratio = float(above.sum()) / total
    root = math.sqrt(ratio)
    if len(above) < 2 or root == 0:
        return root, None
    return root, float((above - ratio * below).square().sum().sqrt()) / total / (2 * root)


def _rooted(position: Tensor, above: Tensor, below: Tensor, edges: Tensor) -> Curve:
    """√(Σ above / Σ below) of each bin with its standard error."""
    bins = _which(position, edges)
    found = [_ratio(above[bins == i], below[bins == i]) for i in range(len(edges) - 1)]
    counts = tuple(int((bins == i).sum()) for i in range(len(edges) - 1))
    return Curve(tuple(edges.tolist()), counts, tuple(v for v, _ in found), tuple(e for _, e in found))


def _quantile(position: Tensor, values: Tensor, edges: Tensor, share: float) -> Curve:
    """A quantile of each bin, without an error."""
    found = [values[(_which(position, edges) == i) & values.isfinite()] for i in range(len(edges) - 1)]
    return Curve(
        edges=tuple(edges.tolist()),
        count=tuple(len(part) for part in found),
        value=tuple(float(part.double().quantile(share)) if len(part) else None for part in found),
        error=(None,) * len(found),
    )


# ---------------------------------------------------------------- the probes


def _untaught(objective: Objective, flow: FlowMap) -> Objective:
    """Return an objective with the data in the place of a teacher that is not at hand, else as it is.

    Its velocity becomes that of the pairs of data and noise, and stored pairs become independent ones; a teacher that
    is taken anew in stages becomes the network itself. A target that asks a teacher of its own becomes consistency in
    short steps to the data. A first stage is part of the network in two stages.
    """
    if not objective.needs_teacher:
        return objective
    if isinstance(objective.frozen, FirstStage | Refreshed):
        return objective.with_teacher(flow)
    taught = objective
    if isinstance(taught.velocity, Teacher):
        taught = replace(taught, velocity=Conditional())
    if isinstance(taught.coupling, StoredPairs):
        taught = replace(taught, coupling=Independent())
    if taught.needs_teacher:
        times = Adjacent(128) if taught.path.t_max <= 1 else NoiseGrid()
        taught = replace(taught, target=Consistency(), times=times, loss=Squared(), frozen=Self())
    return taught


class _Probe:
    """The measurements of one diagnosis: rows are drawn by name from the seed, so that no probe moves another."""

    def __init__(
        self, flow: FlowMap, objective: Objective, dataset: Dataset, seed: int, num: int, batch: int
    ) -> None:
        labeled = dataset.label is not None and flow.num_classes is not None
        self.flow, self.seed, self.num = flow, seed, num
        self.data = dataset if labeled else replace(dataset, label=None, num_classes=None)
        # a horizon counts as passed: what is diagnosed is what training has come to
        objective = _untaught(objective, flow)
        self.objective = objective if objective.steps is not None else objective.for_run(1)
        self.first = self.objective.steps or 1
        self.jumps = not isinstance(objective.target, Diagonal)
        self.batch = batch
        group = objective.batching.group if isinstance(objective.batching, ClassGroups) else None
        group = math.lcm(group or 1, objective.group)
        if group > 1:
            self.batch = max(1, batch // group) * group
        self.clock, self.device = _Clock(flow.path), device_of(flow)
        self.seen = self.lost = 0

    def count(self, *numbers: Tensor) -> None:
        """Take note of how many rows were not finite."""
        for rows in numbers:
            self.seen += len(rows)
            self.lost += int((~rows.isfinite()).sum())

    def points(self, batches: int) -> Iterator[Point]:
        """The objective's own draws, as training would make them after its last step."""
        for step in range(self.first, self.first + batches):
            rows = self.objective.batching.indices(
                self.data.label, len(self.data), self.batch, step, self.seed
            )
            label = None if self.data.label is None else self.data.label[rows].to(self.device)
            batch = Batch(self.data.x[rows].to(self.device), label)
            yield self.objective.draw(batch, step, self.seed, self.flow)

    def error(self) -> Error:
        """The raw error of the regression, by departure time."""
        flow, objective = self.flow, self.objective
        parts: dict[bool, list[Tensor]] = {True: [], False: []}
        drawn = jumping = 0
        for point in self.points(math.ceil(self.num / self.batch)):
            drawn, jumping = drawn + len(point), jumping + point.off
            found = [(point, objective.regress(flow, None, point))]
            if point.off == len(point):  # no row has r = t, which is measured all the same
                still = objective.point(
                    point.x, point.noise, point.t, point.t, point.t, point.label, point.step, point.dropped,
                    point.plug_in, point.group, off=0,
                )  # fmt: skip
                found.append((still, objective.regress(flow, None, still)))
            for one, regression in found:
                size = squared_norm(regression.target.double(), "mean")
                numbers = torch.stack([one.t.double(), regression.raw.double(), size]).cpu()
                parts[True].append(numbers[:, one.off :])
                parts[False].append(numbers[:, : one.off])
        rest, moving = (torch.cat(parts[kind], dim=1) for kind in (True, False))
        self.count(rest[1], moving[1])
        edges = self.clock.edges()
        diagonal = _averaged(rest[0], rest[1], edges)
        jumps = _averaged(moving[0], moving[1], edges) if self.jumps else None
        fine = rest[1:].isfinite().all(dim=0)
        power = float(rest[2, fine].mean()) if bool(fine.any()) else 0.0
        explained = 1 - float(rest[1, fine].mean()) / power if power > 0 else None
        ratio = None if jumps is None else _compared(diagonal, jumps)
        return Error(diagonal, jumps, 1 - jumping / drawn, ratio, explained, *self.velocity_error())

    def velocity_error(self) -> tuple[float | None, float | None]:
        """How good the instantaneous velocity is: against a Gaussian's, and against that of the shortest jumps."""
        t = self.times("velocity")[0]
        share = self.clock.share(t)
        short = max(0.02, 2 * self.objective.times.finest)
        landing = self.clock.time((share - short).clamp_min(0.0))
        x = self.data.part(FITTED).x[:].double() if isinstance(self.data.x, Rows) else self.data.x.double()
        center, width = x.mean(0), float(x.flatten(1).var(0).mean().sqrt())
        gaussian, parts = Gaussian(center, width, self.flow.path), []
        for rows in self.rows("velocity", (t, landing, landing)):
            errors = [
                squared_norm((self.flow.velocity(rows.x_t, rows.t, r, rows.label) - rows.v).double(), "mean")
                for r in (None, rows.r)
            ]
            parts.append(torch.stack(errors).cpu())
        instant, near = torch.cat(parts, dim=1)
        self.count(instant)
        if not bool(instant.isfinite().all() & near.isfinite().all()):
            return None, None
        edges = self.clock.edges()
        ours, theirs = (_averaged(t, values, edges) for values in (instant, gaussian.velocity_variance(t)))
        behind = None if self.objective.guidance is not None or width == 0 else _compared(ours, theirs)
        return behind, float(instant.mean() / near.mean()) if self.jumps and near.mean() > 0 else None

    # ------------------------------------------------------------ at times of our own

    def times(self, stream: str, to_data: bool = False) -> tuple[Time, Time, Time]:
        """Triples r ≤ s ≤ t, (num,) float64: uniform and stratified in t, or from a law that knows a grid only."""
        g, law = generator(self.seed, f"diagnosis/times/{stream}"), self.objective.times
        if law.finest > 0 and self.jumps:
            t, s, r, off = law.draw(g, 64 * self.num, 1.0)
            low = self.flow.path.t_min
            t, s, r = (time[:off].double().clamp(low, self.flow.path.t_max) for time in (t, s, r))
            kept = (r <= low).nonzero().flatten() if to_data else torch.arange(off)
            kept = kept[torch.arange(self.num) % len(kept)]
            return t[kept], s[kept], r[kept]
        draws = torch.rand(3, self.num, generator=g, dtype=torch.float64)
        t = (torch.arange(self.num) + draws[0]).clamp_min(0.1) / self.num
        r = torch.zeros_like(t) if to_data else t * draws[1]
        s = r + (t - r) * draws[2]
        return self.clock.time(t), self.clock.time(s), self.clock.time(r)

    def rows(self, stream: str, times: tuple[Time, Time, Time]) -> Iterator[_Rows]:
        """Rows of the data, noised to their t, some at a time."""
        size, data = len(self.data), self.data
        order = torch.randperm(size, generator=generator(self.seed, f"diagnosis/rows/{stream}"))
        chosen = order[torch.arange(self.num) % size]
        g = generator(self.seed, f"diagnosis/noise/{stream}")
        for start in range(0, self.num, self.batch):
            part = slice(start, start + self.batch)
            x = data.x[chosen[part]].to(self.device)
            noise = self.objective.coupling.noise(g, x.shape).to(x)
            t, s, r = (time[part].to(x) for time in times)
            label = None if data.label is None else data.label[chosen[part]].to(self.device)
            path = self.flow.path
            yield _Rows(path.point(x, noise, t), path.velocity(x, noise, t), t, s, r, label)

    def jump(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        """X_{t→r}(x); jumps at the finest level of a grid ask the network on its diagonal, as in training."""
        asked = torch.where(t - r <= 1.001 * self.objective.times.finest, t, r)
        return self.flow.step(self.flow.output(x, t, asked, label), x, t, r)

    def semigroup(self) -> Semigroup:
        """One jump against two."""
        numbers = {}
        for kind in ("random", "to data"):
            times = self.times(f"semigroup/{kind}", kind == "to data")
            parts = []
            for rows in self.rows(f"semigroup/{kind}", times):
                one = self.jump(rows.x_t, rows.t, rows.r, rows.label)
                between = self.jump(rows.x_t, rows.t, rows.s, rows.label)
                two = self.jump(between, rows.s, rows.r, rows.label)
                squares = [squared_norm((a - b).double()) for a, b in ((one, two), (one, rows.x_t))]
                parts.append(torch.stack(squares).cpu())
            numbers[kind] = (
                times[0],
                self.clock.share(times[0]) - self.clock.share(times[2]),
                *torch.cat(parts, 1),
            )
            self.count(numbers[kind][2])
        edges, shares = self.clock.edges(), torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
        t, length, above, below = numbers["random"]
        short = length < 0.2
        t_0, _, above_0, below_0 = numbers["to data"]
        span, a, b = (torch.cat([numbers[kind][i] for kind in numbers]) for i in (1, 2, 3))
        return Semigroup(
            by_time=_rooted(t, above, below, edges),
            by_span=_rooted(span, a, b, shares),
            to_data=_rooted(t_0, above_0, below_0, edges),
            overall=_ratio(above, below)[0],
            short=_ratio(above[short], below[short])[0],
            long=_ratio(a[span >= 0.8], b[span >= 0.8])[0],
        )

    def tangent(self) -> Tangent:
        """The derivative along the flow, exactly and by a central difference."""
        times = self.times("tangent")
        exact = self.has_jvp()
        parts = [self.rates(rows, exact) for rows in self.rows("tangent", times)]
        size, rate, gap = torch.cat(parts, dim=1)
        self.count(rate)
        edges, t = self.clock.edges(), times[0]
        median, p95, largest = (_quantile(t, rate.sqrt(), edges, share) for share in (0.5, 0.95, 1.0))
        return Tangent(
            strategy="exact JVP" if exact else "central difference",
            median=median,
            p95=p95,
            largest=largest,
            relative=_rooted(t, rate, size, edges),
            gap=_middle(_rooted(t, gap, rate, edges)) if exact else None,
        )

    def rates(self, rows: _Rows, exact: bool) -> Tensor:
        """Mean squares over the dimensions, (3, rows): of F, of dF/dt, and of exact minus central difference."""
        flow, clock = self.flow, self.clock
        share, landing = clock.share(rows.t), clock.share(rows.r) if self.jumps else torch.zeros_like(rows.r)

        def field(x: Image, f: Tensor) -> Image:
            t = clock.time(f)
            return flow.output(x, t, rows.r if self.jumps else t, rows.label)

        along = like(clock.rate(rows.t), rows.x_t) * flow.velocity(rows.x_t, rows.t, label=rows.label)
        settings: dict[str, Any] = {"domain": (landing, 1.0), "curve": lambda f: rows.x_t}
        rate = CentralDifference()(field, rows.x_t, share, along, **settings)[1]
        gap = torch.zeros_like(rate)
        if exact:
            gap, rate = rate, TwoPass()(field, rows.x_t, share, along, **settings)[1]
            gap = gap - rate
        values = (field(rows.x_t, share), rate, gap)
        return torch.stack([squared_norm(value.double(), "mean") for value in values]).cpu()

    def has_jvp(self) -> bool:
        """Whether the network has a forward-mode derivative: some attention kernels and group norms have none."""
        rows = next(self.rows("tangent", self.times("tangent")))
        label = None if rows.label is None else rows.label[:2]
        few = _Rows(rows.x_t[:2], rows.v[:2], rows.t[:2], rows.s[:2], rows.r[:2], label)
        try:
            self.rates(few, exact=True)
        except (RuntimeError, NotImplementedError):
            return False
        return True

    def sensitivity(self) -> Sensitivity:
        """What the network answers when one of its inputs is another one."""
        t = self.times("sensitivity")[0]
        other = self.clock.time((self.clock.share(t) + 0.5) % 1.0)  # half of the range away
        low = torch.full_like(t, self.flow.path.t_min)
        parts = [self.answers(rows) for rows in self.rows("sensitivity", (t, other, low))]
        size, time, landing, label = torch.cat(parts, dim=1)
        self.count(size)
        mean = float(size[size.isfinite()].mean()) if bool(size.isfinite().any()) else math.nan
        return Sensitivity(
            time=_ratio(time, size)[0],
            landing=_ratio(landing, size)[0] if self.jumps else None,
            label=None if self.data.label is None else _ratio(label, size)[0],
            size=math.sqrt(mean) if math.isfinite(mean) else None,
        )

    def answers(self, rows: _Rows) -> Tensor:
        """Mean squares, (4, rows): of F, and of its change where t, r or the label is another one."""
        x, t, other, low = rows.x_t, rows.t, rows.s, rows.r
        landing, elsewhere = (low, low) if self.jumps else (t, other)
        label = rows.label
        output = self.flow.output(x, t, landing, label)
        changed = [
            self.flow.output(x, other, elsewhere, label),
            self.flow.output(x, t, t, label) if self.jumps else output,
            output if label is None else self.flow.output(x, t, landing, self.other_label(label)),
        ]
        squares = [output, *(one - output for one in changed)]
        return torch.stack([squared_norm(value.double(), "mean") for value in squares]).cpu()

    def other_label(self, label: Tensor) -> Tensor:
        """The next class for each row, in a circle."""
        return (label + 1) % max(1, self.data.num_classes or 1)

    # ------------------------------------------------------------ samples and gradients

    def spread(self) -> tuple[Spread, ...]:
        """The variety of samples, in one step and in several."""
        label, real = self.classes()
        shape, flow = self.data.shape, self.flow
        num = SAMPLES if label is None else len(label)
        noise = samplers.noise(self.seed, torch.arange(num), shape).to(self.device, self.data.x.dtype)
        trained = self.objective.trained
        many = MANY if trained is None else max((n for n in trained if n <= MANY), default=max(trained))
        made = {}
        for steps in sorted({1, many}):
            parts = []
            for start in range(0, num, self.batch):
                part = slice(start, start + self.batch)
                wanted = None if label is None else label[part].to(self.device)
                parts.append(
                    self.objective.sampling.sample(flow, noise[part], steps, label=wanted).double().cpu()
                )
            made[steps] = torch.cat(parts).flatten(1)
            self.count(made[steps].sum(1))
        prior, end = flow.prior(noise).double().cpu().flatten(1), made[many]
        found = []
        for steps, samples in made.items():
            inside = samples.clamp(-1, 1) if self.data.kind == "image" else samples
            gap = _ratio((samples - end).square().sum(1), (end - prior).square().sum(1))[0]
            found.append(Spread(steps, *_variety(inside, label, real), gap=None if steps == many else gap))
        return tuple(found)

    def classes(self) -> tuple[Label, list[Tensor]]:
        """The labels of the samples, and the rows of the data of each class that is sampled, (rows, d) float64."""
        x, label = self.data.x, self.data.label
        if label is None:
            return None, [x[self._some(torch.arange(len(x)))].flatten(1).double()]
        counts = label.bincount()
        present = (counts > 1).nonzero().flatten()
        chosen = present[torch.linspace(0, len(present) - 1, min(CLASSES, len(present))).long()]
        each = max(2, SAMPLES // len(chosen))
        real = [x[self._some((label == c).nonzero().flatten())].flatten(1).double() for c in chosen]
        return chosen.repeat_interleave(each), real

    def _some(self, rows: Tensor) -> Tensor:
        """At most 1,000 of these rows of the data, in an order of their own."""
        order = torch.randperm(len(rows), generator=generator(self.seed, "diagnosis/real"))
        return rows[order[:1000]]

    def gradient(self) -> Gradient | None:
        """The norm of the gradient of the loss; `.grad` and `requires_grad` of the network stay as they are."""
        network = self.flow.network
        if not isinstance(network, nn.Module):
            return None
        weights = [weight for weight in network.parameters() if weight.is_floating_point()]
        if not weights:
            return None
        norms = []
        with torch.enable_grad(), _requiring(weights):
            for point in self.points(BATCHES):
                regression = self.objective.regress(self.flow, None, point)
                loss = self.objective.per_sample(regression, point).mean()
                if not loss.requires_grad:  # the output does not depend on the weights
                    norms.append(0.0)
                    continue
                found = torch.autograd.grad(loss, weights, allow_unused=True)
                squares = [grad.double().square().sum() for grad in found if grad is not None]
                norms.append(float(torch.stack(squares).sum().sqrt()) if squares else 0.0)
        norm = torch.tensor(norms, dtype=torch.float64)
        if not bool(norm.isfinite().all()):
            return Gradient(None, None, None, BATCHES)
        mean = float(norm.mean())
        return Gradient(mean, float(norm.std()) / mean if mean > 0 else None, float(norm.max()), BATCHES)


@contextmanager
def _requiring(weights: Sequence[Tensor]) -> Iterator[None]:
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)


def _middle(curve: Curve) -> float | None:
    """The median over the bins."""
    values = [value for value in curve.value if value is not None]
    return statistics.median(values) if values else None


def _compared(diagonal: Curve, jumps: Curve) -> float | None:
    """The ratio of two curves, the geometric mean over the bins where both have at least 8 rows."""
    pairs = zip(diagonal.count, jumps.count, diagonal.value, jumps.value, strict=True)
    logs = [math.log(a / b) for n, m, a, b in pairs if n >= 8 and m >= 8 and a and b]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _variety(
    samples: Tensor, label: Label, real: Sequence[Tensor]
) -> tuple[float | None, float | None, float | None]:
    """Return (spread, diversity, offset) of samples against the data of their classes, see `Spread`."""
    groups = [samples] if label is None else [samples[label == c] for c in label.unique(sorted=True)]
    if not bool(samples.isfinite().all()):
        return None, None, None
    ours = sum(float(group.var(0).sum()) for group in groups)
    theirs = sum(float(group.var(0).sum()) for group in real)
    if not theirs > 0:
        return None, None, None
    few = [data[: len(group)] for group, data in zip(groups, real, strict=True)]
    directions = [(_directions(group), _directions(data)) for group, data in zip(groups, few, strict=True)]
    shares = [a / b for a, b in directions if a is not None and b is not None]
    apart = sum(float((a.mean(0) - b.mean(0)).square().sum()) for a, b in zip(groups, real, strict=True))
    return ours / theirs, sum(shares) / len(shares) if shares else None, apart / theirs


def _directions(rows: Tensor) -> float | None:
    """(tr C)²/tr C² of the covariance of some rows, from the smaller of its two Gram matrices."""
    centered = rows - rows.mean(0)
    gram = centered @ centered.T if len(rows) < rows.shape[1] else centered.T @ centered
    below = float(gram.square().sum())
    return float(gram.trace()) ** 2 / below if below > 0 else None
