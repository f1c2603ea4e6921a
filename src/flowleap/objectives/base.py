"""An objective is a value: a frozen dataclass whose fields are the design space.

`draw` makes all random choices, `point` none, `regress` holds the network to its target, `per_sample` weighs the
residual. Every step is public, so that a published loss can be compared number by number.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from flowleap.couplings import Coupling, Independent, StoredPairs
from flowleap.data.batching import ClassGroups, Shuffled
from flowleap.flow_map import FlowMap, Network, Told
from flowleap.guidance import FinestLevel, Guidance
from flowleap.losses import LearnedVariance, Loss, Squared
from flowleap.networks import dropout
from flowleap.objectives.checks import check, within
from flowleap.objectives.diagonal import Diagonal, diagonal
from flowleap.objectives.first_stage import FirstStage
from flowleap.objectives.frozen import EMA, GridEMA, Refreshed, Self
from flowleap.objectives.solver import LearnedSolver
from flowleap.parameterization import AverageVelocity, Parameterization
from flowleap.paths import LinearPath, Path
from flowleap.point import Batch, Point, Regression, Target
from flowleap.randomness import generator
from flowleap.samplers import Sampling, is_grid
from flowleap.tensors import Image, Label, Time, like
from flowleap.times import NoiseGrid, OneTime, OnPath, TimeLaw, jumps_of
from flowleap.velocities import Conditional, PlugIn, Teacher, VelocitySource

__all__ = ["Identity", "Objective", "Rival"]

EARLIEST = 1e-30
"""The least time of departure, and the least length of a jump, that single precision divides by."""


@dataclass(frozen=True)
class Rival:
    """The frozen map of a target is another network, trained in alternation by an objective of its own.

    Each step the rival takes its turn first, then the network itself. The rival's own frozen map is the network it
    rivals as it stands; it begins with the same weights.

    Args:
        objective: what the rival is trained for, on the same path, with the same parameterization, told the same.
        period: the network takes its turn in every period-th step, the rival in each.
        pace: the learning rate of both is that of the run times this: each follows the other, in smaller steps.
        betas: those of Adam for both, in place of the run's; None for these.

    Raises: ValueError for a period or a pace that is not positive, betas out of range, or for a rival with a frozen map
        of its own.
    Source: the code of Zhou et al. 2024 (arXiv 2404.04057), mingyuanzhou/SiD: in each step first the fake score, then
    the generator; betas (0, 0.999) and learning rates of 1e-5 for both.
    """

    objective: Objective
    period: int = 1
    pace: float = 1.0
    betas: tuple[float, float] | None = None
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"Rival(period={self.period}): a whole number from 1 up is expected")
        if not self.pace > 0:
            raise ValueError(f"Rival(pace={self.pace}): a positive factor of the learning rate is expected")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"Rival(betas={self.betas}): two numbers in [0, 1) are expected")
        if not isinstance(self.objective.frozen, Self):
            raise ValueError(
                f"Rival: its objective has frozen={type(self.objective.frozen).__name__}, but the frozen map of a "
                "rival is the network it rivals: use frozen=Self()"
            )


@runtime_checkable
class Identity(Protocol):
    """An identity turned into a target for the rows r < t: X^θ_{t→r}(x_t) regressed onto X̂_{s→r}(X̂_{t→s}(x_t)).

    Source of the two-step template: Lin et al. 2025 (arXiv 2512.11831).
    """

    @property
    def template(self) -> Mapping[str, str]:
        """How the identity fills the two-step template, in words; {velocity} and {output} are the objective's."""
        ...

    @property
    def horizon(self) -> float | None:
        """A fraction of the run after which the target no longer changes its form, or None."""
        ...

    @property
    def keep_labels(self) -> bool:
        """Whether rows r < t are never dropped their label."""
        ...

    def refusal(self, flow: FlowMap) -> str | None:
        """Return why the identity is singular for this path and parameterization, or None."""
        ...

    def __call__(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Target:
        """Return the target of the rows of `point`, all of which have r < t and carry `point.v`."""
        ...


@dataclass(frozen=True)
class Objective:
    """A training method as a composition of parts; change one with `dataclasses.replace`.

    Args:
        name: what reports call it.
        path, parameterization: how data becomes noise, and what the network output means.
        told: which second time the network is told, see `FlowMap`.
        times: the joint law of (t, s, r).
        coupling: how noise meets data.
        velocity: which velocity drives the target.
        guidance: classifier-free guidance in training, or None.
        target: the identity for the rows r < t; rows r = t always take the diagonal.
        loss: distance and weight.
        frozen: which copy of the network, or which other network, targets are made with.
        starts_from_teacher: whether training starts from the weights of its teacher.
        label_dropout: the share of rows trained with the null label.
        batching: how batches are composed (`ClassGroups` for the class-consistent ones of ESC).
        sampling: how the method is meant to be sampled.
        steps: the length of the run, which horizons are fractions of; None counts every horizon as passed.

    Raises: ValueError where parts do not fit one another.
    """

    name: str = "flow matching"
    path: Path = LinearPath()
    parameterization: Parameterization = AverageVelocity()
    told: Told = "landing"
    times: TimeLaw = OneTime()
    coupling: Coupling = Independent()
    velocity: VelocitySource = Conditional()
    guidance: Guidance | FinestLevel | None = None
    target: Identity = Diagonal()
    loss: Loss = Squared()
    frozen: Self | EMA | GridEMA | Refreshed | Rival | FirstStage = Self()
    starts_from_teacher: bool = False
    label_dropout: float = 0.1
    batching: Shuffled | ClassGroups = Shuffled()
    sampling: Sampling = Sampling()
    steps: int | None = None
    cites: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check(self)
        self._law()  # a law that speaks of noise levels must know those of the path

    @property
    def rival(self) -> Objective | None:
        """What the other network is trained for, where there is one."""
        return self.frozen.objective if isinstance(self.frozen, Rival) else None

    def flow_map(self, network: Network) -> FlowMap:
        """Wrap a network in this objective's parameterization and path, what it is told and where sampling starts."""
        return FlowMap(network, self.parameterization, self.path, self.told, self.start)

    @property
    def start(self) -> float | None:
        """Where sampling starts: as `sampling` says, or at the highest time that is trained; None for t_max."""
        highest: float = getattr(self.times, "highest", self.path.t_max)
        if self.sampling.start is not None or highest > (1 - 1e-6) * self.path.t_max:
            return self.sampling.start
        return highest

    @property
    def needs_teacher(self) -> bool:
        """Whether a part waits for a teacher, see `with_teacher`."""
        taught = (
            part for part in self.parts() if isinstance(part, Teacher | Refreshed | StoredPairs | FirstStage)
        )
        return any(part.needs_teacher for part in taught)

    @property
    def needs_run(self) -> bool:
        """Whether a trained run comes first: for a part that waits for a teacher, or for weights to start from."""
        return self.needs_teacher or self.starts_from_teacher

    def target_decay(self, updates: int) -> float | None:
        """Return the decay of the average that targets are made with, at the update after `updates` others.

        None where targets are made with no average.
        """
        if isinstance(self.frozen, EMA):
            return self.frozen.at(updates)
        if isinstance(self.frozen, GridEMA):
            assert isinstance(self.times, NoiseGrid)
            return self.frozen.at(self.times.start, self.times.points(self.progress(updates)))
        return None

    @property
    def taught_by(self) -> str:
        """The method by which a run trains a teacher of its own: flow matching where no part says otherwise."""
        return self.frozen.taught_by if isinstance(self.frozen, FirstStage) else "flow_matching"

    def with_teacher(self, flow: FlowMap) -> Objective:
        """Return the objective with a trained map wherever a part waits for one.

        Args:
            flow: a map on the same path; its instantaneous velocity is what it teaches.

        Raises: ValueError where it lives on another path, or its weights cannot become those of the student.
        """
        if flow.path != self.path:
            raise ValueError(
                f"{self.name} lives on {self.path}, but its teacher on {flow.path}: train a teacher on the same path"
            )
        copied = self.starts_from_teacher or isinstance(self.frozen, Refreshed | FirstStage)
        rather = f"give both the same, as a run of {self.taught_by.replace('_', '-')} has"
        if copied and flow.parameterization != self.parameterization:
            raise ValueError(
                f"{self.name} goes on from the weights of its teacher, which give {flow.parameterization}, not "
                f"{self.parameterization}: {rather}"
            )
        if isinstance(self.frozen, FirstStage) and flow.told != self.told:
            raise ValueError(
                f"{self.name} asks one network or the other by the time, and its own is told {self.told!r} beside t, "
                f"but its first stage {flow.told!r}: {rather}"
            )
        found: Objective = _taught(self, flow)
        if isinstance(found.frozen, Refreshed) and self.frozen != found.frozen:
            found = replace(found, frozen=found.frozen.with_teacher(self.flow_map(flow.network)))
        return found

    def stage(self, step: int) -> int:
        """Return the stage of the frozen map at a step; 0 where there are no stages."""
        return self.frozen.stage(self.progress(step)) if isinstance(self.frozen, Refreshed) else 0

    def for_run(self, steps: int) -> Objective:
        """Return the objective, and that of its rival, with horizons resolved for a run of `steps` steps."""
        frozen = self.frozen
        if isinstance(frozen, Rival):
            frozen = replace(frozen, objective=frozen.objective.for_run(steps))
        return replace(self, steps=steps, frozen=frozen)

    def horizons(self) -> dict[str, float]:
        """Return every horizon by the name of its field, as a fraction of the run."""
        found = {f"{f.name}": getattr(getattr(self, f.name), "horizon", None) for f in fields(self)}
        return {name: value for name, value in found.items() if value}

    def progress(self, step: int) -> float:
        """Return the fraction of the run that has passed; 1 where the length of the run is unknown."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.horizons():
            warnings.warn(
                f"{self.name}: the length of the run is unknown, so its horizons {self.horizons()} count as passed; "
                "use objective.for_run(steps)",
                stacklevel=3,
            )
        return 1.0

    def __call__(
        self,
        flow: FlowMap,
        frozen: FlowMap | None = None,
        batch: Batch | None = None,
        step: int = 0,
        key: int = 0,
    ) -> Tensor:
        """Return the weighted loss of every row, (batch,): draw, regress and weigh in one call.

        Args:
            flow: the map in training. frozen: the map targets are made with; None for `flow` itself.
            batch: the data. step: the training step. key: the seed of the run.
        """
        if batch is None:
            raise ValueError(
                "an objective is called with a batch: objective(flow, frozen, Batch(x, label), step, key)"
            )
        point = self.draw(batch, step, key, flow if frozen is None else frozen)
        return self.per_sample(self.regress(flow, frozen, point), point)

    def draw(self, batch: Batch, step: int, key: int, frozen: FlowMap | None = None) -> Point:
        """Make every random choice of a step: order, times, noise, dropped labels, plug-in rows, live pairs.

        Draws are made on the CPU for the global batch, keyed by (key, stream, step), and sliced by `batch.row`.
        """
        total = batch.total
        if self.averages_rows and len(batch.x) < total and batch.company is None:
            warnings.warn(
                f"PlugIn averages over the rows of a class that are here, {len(batch.x)} of a global batch of {total}: "
                "a process must hold every row of its classes, or be given those it lacks (Batch.company), or the "
                "split changes the target",
                stacklevel=2,
            )
        law = self._law().draw(generator(key, "times", step), total, self.progress(step))
        order = _order(generator(key, "order", step), total, self.group)
        slots, rows = _local(order, batch.row)
        group = self._groups(slots)
        off = int((slots < law.off).sum())
        noise = batch.noise
        if noise is None:
            shape = (total, *batch.x.shape[1:])
            noise = self.coupling.noise(generator(key, "noise", step), shape)
            noise = noise[order[slots]].to(batch.x)
        else:
            noise = noise[rows.to(noise.device)]
        latent = None
        if any(getattr(part, "asks_latent", False) for part in (self.coupling, self.target)):
            latent = torch.randn((total, *batch.x.shape[1:]), generator=generator(key, "latent", step))
            latent = latent[order[slots]].to(batch.x)
        dropped = self._chance(batch.label is not None, self.label_dropout, key, "labels", step, total, slots)
        if dropped is not None and self.target.keep_labels:
            dropped[:off] = False
        share = self.velocity.probability if isinstance(self.velocity, PlugIn) else 0.0
        plug_in = self._chance(0 < share < 1, share, key, "plug-in", step, total, slots)
        here = rows.to(batch.x.device)
        label = None if batch.label is None else batch.label[here]
        keys = torch.randint(1 << 31, (total,), generator=generator(key, "dropout", step))
        keys = keys[order[slots]].to(batch.x.device)
        with dropout.keyed(keys):
            x = self.coupling.data(batch.x[here], noise, label, off, frozen, latent)
        t, s, r = self._in_domain(law.t[slots], law.s[slots], law.r[slots], off)
        point = self.point(x, noise, t, s, r, label, step, dropped, plug_in, group, off, latent)
        return replace(point, keys=keys, company=batch.company, company_label=batch.company_label)

    def _in_domain(self, t: Time, s: Time, r: Time, off: int) -> tuple[Time, Time, Time]:
        """Return the times raised and lowered into the domain of the path, each (rows,).

        No row departs from t = 0 itself, where a path without noise divides by σ(t): the least time is 1e-30.
        """
        low, high = self.path.t_min, self.path.t_max
        t, s, r = (time.clamp(low, high) for time in (t, s, r))
        t = t.clamp_min(EARLIEST)
        s, r = (torch.cat([time[:off], time[off:].clamp_min(EARLIEST)]) for time in (s, r))
        return t, s, r

    @property
    def averages_rows(self) -> bool:
        """Whether a target averages over the rows of a batch, so that rows of one class belong together."""
        return any(isinstance(part, PlugIn) and part.probability > 0 for part in self.parts())

    def part(self, total: int, step: int, key: int, index: int, parts: int) -> Tensor:
        """Return which rows of the global batch make up part `index` of `parts`; together they are all, each once.

        Parts are whole groups and differ by one group at most. Rows with r < t and rows with r = t are dealt out
        evenly, so that all parts cost the same, but where a velocity averages over rows of one class: those are
        neighbors in the batch and stay so.

        Shapes: → (rows of the part,), int64.
        Raises: ValueError where there are more parts than groups, or the batch is not made of whole groups.
        """
        order = _order(generator(key, "order", step), total, self.group).view(-1, self.group)
        if not 0 <= index < parts <= len(order):
            what = "rows" if self.group == 1 else f"groups of {self.group} rows"
            raise ValueError(
                f"{self.name}: part {index + 1} of {parts} of a batch of {total} rows, which has {len(order)} {what}: "
                f"give at most {len(order)} parts (processes times micro-batches), or a larger batch"
            )
        if self.averages_rows:
            return torch.arange(total)[total * index // parts : total * (index + 1) // parts]
        return order[index::parts].flatten()

    def company(self, label: Label, here: Tensor, total: int) -> Tensor:
        """Return the rows of the global batch that are not `here` but that a velocity averages over with those.

        Args:
            label: of all `total` rows of the global batch; without labels all rows are of one kind.
            here: (rows of a part,).

        Shapes: → (others,), int64; empty for a method that takes every row by itself.
        """
        if not self.averages_rows:
            return torch.empty(0, dtype=torch.int64)
        wanted = (
            torch.ones(total, dtype=torch.bool)
            if label is None
            else torch.isin(label.cpu(), label.cpu()[here])
        )
        wanted[here] = False
        return wanted.nonzero().squeeze(1)

    def point(
        self,
        x: Image,
        noise: Image,
        t: Time,
        s: Time,
        r: Time,
        label: Label = None,
        step: int = 0,
        dropped: Tensor | None = None,
        plug_in: Tensor | None = None,
        group: Tensor | None = None,
        off: int | None = None,
        latent: Image | None = None,
    ) -> Point:
        """Make a point without any randomness: rows with r < t must come first.

        `group` says which rows a set-level loss compares; by default consecutive ones, where the time law makes groups.
        `off` defaults to the number of leading rows with r < t. Times on the CPU are counted without waiting for a
        device.

        Raises: ValueError for times that are not t ≥ s ≥ r in the path's domain, or rows in another order.
        """
        low, high = self.path.t_min, self.path.t_max
        wide = torch.promote_types(x.dtype, torch.float32)  # short steps are lost in half precision
        t, s, r = (time.cpu().to(wide) for time in (t, s, r))
        if not len(t) == len(s) == len(r) == len(x):
            raise ValueError(f"{len(x)} rows need as many times, got t: {len(t)}, s: {len(s)}, r: {len(r)}")
        if not bool(((t <= high) & (r >= 0) & (s <= t) & (r <= s)).all()):
            raise ValueError(
                f"times t ≥ s ≥ r in [{low:g}, {high:g}], the domain of {type(self.path).__name__}, are expected"
            )
        if off is None:
            off = int((r < t).sum())
            if not bool((r < t)[:off].all()):
                raise ValueError(
                    "rows with r < t come first in a point, then the rows with r = t: sort the rows so"
                )
        t, s, r = (time.clamp_min(low) for time in (t, s, r))
        point = Point(
            path=self.path,
            x=x,
            noise=noise,
            t=t,
            s=s,
            r=r,
            x_t=x,
            off=off,
            label=label,
            dropped=dropped,
            plug_in=plug_in,
            group=self._groups(torch.arange(len(x))) if group is None else group,
            onward=(s > r).nonzero().squeeze(1),
            latent=latent,
            finest=self.times.finest,
            jump_scale=1.0 if self.guidance is None else self.guidance.jump_scale,
            step=step,
            progress=1.0 if self.steps is None else self.progress(step),
        )
        point = replace(point, guided=self._guided_rows(point)).to(x.device)
        return replace(point, x_t=self.path.point(x, noise, point.t).to(x.dtype))

    def _law(self) -> TimeLaw:
        return self.times.on(self.path) if isinstance(self.times, OnPath) else self.times

    @property
    def group(self) -> int:
        """How many rows share their times and are compared as a set; 1 where rows stand alone."""
        return int(getattr(self.times, "group", 1))

    def _groups(self, slots: Tensor) -> Tensor | None:
        """Return the group of each row by its place in the global order, or None where rows stand alone."""
        if self.group == 1:
            return None
        group = slots // self.group
        if bool((torch.bincount(group)[group] != self.group).any()):
            raise ValueError(
                f"{self.name} compares groups of {self.group} rows, and {len(slots)} rows here do not make whole ones: "
                f"give every process a multiple of {self.group} consecutive rows"
            )
        return group

    def _guided_rows(self, point: Point) -> Tensor | None:
        if self.guidance is None:
            return None
        mask = None if point.dropped is None else point.dropped.cpu()
        return self.guidance.rows(replace(point, dropped=mask))

    @staticmethod
    def _chance(
        wanted: bool, share: float, key: int, stream: str, step: int, total: int, slots: Tensor
    ) -> Tensor | None:
        if not wanted or share == 0:
            return None
        return (torch.rand(total, generator=generator(key, stream, step)) < share)[slots]

    def regress(self, flow: FlowMap, frozen: FlowMap | None, point: Point) -> Regression:
        """Predict on every row with one student pass and hold it to the identity (r < t) or the diagonal (r = t)."""
        with dropout.keyed(point.keys):
            return self._regress(flow, self._frozen(flow, frozen, point), point)

    def _regress(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Regression:
        for one in (flow, frozen):
            self._check(one)
        with torch.no_grad():
            v = self.velocity(point, frozen)
            v = v if self.guidance is None else self.guidance(frozen, point, v)
            point = replace(point, v=v)
            rest = point.rows(point.off, len(point))
            target = diagonal(flow, rest)
        jump = self.target(flow, frozen, point.rows(0, point.off)) if point.off else None
        done = 0 if jump is None or jump.prediction is None else point.off
        prediction = self._predict(flow, point, done)
        if done and jump is not None and jump.prediction is not None:
            prediction = torch.cat([jump.prediction, prediction])
        if jump is not None:
            value = self._resolved(flow, point.rows(0, point.off), jump)
            target = torch.cat([value.to(target.dtype), target])
        log_variance = flow.log_variance(point.t, point.t if self._weighs_departures else point.r)
        if jump is None:
            return Regression(prediction, target, log_variance)
        return Regression(prediction, target, log_variance, jump.space, jump.derivative_norm, jump.sample)

    @property
    def _weighs_departures(self) -> bool:
        """Whether a learned weight is a function of t alone."""
        return any(isinstance(part, LearnedVariance) and part.of == "t" for part in within(self.loss))

    @staticmethod
    @torch.no_grad()
    def _resolved(flow: FlowMap, point: Point, jump: Target) -> Image:
        """Return the target of the rows r < t, with the limit of no jump, the diagonal's, where b(t, r) is 0.

        Such rows are those whose t was raised to t_min, or whose jump is shorter than their precision tells: X_{t→r}(x)
        is x whatever F is, so that no F can be read off a point.
        """
        if jump.space != "output" or jump.sample is not None:
            return jump.value
        b = flow.parameterization.coefficients(flow.path, point.t, point.r)[1]
        still = like(b.abs() <= EARLIEST, jump.value)
        return torch.where(still, diagonal(flow, point).to(jump.value.dtype), jump.value)

    @staticmethod
    def _predict(flow: FlowMap, point: Point, start: int) -> Image:
        """Return the output of the student on the rows from `start` on; with none left it is not asked."""
        if start == len(point):
            return point.x_t[start:]
        label = point.network_label(flow.num_classes)
        known = None if label is None else label[start:]
        with dropout.keyed(None if point.keys is None else point.keys[start:]):
            return flow.output(point.x_t[start:], point.t[start:], point.r[start:], known)

    def _frozen(self, flow: FlowMap, frozen: FlowMap | None, point: Point) -> FlowMap:
        if isinstance(self.frozen, Refreshed):
            if self.frozen.teacher is None:
                raise ValueError(
                    f"{self.name} is taught by a trained map, and none is given: use objective.with_teacher(flow)"
                )
            if self.steps is not None and self.frozen.stage(point.progress) == 0:
                return self.frozen.teacher
        if isinstance(self.frozen, FirstStage):
            return self.frozen.frozen(
                flow if frozen is None else frozen, getattr(self.times, "boundary", 0.0)
            )
        if isinstance(self.frozen, Rival) and frozen is None:
            raise ValueError(
                f"{self.name} is judged with another network, and none is given: use objective(flow, frozen, batch) "
                "with the map of its rival as frozen"
            )
        return flow if frozen is None else frozen

    def per_sample(self, regression: Regression, point: Point) -> Tensor:
        """Return the weighted loss of every row, (batch,)."""
        return self.loss(regression, point)

    def _check(self, flow: FlowMap) -> None:
        if flow.path != self.path or flow.parameterization != self.parameterization:
            raise ValueError(
                f"{self.name} trains {self.parameterization} on {self.path}, but the map is {flow.parameterization} on "
                f"{flow.path}: build it with objective.flow_map(network)"
            )
        if flow.told != self.told:
            raise ValueError(
                f"{self.name} trains a network that is told {self.told!r} beside t, but the map tells it "
                f"{flow.told!r}: build it with objective.flow_map(network)"
            )

    def sample(
        self,
        flow: FlowMap,
        noise: Image,
        steps: int | None = None,
        times: Sequence[float] | None = None,
        label: Label = None,
        guidance: float | None = None,
    ) -> Image:
        """Return images from standard normal noise in `steps` steps (one by default) or over given times.

        Warns: where a budget was not trained, or guidance comes on top of what training baked in.
        """
        for advice in self.advice(steps, times, guidance):
            warnings.warn(advice, stacklevel=2)
        return self.sampling.sample(flow, noise, 1 if steps is None else steps, times, label, guidance)

    def advice(
        self, steps: int | None = None, times: Sequence[float] | None = None, guidance: float | None = None
    ) -> list[str]:
        """Return, in sentences, what about a way of sampling this method was not trained for."""
        count = self.nfe(1 if steps is None else steps, times=times)
        equal = times is None or is_grid(self.path, times, self.start)
        budget = replace(self.sampling, trained=self.trained).advice(count, uniform=equal)
        budget = budget or self._landing_advice(count)
        found = [] if budget is None else [f"{self.name} in {count} step{'s' * (count > 1)}: {budget}"]
        if isinstance(self.target, LearnedSolver):
            return found + self.target.advice(self.name, guidance)
        if guidance is not None and guidance != 1.0:
            found += self._guidance_advice(count, guidance)
        return found

    def _landing_advice(self, steps: int) -> str | None:
        """Return why a network that is told no landing time gives another distribution in so many steps, or None."""
        if self.told == "landing" or steps < 2 or self.sampling.instantaneous(steps):
            return None
        fresh = self.sampling.renoised(steps)
        if not jumps_of(self.times).has_stop:
            straight = "its map follows straight lines, which fresh noise leaves; chain it, --renoise 0"
            return straight if fresh else None
        to_data = (
            "its map is trained to go to the data only, and shorter jumps change the distribution; add fresh noise "
            "between steps, --renoise 1 or sampling.renoise=1"
        )
        return to_data if fresh < 1 else None

    def _guidance_advice(self, steps: int, scale: float) -> list[str]:
        if isinstance(self.guidance, Guidance) and self.guidance.scale != 1.0:
            baked = f"guidance of scale {self.guidance.scale:g} is part of the trained weights"
            return [f"{self.name}: {baked}, and {scale:g} at sampling comes on top; sample without"]
        finest = self.sampling.finest
        if finest is not None and steps < finest:
            meant = f"guidance at sampling is meant for its finest step only ({finest} steps)"
            return [f"{self.name} in {steps} steps: {meant}; larger jumps never saw the null label"]
        if self.label_dropout == 0:
            return [
                f"{self.name}: the null label was never trained (label_dropout=0), guidance contrasts with nothing"
            ]
        return []

    @property
    def trained(self) -> tuple[int, ...] | None:
        """The numbers of steps that its maps are trained for, as its times or its sampling say; None for any."""
        found: tuple[int, ...] | None = getattr(self.times, "trained", None)
        return self.sampling.trained if found is None else found

    def nfe(self, steps: int, guidance: float | None = None, times: Sequence[float] | None = None) -> int:
        """Return the number of network evaluations of one image, in `steps` steps or over given times."""
        count = steps if times is None else (len(times) - 1) * self.sampling.evaluations
        return count * (1 if guidance is None or guidance == 1.0 else 2)

    def parts(self) -> list[Any]:
        """Return every part of the composition, depth first."""
        return list(within(self))


def _taught(value: Any, flow: FlowMap) -> Any:
    """Return a part with the map in it and in its own parts, wherever one is missing."""
    if isinstance(value, Teacher | Refreshed | StoredPairs | FirstStage):
        return value.with_teacher(flow) if value.needs_teacher else value
    inner = {f.name: getattr(value, f.name) for f in fields(value)}
    parts = {n: v for n, v in inner.items() if is_dataclass(v) and not isinstance(v, type | FlowMap)}
    changed = {n: new for n, v in parts.items() if (new := _taught(v, flow)) is not v}
    return replace(value, **changed) if changed else value


def _order(random: torch.Generator, total: int, group: int) -> Tensor:
    """Return the row of the global batch at each place of a point: a permutation that keeps groups together.

    Raises: ValueError where groups do not fill the batch.
    """
    if total % group:
        raise ValueError(
            f"a batch of {total} rows is not made of whole groups of {group}: use a batch of "
            f"{max(1, round(total / group)) * group}, or another times.group"
        )
    first = torch.randperm(total // group, generator=random) * group
    return (first[:, None] + torch.arange(group)).flatten()


def _local(order: Tensor, row: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the slots this process holds and, for each, its row in the local batch."""
    if row is None:
        return torch.arange(len(order)), order
    where = torch.full((len(order),), -1, dtype=torch.int64)
    where[row.cpu()] = torch.arange(len(row))
    local = where[order]
    slots = (local >= 0).nonzero().squeeze(1)
    return slots, local[slots]
