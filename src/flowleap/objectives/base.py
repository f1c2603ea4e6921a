"""An objective is a value: a frozen dataclass whose fields are the design space.

`draw` makes all random choices, `point` none, `regress` holds the network to its target, `per_sample` weighs the
residual. Every step is public, so that a published loss can be compared number by number.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from flowleap.citations import Cited
from flowleap.couplings import Independent
from flowleap.data.batching import ClassGroups, Shuffled
from flowleap.flow_map import Conditioning, FlowMap, Network
from flowleap.interfaces import (
    Coupling,
    Identity,
    Loss,
    Part,
    TargetNetwork,
    TimeLaw,
    TrainedGuidance,
    VelocitySource,
)
from flowleap.losses import Squared
from flowleap.networks import dropout
from flowleap.objectives import draws
from flowleap.objectives.advice import advice
from flowleap.objectives.diagonal import Diagonal, diagonal
from flowleap.objectives.rules import check, within
from flowleap.objectives.target_networks import Self
from flowleap.objectives.teaching import check_teacher, taught
from flowleap.parameterization import AverageVelocity, Parameterization
from flowleap.paths import LinearPath, Path
from flowleap.point import Batch, Point, Regression, Target
from flowleap.samplers import Sampling, is_grid
from flowleap.tensors import Image, Label, Time, like
from flowleap.times import OneTime
from flowleap.velocities import Conditional

__all__ = ["Objective"]


@dataclass(frozen=True)
class Objective(Cited):
    """A training method as a composition of parts; change one with `dataclasses.replace`.

    Args:
        name: what reports call it.
        path, parameterization: how data becomes noise, and what the network output means.
        conditioning: the times that the network is given, see `FlowMap`.
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
    conditioning: Conditioning = "t,r"
    times: TimeLaw = OneTime()
    coupling: Coupling = Independent()
    velocity: VelocitySource = Conditional()
    guidance: TrainedGuidance | None = None
    target: Identity = Diagonal()
    loss: Loss = Squared()
    frozen: TargetNetwork = Self()
    starts_from_teacher: bool = False
    label_dropout: float = 0.1
    batching: Shuffled | ClassGroups = Shuffled()
    sampling: Sampling = Sampling()
    steps: int | None = None

    def __post_init__(self) -> None:
        check(self)
        self.times.on(self.path)  # a law that speaks of noise levels must know those of the path

    @property
    def auxiliary(self) -> Objective | None:
        """What the other network is trained for, where there is one."""
        found: Objective | None = self.frozen.auxiliary
        return found

    @property
    def losses(self) -> list[Loss]:
        """The loss and those inside it, and those of the auxiliary objective."""
        return self.loss.chain() + ([] if self.auxiliary is None else self.auxiliary.losses)

    def flow_map(self, network: Network) -> FlowMap:
        """Return the flow map of a network with the meaning that this objective gives it: parameterization, path,
        conditioning, start, and whether it is told the guidance."""
        meaning = (self.parameterization, self.path, self.conditioning, self.start, self.guidance_input)
        return self.target.flow_map(network, *meaning)

    @property
    def velocity_head(self) -> bool:
        """Whether a velocity head of the network is trained, see `losses.VelocityHead`."""
        return any(loss.velocity_head for loss in self.loss.chain())

    @property
    def guidance_input(self) -> bool:
        """Whether the network takes the scale and the interval of guidance as inputs."""
        return self.guidance is not None and self.guidance.is_input

    @property
    def start(self) -> float | None:
        """Where sampling starts: as `sampling` says, or at the highest time that is trained; None for t_max."""
        highest = self.path.t_max if self.times.highest is None else self.times.highest
        if self.sampling.start is not None or highest > (1 - 1e-6) * self.path.t_max:
            return self.sampling.start
        return highest

    def parts(self) -> list[Any]:
        """Return every part of the composition, depth first, but for trained maps."""
        return list(within(self))

    def asked(self) -> list[Part]:
        """Return the parts that are asked through `interfaces.Part`."""
        return [part for part in within(self) if isinstance(part, Part)]

    @property
    def needs_teacher(self) -> bool:
        """Whether a part waits for a teacher, see `with_teacher`."""
        return any(part.needs_teacher for part in self.asked())

    @property
    def needs_run(self) -> bool:
        """Whether a trained run comes first: for a part that waits for a teacher, or for weights to start from."""
        return self.needs_teacher or self.starts_from_teacher

    @property
    def taught_by(self) -> str:
        """The method by which a run trains a teacher of its own: flow matching where no part says otherwise."""
        return self.frozen.taught_by

    def with_teacher(self, flow: FlowMap) -> Objective:
        """Return the objective with a trained map wherever a part waits for one.

        Args:
            flow: a map on the same path; its instantaneous velocity is what it teaches.

        Raises: ValueError where it lives on another path, or its weights cannot become those of the student.
        """
        check_teacher(self, flow)
        found: Objective = taught(self, flow)
        if self.frozen.holds_teacher and self.frozen.needs_teacher:
            own = self.frozen.with_teacher(self.flow_map(flow.network))
            found = replace(found, frozen=own)
        return found

    @property
    def averages_rows(self) -> bool:
        """Whether a target averages over the rows of a class in the batch."""
        return any(isinstance(part, VelocitySource) and part.averages > 0 for part in within(self))

    @property
    def mixes_rows(self) -> bool:
        """Whether rows of one class belong together: a target averages over them, or they are paired with noise."""
        return self.averages_rows or self.coupling.mixes_rows

    @property
    def group(self) -> int:
        """How many rows share their times and are compared as a set; 1 where rows stand alone."""
        return self.times.group or 1

    def target_decay(self, updates: int) -> float | None:
        """Return the decay of the average that targets are made with, at the update after `updates` others.

        None where targets are made with no average.
        """
        if self.frozen.copy != "average":
            return None
        return self.frozen.decay_at(self.times, updates, self.progress(updates))

    def stage(self, step: int) -> int:
        """Return the stage of the frozen map at a step; 0 where there are no stages."""
        return 0 if self.frozen.stages == 1 else self.frozen.stage(self.progress(step))

    def for_run(self, steps: int) -> Objective:
        """Return the objective, and its auxiliary one, with horizons resolved for a run of `steps` steps."""
        return replace(self, steps=steps, frozen=self.frozen.for_run(steps))

    def horizons(self) -> dict[str, float]:
        """Return every horizon by the name of its field, as a fraction of the run."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        found = {name: part.horizon for name, part in parts.items() if isinstance(part, Part)}
        return {name: value for name, value in found.items() if value}

    def progress(self, step: int) -> float:
        """Return the fraction of the run that has passed; 1 where the length of the run is unknown."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.horizons():
            warnings.warn(
                f"{self.name}: the length of the run is unknown, so its horizons {self.horizons()} count as passed; "
                "use objective.for_run(steps)",
                stacklevel=4,
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

        Draws are functions of (key, stream, step, row of the global batch), made for the rows that are here.
        """
        return draws.draw(self, batch, step, key, frozen)

    def point(
        self,
        x: Image,
        noise: Image,
        t: Time,
        s: Time,
        r: Time,
        label: Label = None,
        step: int = 0,
        **drawn: Any,
    ) -> Point:
        """Make a point without any randomness: rows with r < t must come first.

        Args:
            drawn: fields of `Point`: `dropped`, `plug_in`, `extra_noise`, `guidance`; `group`, which rows a set-level
                loss compares, by default consecutive ones where the time law makes groups; `num_jumps`, by default the
                leading rows with r < t. Times on the CPU are counted without waiting for a device.

        Raises: ValueError for times that are not t ≥ s ≥ r in the path's domain, or rows in another order.
        """
        return draws.point(self, x, noise, t, s, r, label, step, **drawn)

    def part(self, total: int, step: int, key: int, index: int, parts: int) -> Tensor:
        """Return which rows of the global batch make up part `index` of `parts`; together they are all, each once.

        Parts are whole groups and differ by one group at most. Rows with r < t and rows with r = t are dealt out
        evenly, so that all parts cost the same, but where rows of one class belong together (`mixes_rows`): those are
        neighbors in the batch and stay so.

        Shapes: → (rows of the part,), int64.
        Raises: ValueError where there are more parts than groups, or the batch is not made of whole groups.
        """
        return draws.part(self, total, step, key, index, parts)

    def context(self, label: Label, here: Tensor, total: int) -> Tensor:
        """Return the rows of the global batch that are not `here` but belong together with those, see `mixes_rows`.

        Args:
            label: of all `total` rows of the global batch; without labels all rows are of one kind.
            here: (rows of a part,).

        Shapes: → (others,), int64; empty for a method that takes every row by itself.
        """
        return draws.context(self, label, here, total)

    def regress(self, flow: FlowMap, frozen: FlowMap | None, point: Point) -> Regression:
        """Return the prediction on every row, in one pass, and its target: the identity's, or v where r = t.

        The student is asked first, so that what it answers need not be asked again for a target: where targets are made
        with the network in training itself, u(x_t, t, t) on the rows r = t, which guidance needs, is its prediction.
        """
        with dropout.keyed(point.keys):
            return self._regress(flow, self.frozen.resolve(self, flow, frozen, point.progress), point)

    def _regress(self, flow: FlowMap, frozen: FlowMap, point: Point) -> Regression:
        for one in (flow, frozen):
            self._check(one)
        if self.target.space == "velocity":
            same = frozen.network is flow.network
            flow, frozen = flow.as_velocity(), frozen.as_velocity()
            frozen = flow if same else frozen
        jumps, own = point.num_jumps, frozen.network is flow.network
        start = jumps if self.target.predicts(own) else 0
        output, velocity = _output(flow, point, start, self.velocity_head)
        answered = output[jumps - start :]
        with torch.no_grad():
            v = self._driving(frozen, point, answered if own else None, velocity)
            point = replace(point, v=v, output=None if start else output)
            target = diagonal(flow, point.rows(jumps, len(point)))
        of_departure = any(loss.learned == "t" for loss in self.loss.chain())
        log_variance = flow.log_variance(point.t, point.t if of_departure else point.r)
        onto = None if velocity is None else v
        if jumps == 0:
            return Regression(
                output, target, log_variance, self.target.space, velocity=velocity, velocity_target=onto
            )
        p = point.rows(0, jumps)
        jump = self.target(flow, frozen, p)
        prediction = output if jump.prediction is None else torch.cat([jump.prediction, answered])
        target = torch.cat([_resolved(flow, p, jump).to(target.dtype), target])
        about = (jump.space, jump.derivative_norm, jump.sample)
        return Regression(prediction, target, log_variance, *about, velocity, onto)

    def _driving(self, frozen: FlowMap, point: Point, answered: Image | None, head: Image | None) -> Image:
        """Return the velocity that drives the target, guided.

        `answered` are outputs of `frozen` on the rows r = t, where it has been asked; `head` those of a velocity head.
        """
        v = self.velocity(point, frozen)
        if self.guidance is None:
            return v
        if answered is None:
            return self.guidance(frozen, point, v, None)
        if self.guidance.head and head is not None:
            return self.guidance(frozen, point, v, head[point.num_jumps :].detach())
        rest = point.rows(point.num_jumps, len(point))
        known = frozen.velocity_of(answered.detach(), rest.x_t, rest.t, rest.r)
        return self.guidance(frozen, point, v, known)

    def per_sample(self, regression: Regression, point: Point) -> Tensor:
        """Return the weighted loss of every row, (batch,)."""
        return self.loss(regression, point)

    def _check(self, flow: FlowMap) -> None:
        if flow.path != self.path or flow.parameterization != self.parameterization:
            raise ValueError(
                f"{self.name} trains {self.parameterization} on {self.path}, but the map is {flow.parameterization} on "
                f"{flow.path}: build it with objective.flow_map(network)"
            )
        if flow.conditioning != self.conditioning:
            raise ValueError(
                f"{self.name} has conditioning={self.conditioning!r}, but the flow map "
                f"{flow.conditioning!r}: build it with objective.flow_map(network)"
            )
        if self.guidance_input and not flow.guidance_input:
            raise ValueError(
                f"{self.name} tells the network its guidance, and the flow map does not: build it with "
                "objective.flow_map(network)"
            )

    def sample(
        self,
        flow: FlowMap,
        noise: Image,
        steps: int | None = None,
        times: Sequence[float] | None = None,
        label: Label = None,
        guidance: float | None = None,
        interval: tuple[float, float] | None = None,
    ) -> Image:
        """Return images from standard normal noise in `steps` steps (one by default) or over given times.

        Args:
            guidance: the scale of classifier-free guidance, 1 for none. Where the network takes it as an input it costs
                nothing, and None stands for the usual scale of the method; elsewhere it doubles the evaluations.
            interval: the first and the last time that are guided, for a network that takes them as inputs.

        Computed in inference mode: the images are ordinary tensors, without a gradient to the weights or the noise.
        `sampling.sample` and the functions of `flowleap.samplers` keep it, and serve networks that differentiate
        themselves.

        Raises: ValueError for an interval that the network is not told.
        Warns: where a budget was not trained, or guidance comes on top of what training baked in.
        """
        for sentence in self.advice(steps, times, guidance):
            warnings.warn(sentence, stacklevel=2)
        self.check_interval(interval)
        scale = self.guidance_of(guidance)
        count = 1 if steps is None else steps
        with torch.inference_mode():
            images = self.sampling.sample(flow, noise, count, times, label, scale, interval)
        return images.clone()

    def guidance_of(self, asked: float | None) -> float | None:
        """Return the scale that samples have: the usual one of a network that is told it, where none is asked for."""
        told = self.guidance if self.guidance_input else None
        return told.scale if asked is None and told is not None else asked

    def check_interval(self, interval: Sequence[float] | None) -> None:
        """Raise ValueError for an interval of guidance that the network is not told."""
        if interval is None or (self.guidance is not None and self.guidance.intervals):
            return
        given = ", ".join(f"{time:g}" for time in interval)
        raise ValueError(
            f"guidance in the interval {given}: {self.name} was trained without intervals as an input, as "
            "guidance=GuidanceInput() has them; leave the interval out"
        )

    def advice(
        self, steps: int | None = None, times: Sequence[float] | None = None, guidance: float | None = None
    ) -> list[str]:
        """Return, in sentences, what about a way of sampling this method was not trained for."""
        count = self.nfe(1 if steps is None else steps, times=times)
        uniform = times is None or is_grid(self.path, times, self.start)
        return advice(self, replace(self.sampling, trained=self.trained), count, uniform, guidance)

    @property
    def trained(self) -> tuple[int, ...] | None:
        """The numbers of steps that its maps are trained for, as its times or its sampling say; None for any."""
        solver = self.times.solver_steps
        return self.sampling.trained if solver is None else (solver,)

    def nfe(self, steps: int, guidance: float | None = None, times: Sequence[float] | None = None) -> int:
        """Return the number of network evaluations of one image, in `steps` steps or over given times."""
        count = steps if times is None else (len(times) - 1) * self.sampling.evaluations
        return count * (1 if self.guidance_input or guidance is None or guidance == 1.0 else 2)


@torch.no_grad()
def _resolved(flow: FlowMap, point: Point, jump: Target) -> Image:
    """Return the target of the rows r < t, with the limit of no jump, the diagonal's, where b(t, r) is 0.

    Such rows are those whose t was raised to t_min, or whose jump is shorter than their precision tells: X_{t→r}(x) is
    x whatever F is, so that no F can be read off a point.
    """
    if jump.space != "output" or jump.sample is not None:
        return jump.value
    b = flow.parameterization.coefficients(flow.path, point.t, point.r)[1]
    still = like(b.abs() <= draws.EARLIEST, jump.value)
    return torch.where(still, diagonal(flow, point).to(jump.value.dtype), jump.value)


def _output(flow: FlowMap, point: Point, start: int, head: bool) -> tuple[Image, Image | None]:
    """Return the output of the student on the rows from `start` on, and that of its velocity head where there is one.

    With no rows left it is not asked.
    """
    p = point.rows(start, len(point))
    if len(p) == 0:
        return p.x_t, None
    asked = p.x_t, p.t, p.r, p.network_label(flow.num_classes)
    with dropout.keyed(p.keys):
        return flow.with_velocity(*asked) if head else (flow.output(*asked), None)
