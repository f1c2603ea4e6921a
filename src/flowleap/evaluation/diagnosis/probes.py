"""The probes of a diagnosis: functions of the map, the data and the seed, see `measurements`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from flowleap import samplers
from flowleap.couplings import Independent
from flowleap.data import Dataset, Rows
from flowleap.data.batching import ClassGroups
from flowleap.derivatives import CentralDifference, TwoPass
from flowleap.evaluation.diagnosis.measurements import (
    Curve,
    Error,
    Gradient,
    Semigroup,
    Sensitivity,
    Spread,
    Tangent,
)
from flowleap.evaluation.generation import device_of
from flowleap.flow_map import FlowMap
from flowleap.losses import Squared
from flowleap.objectives import Consistency, Objective, Self
from flowleap.oracles import Gaussian
from flowleap.paths import Path
from flowleap.point import Batch, Point
from flowleap.randomness import RowGenerator, generator
from flowleap.tensors import Image, Label, Time, like, repeated, squared_norm
from flowleap.times import Adjacent, NoiseGrid
from flowleap.velocities import Conditional

BINS = 10  # tenths of the range of times
LOWEST = 0.002  # the least noise level of the logarithmic range, where levels end at 0
BATCHES = 8  # for gradient norms
MANY = 16  # steps of the samples that one-step samples are compared with
FITTED = 10_000  # rows that a Gaussian is fitted to, of data that are not held as floats
SAMPLES = 256  # for the spread
CLASSES = 16  # of these samples, at most


# ---------------------------------------------------------------- rows and bins


@dataclass(frozen=True)
class TimeRange:
    """The share f of the range of times, 0 at the data: linear in t, or in ln t for noise levels (from `LOWEST` on)."""

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


Estimate = tuple[float | None, float | None]
"""A number and its standard error."""


def _binned(position: Tensor, edges: Tensor, of: Callable[..., Estimate], *values: Tensor) -> Curve:
    """Return an estimate for each bin, of the rows in it that are finite."""
    which = torch.bucketize(position.double(), edges[1:-1].contiguous(), right=True)
    fine = torch.stack(values).isfinite().all(dim=0)
    parts = [[rows[fine & (which == i)] for rows in values] for i in range(len(edges) - 1)]
    found = [of(*part) for part in parts]
    return Curve(
        edges=tuple(edges.tolist()),
        count=tuple(len(part[0]) for part in parts),
        value=tuple(value for value, _ in found),
        error=tuple(error for _, error in found),
    )


def _mean(rows: Tensor) -> Estimate:
    value = float(rows.mean()) if len(rows) else None
    return value, float(rows.std() / len(rows) ** 0.5) if len(rows) > 1 else None


def _quantile(share: float) -> Callable[[Tensor], Estimate]:
    return lambda rows: (float(rows.double().quantile(share)) if len(rows) else None, None)


def _ratio(above: Tensor, below: Tensor) -> Estimate:
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


# ---------------------------------------------------------------- the probes


def _untaught(objective: Objective, flow: FlowMap) -> Objective:
    """Return an objective that needs no teacher, with the data in its place; one without a teacher as it is.

    Its velocity becomes the conditional one, stored pairs become independent ones, and a teacher that is refreshed in
    stages becomes the network itself. A target with a teacher of its own becomes consistency in short steps.
    """
    if not objective.needs_teacher:
        return objective
    if objective.frozen.holds_teacher:
        return objective.with_teacher(flow)
    taught = objective
    if taught.velocity.needs_teacher:
        taught = replace(taught, velocity=Conditional())
    if taught.coupling.stored:
        taught = replace(taught, coupling=Independent())
    if taught.needs_teacher:
        times = Adjacent(128) if taught.path.t_max <= 1 else NoiseGrid()
        taught = replace(taught, target=Consistency(), times=times, loss=Squared(), frozen=Self())
    return taught


class Probes:
    """The probes of one diagnosis; each draws its rows from a stream of its own, so that none changes another."""

    def __init__(
        self, flow: FlowMap, objective: Objective, dataset: Dataset, seed: int, num: int, batch: int
    ) -> None:
        labeled = dataset.label is not None and flow.num_classes is not None
        self.flow, self.seed, self.num = flow, seed, num
        self.data = dataset if labeled else replace(dataset, label=None, num_classes=None)
        # schedules are at their end: the diagnosis is of the trained network
        objective = _untaught(objective, flow)
        self.objective = objective if objective.steps is not None else objective.for_run(1)
        self.first = self.objective.steps or 1
        self.jumps = objective.times.lands != "nowhere"
        self.batch = batch
        group = objective.batching.group if isinstance(objective.batching, ClassGroups) else None
        group = math.lcm(group or 1, objective.group)
        if group > 1:
            self.batch = max(1, batch // group) * group
        self.clock, self.device = TimeRange(flow.path), device_of(flow)
        self.seen = self.lost = 0

    def count(self, *numbers: Tensor) -> None:
        """Count rows, and those that are not finite."""
        for rows in numbers:
            self.seen += len(rows)
            self.lost += int((~rows.isfinite()).sum())

    def points(self, batches: int) -> Iterator[Point]:
        """Yield training points of the objective, as after its last step."""
        for step in range(self.first, self.first + batches):
            rows = self.objective.batching.indices(
                self.data.label, len(self.data), self.batch, step, self.seed
            )
            label = None if self.data.label is None else self.data.label[rows].to(self.device)
            batch = Batch(self.data.x[rows].to(self.device), label)
            yield self.objective.draw(batch, step, self.seed, self.flow)

    def error(self) -> Error:
        """Measure the raw error of the regression, by departure time."""
        flow, objective = self.flow, self.objective
        parts: dict[bool, list[Tensor]] = {True: [], False: []}
        drawn = jumping = 0
        for point in self.points(math.ceil(self.num / self.batch)):
            drawn, jumping = drawn + len(point), jumping + point.num_jumps
            found = [(point, objective.regress(flow, None, point))]
            if point.num_jumps == len(point):  # no row has r = t, which is measured all the same
                still = objective.point(
                    point.x, point.noise, point.t, point.t, point.t, point.label, point.step,
                    dropped=point.dropped, plug_in=point.plug_in, group=point.group, num_jumps=0,
                )  # fmt: skip
                found.append((still, objective.regress(flow, None, still)))
            for one, regression in found:
                size = squared_norm(regression.target.double(), "mean")
                numbers = torch.stack([one.t.double(), regression.raw.double(), size]).cpu()
                parts[True].append(numbers[:, one.num_jumps :])
                parts[False].append(numbers[:, : one.num_jumps])
        rest, moving = (torch.cat(parts[kind], dim=1) for kind in (True, False))
        self.count(rest[1], moving[1])
        edges = self.clock.edges()
        diagonal = _binned(rest[0], edges, _mean, rest[1])
        jumps = _binned(moving[0], edges, _mean, moving[1]) if self.jumps else None
        fine = rest[1:].isfinite().all(dim=0)
        power = float(rest[2, fine].mean()) if bool(fine.any()) else 0.0
        explained = 1 - float(rest[1, fine].mean()) / power if power > 0 else None
        ratio = None if jumps is None else _compared(diagonal, jumps)
        return Error(diagonal, jumps, 1 - jumping / drawn, ratio, explained, *self.velocity_error())

    def velocity_error(self) -> tuple[float | None, float | None]:
        """Return `Error.behind` and `Error.joint`."""
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
        ours, theirs = (
            _binned(t, edges, _mean, values) for values in (instant, gaussian.velocity_variance(t))
        )
        behind = None if self.objective.guidance is not None or width == 0 else _compared(ours, theirs)
        return behind, float(instant.mean() / near.mean()) if self.jumps and near.mean() > 0 else None

    # ------------------------------------------------------------ at times of the diagnosis

    def times(self, stream: str, to_data: bool = False) -> tuple[Time, Time, Time]:
        """Return r ≤ s ≤ t, (num,) float64: uniform and stratified in t, or drawn by a time law on a grid."""
        name, law = f"diagnosis/times/{stream}", self.objective.times
        if law.finest > 0 and self.jumps:
            t, s, r, num_jumps = law.draw(RowGenerator(self.seed, name, total=64 * self.num), 1.0)
            low = self.flow.path.t_min
            t, s, r = (time[:num_jumps].double().clamp(low, self.flow.path.t_max) for time in (t, s, r))
            kept = (r <= low).nonzero().flatten() if to_data else torch.arange(num_jumps)
            kept = kept[torch.arange(self.num) % len(kept)]
            return t[kept], s[kept], r[kept]
        draws = torch.rand(3, self.num, generator=generator(self.seed, name), dtype=torch.float64)
        t = (torch.arange(self.num) + draws[0]).clamp_min(0.1) / self.num
        r = torch.zeros_like(t) if to_data else t * draws[1]
        s = r + (t - r) * draws[2]
        return self.clock.time(t), self.clock.time(s), self.clock.time(r)

    def rows(self, stream: str, times: tuple[Time, Time, Time]) -> Iterator[_Rows]:
        """Yield batches of noised data with their times."""
        size, data = len(self.data), self.data
        order = torch.randperm(size, generator=generator(self.seed, f"diagnosis/rows/{stream}"))
        chosen = order[torch.arange(self.num) % size]
        name = f"diagnosis/noise/{stream}"
        for part in torch.arange(self.num).split(self.batch):
            x = data.x[chosen[part]].to(self.device)
            random = RowGenerator(self.seed, name, total=self.num, rows=part, device=self.device)
            noise = self.objective.coupling.noise(random, x.shape[1:]).to(x)
            t, s, r = (time[part].to(x) for time in times)
            label = None if data.label is None else data.label[chosen[part]].to(self.device)
            path = self.flow.path
            yield _Rows(path.point(x, noise, t), path.velocity(x, noise, t), t, s, r, label)

    def jump(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        """X_{t→r}(x); the shortest jumps of a grid are asked on the diagonal, as in training."""
        asked = torch.where(t - r <= 1.001 * self.objective.times.finest, t, r)
        return self.flow.step(self.flow.output(x, t, asked, label), x, t, r)

    def semigroup(self) -> Semigroup:
        """Measure one jump against two."""
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
            by_time=_binned(t, edges, _ratio, above, below),
            by_span=_binned(span, shares, _ratio, a, b),
            to_data=_binned(t_0, edges, _ratio, above_0, below_0),
            overall=_ratio(above, below)[0],
            short=_ratio(above[short], below[short])[0],
            long=_ratio(a[span >= 0.8], b[span >= 0.8])[0],
        )

    def tangent(self) -> Tangent:
        """Measure the derivative along the flow, exactly and by a central difference."""
        times = self.times("tangent")
        exact = self.has_jvp()
        parts = [self.rates(rows, exact) for rows in self.rows("tangent", times)]
        size, rate, gap = torch.cat(parts, dim=1)
        self.count(rate)
        edges, t = self.clock.edges(), times[0]
        median, p95, largest = (
            _binned(t, edges, _quantile(share), rate.sqrt()) for share in (0.5, 0.95, 1.0)
        )
        gaps = [g for g in _binned(t, edges, _ratio, gap, rate).value if exact and g is not None]
        return Tangent(
            strategy="exact JVP" if exact else "central difference",
            median=median,
            p95=p95,
            largest=largest,
            relative=_binned(t, edges, _ratio, rate, size),
            gap=statistics.median(gaps) if gaps else None,
        )

    def rates(self, rows: _Rows, exact: bool) -> Tensor:
        """Mean squares over the dimensions, (3, rows): of F, of dF/dt, and of exact minus central difference."""
        flow, clock = self.flow, self.clock
        share, landing = clock.share(rows.t), clock.share(rows.r) if self.jumps else torch.zeros_like(rows.r)

        def field(x: Image, f: Tensor) -> Image:
            t = clock.time(f)
            landing = repeated(rows.r, x) if self.jumps else t
            return flow.output(x, t, landing, repeated(rows.label, x))

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
        """Measure the change of the output with each input."""
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
        """Mean squares, (4, rows): of F, and of its change with another t, r or label."""
        x, t, other, low = rows.x_t, rows.t, rows.s, rows.r
        landing, elsewhere = (low, low) if self.jumps else (t, other)
        label = rows.label
        output = self.flow.output(x, t, landing, label)
        next_class = None if label is None else (label + 1) % max(1, self.data.num_classes or 1)
        changed = [
            self.flow.output(x, other, elsewhere, label),
            self.flow.output(x, t, t, label) if self.jumps else output,
            output if label is None else self.flow.output(x, t, landing, next_class),
        ]
        squares = [output, *(one - output for one in changed)]
        return torch.stack([squared_norm(value.double(), "mean") for value in squares]).cpu()

    # ------------------------------------------------------------ samples and gradients

    def spread(self) -> tuple[Spread, ...]:
        """Measure the variety of samples in one step and in several."""
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
        """Return the labels of the samples, and the data of each of their classes, (rows, d) float64."""
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
        """At most 1,000 of these row numbers, shuffled."""
        order = torch.randperm(len(rows), generator=generator(self.seed, "diagnosis/real"))
        return rows[order[:1000]]

    def gradient(self) -> Gradient | None:
        """Measure the norm of the gradient of the loss; `.grad` and `requires_grad` of the network stay as they are."""
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


def settings(objective: Objective, network: Any) -> dict[str, Any]:
    """Return the settings that findings name: the field that raises the share of r = t, time scale, QK-norm.

    And `conditioning`, since a network that knows one time alone is not to be held to what it says of two.
    """
    config = getattr(network, "config", {})
    law = objective.times
    solver = objective.target.network_kind is not None  # whose frozen network knows no jumps
    shares = {"diagonal": "times.diagonal", "pair": "times.pair.diagonal", "share": "times.share"}
    return {
        "diagonal": next((path for name, path in shares.items() if hasattr(law, name)), None),
        "conditioning": "t" if solver else objective.conditioning,
        "bootstraps": objective.target.guides_jumps,
        "guided": objective.guidance is not None,
        "time_scale": config.get("time_scale"),
        "qk_norm": config.get("qk_norm"),
        "least_steps": objective.sampling.least,
    }
