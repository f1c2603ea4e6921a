"""Before the first step: the loss is compiled and wrapped for several processes, and both are checked."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowleap import processes
from flowleap.data import Dataset
from flowleap.derivatives import CentralDifference, Derivative
from flowleap.objectives import Objective
from flowleap.point import Point
from flowleap.tensors import repeated
from flowleap.training.distributed import Engine, whole
from flowleap.training.interrupt import TookTooLong, limited
from flowleap.training.loop import Plan, draw_batch
from flowleap.training.loss_module import LossModule, autocast
from flowleap.training.state import State, TrainedNetwork

CLOSE = {"fp32": 1e-4, "bf16": 5e-2}
"""How far gradients of the same loss may be apart, relative to their norm, by precision."""
SLOPE = {"fp32": 1e-2, "bf16": 1e-1}
"""How far a derivative in this precision may be from a central difference in float32."""
PROBED = 8
"""Rows that the derivative is checked on."""

Gradients = dict[str, Tensor | None]


class NotSound(ValueError):
    """A check before the first step failed."""


@dataclass
class Probe:
    """The first loss of a network on one part of a batch, and its gradient in this process alone."""

    trained: TrainedNetwork
    objective: Objective
    point: Point
    loss: float
    gradients: Gradients


def make_ready(engine: Engine, state: State, objective: Objective, data: Dataset, plan: Plan) -> None:
    """Compile and wrap the losses of a run as its engine says; on several processes, check the result.

    Nothing of the state changes but where it lies. Nothing is checked where no step is left.

    Raises: NotSound, naming the check that failed; ValueError where the machine cannot compile.
    """
    losses = engine.loss_modules(state, objective)
    several = processes.count() > 1
    if state.step >= plan.steps or not (several or engine.compiled or engine.check):
        return engine.prepare(state, losses, {})
    if several:
        same_weights(state, objective)
    probes = {
        trained.role: probe(losses[trained.role], trained, task, engine, data, plan, state.step)
        for trained, task in state.trained_networks(objective)
    }
    if engine.compiled:
        needs_compiler(engine.device)
        torch._dynamo.reset()
        for role, loss in losses.items():
            compile_loss(loss, probes[role], engine, plan.batch)
    engine.prepare(state, losses, {role: unused(found.gradients) for role, found in probes.items()})
    if several or engine.check:
        engine.say(
            f"checked: {'; '.join(proofs(engine, objective, list(probes.values()), plan, state.step))}"
        )
    return None


def proofs(engine: Engine, objective: Objective, probes: list[Probe], plan: Plan, step: int) -> list[str]:
    """Check parts, gradients and derivatives; return, in words, what was checked and the errors found.

    Raises: NotSound where something does not.
    """
    covered_once(engine, objective, plan, step)
    apart = max(synchronized(engine, found, plan.batch) for found in probes)
    count, parts = processes.count(), engine.parts
    said = [f"{parts} part{'s' * (parts > 1)} hold each of the {plan.batch} rows of a batch once"]
    if count > 1:
        said.insert(0, f"{count} processes have the same weights")
        said.append(f"after a backward, the same gradient, {apart:.0e} from the sum of their own")
    else:
        said.append(f"a gradient computed twice is {apart:.0e} apart")
    slopes = [slope for found in probes if (slope := derivative_error(engine, found)) is not None]
    if slopes:
        said.append(f"du/dt is {max(slopes):.0e} from a central difference")
    return said


def probe(
    loss: LossModule,
    trained: TrainedNetwork,
    objective: Objective,
    engine: Engine,
    data: Dataset,
    plan: Plan,
    step: int,
) -> Probe:
    """Return the loss of the first part of this process and its gradient, not synchronized; nothing is learned."""
    trained.network.train()
    batch = draw_batch(data, objective, plan, step, engine.device, engine.own[0], engine.parts)
    point = objective.draw(batch, step, trained.key(plan.seed), trained.frozen)
    return Probe(trained, objective, point, *gradient(loss, trained, point, plan.batch))


def compile_loss(loss: LossModule, found: Probe, engine: Engine, total: int) -> None:
    """Compile the forward of a loss; it stays as it is where that takes too long, or loss or gradient would differ."""
    plain, reason, before = loss.forward, None, graphs()
    try:
        loss.forward = compiled = torch.compile(plain)  # type: ignore[method-assign]
        # the backward pass is compiled in this thread, too, where the limit reaches it
        with limited(engine.compile_limit), torch.autograd.set_multithreading_enabled(False):
            value, gradients = gradient(loss, found.trained, found.point, total)
        apart = max(distance(gradients, found.gradients), abs(value - found.loss) / (abs(found.loss) or 1.0))
        if not apart <= CLOSE[engine.precision]:
            reason = f"its compiled loss is {apart:.1e} from the loss itself"
    except TookTooLong:
        reason = (
            f"compiling took longer than {engine.compile_limit:g} seconds; --set parallel.compile_limit=SECONDS allows "
            "more"
        )
    except Exception as error:  # whatever the compiler could not do
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    said = processes.every(reason)
    if any(said):
        loss.forward = plain  # type: ignore[method-assign]
        engine.say(f"warning: not compiled, training goes on without: {next(filter(None, said))}")
        return
    role, count = found.trained.role, graphs() - before
    engine.say(f"compiled the loss of the {role} in {pieces(count)}; {apart:.0e} from the loss itself")

    def forward(point: Point, total: int) -> Any:
        before = graphs()
        made = compiled(point, total)
        if graphs() > before:
            more = pieces(graphs() - before)
            engine.say(
                f"step {point.step + 1}: the loss of the {role} was compiled again, in {more} more: its tensors have "
                "other sizes, or it depends on a number that has changed"
            )
        return made

    loss.forward = forward  # type: ignore[method-assign]


def graphs() -> int:
    """Return how many graphs were compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def pieces(count: int) -> str:
    """Return a number of graphs in words."""
    return f"{count} graph{'s' * (count != 1)}"


def needs_compiler(device: torch.device) -> None:
    """Check that the machine has a compiler.

    Raises: ValueError.
    """
    wanted = [name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name]
    if device.type == "cpu" and not any(shutil.which(name) for name in wanted):
        raise ValueError(
            "--compile needs a C++ compiler, and none of g++, clang++ and c++ is found: install one, name it in the "
            "environment variable CXX, or leave --compile out"
        )


def gradient(loss: nn.Module, trained: TrainedNetwork, point: Point, total: int) -> tuple[float, Gradients]:
    """Return a loss and its gradient by weight name, None for a weight without a gradient."""
    trained.optimizer.zero_grad()
    value = loss(point, total)[0]
    value.backward()
    found = {name: weight.grad for name, weight in trained.network.named_parameters() if weight.requires_grad}
    trained.optimizer.zero_grad(set_to_none=True)
    return float(value.detach()), found


def unused(gradients: Gradients) -> list[str]:
    """Return the names of weights without a gradient in any process, such as those of an unused head."""
    here = [name for name, gradient in gradients.items() if gradient is None]
    return sorted(set.intersection(*map(set, processes.every(here))))


def distance(found: Gradients, expected: Gradients) -> float:
    """Return ‖found − expected‖ / ‖expected‖ over all weights."""
    gap = size = 0.0
    for name, gradient in expected.items():
        other = found[name]
        if gradient is not None:
            gap += float(
                (0 * gradient if other is None else other).double().sub(gradient.double()).square().sum()
            )
            size += float(gradient.double().square().sum())
    return (gap / size) ** 0.5 if size else gap**0.5


def digest(tensors: list[Tensor]) -> list[float]:
    """Return sums of tensors and of their squares, to compare tensors between processes."""
    sums = [torch.stack([tensor.double().sum(), tensor.double().square().sum()]).cpu() for tensor in tensors]
    found: list[float] = torch.stack(sums).flatten().tolist()
    return found


def same_weights(state: State, objective: Objective) -> None:
    """Raise NotSound where weights or averages of a process differ from those of the first."""
    for trained, _ in state.trained_networks(objective):
        tensors = [*trained.network.parameters(), *trained.network.buffers()]
        tensors += [weight for copy in trained.every_average() for weight in copy.parameters()]
        found = processes.every(digest([tensor.detach() for tensor in tensors]))
        other = [rank for rank, each in enumerate(found) if each != found[0]]
        if other:
            raise NotSound(
                f"processes {', '.join(map(str, other))} start with other weights than process 0: do all see the same "
                "run folder, and run the same version of torch?"
            )


def covered_once(engine: Engine, objective: Objective, plan: Plan, step: int) -> None:
    """Raise NotSound unless the parts of all processes hold each row of a batch once."""
    whole_batch = [torch.arange(plan.batch)]
    here = [objective.part(plan.batch, step, plan.seed, part, engine.parts) for part in engine.own]
    rows = processes.gathered(torch.cat(here if engine.parts > 1 else whole_batch))
    if not torch.equal(rows.sort().values, torch.arange(plan.batch)):
        raise NotSound(
            f"the {engine.parts} parts of {processes.count()} processes hold {len(rows)} rows, {len(rows.unique())} of "
            f"them different, and not each of the {plan.batch} rows of a batch once"
        )


def synchronized(engine: Engine, found: Probe, batch: int) -> float:
    """Return the relative error of a synchronized gradient against the mean of the gradients of the processes.

    Raises: NotSound where it is far, or processes hold different ones.
    """
    trained = found.trained
    engine.gather()
    trained.optimizer.zero_grad()
    engine.learn(trained, found.point, batch, last=True)
    engine.scatter()
    gradients: Gradients = {
        name: None if weight.grad is None else whole(weight.grad)
        for name, weight in trained.network.named_parameters()
    }
    trained.optimizer.zero_grad(set_to_none=True)
    expected = {
        name: None if gradient is None else engine.over_processes(gradient.clone())
        for name, gradient in found.gradients.items()
    }
    apart = distance(gradients, expected)
    held = processes.every(digest([gradients[n].detach() for n, g in expected.items() if g is not None]))  # type: ignore[union-attr]
    if any(each != held[0] for each in held) or not apart <= CLOSE[engine.precision]:
        raise NotSound(
            f"gradients are not synchronized: after one backward they are {apart:.1e} from the mean of those of "
            f"{processes.count()} processes"
        )
    return apart


def derivative_error(engine: Engine, found: Probe) -> float | None:
    """Return the relative error of du/dt by forward-mode differentiation against a central difference.

    The network is asked with its weights a little disturbed: at the start many answer zero, and so do their
    derivatives. The difference is taken in float32; in bf16 its rounding would be larger than what is looked for.
    None for a target without such a derivative.

    Raises: NotSound where they disagree.
    """
    strategy = found.objective.target.derivative
    if strategy is None or not strategy.forward_mode:
        return None
    p = found.point.rows(0, min(PROBED, found.point.num_jumps))
    width = 5e-3 if p.path.t_max <= 1 else 2e-3
    near = (p.t - p.r < 2 * width) | (p.t > p.path.t_max - 2 * width)  # no room for both points
    error = 0.0
    engine.gather()
    if not bool(near.all()):
        rate, slope = (each[~near].double() for each in _rates(engine, found, p, width, strategy))
        error = float((rate - slope).norm() / slope.norm().clamp_min(1e-30))
    engine.scatter()
    worst: float = max(processes.every(error))
    if not worst <= SLOPE[engine.precision]:
        raise NotSound(
            f"the derivative du/dt of this network in {engine.precision} is {worst:.1e} from a central difference, "
            f"more than {SLOPE[engine.precision]:g}: a layer of it has no right forward-mode derivative; train with "
            "--set target.derivative=CentralDifference"
        )
    return worst


def _rates(
    engine: Engine, found: Probe, p: Point, width: float, strategy: Derivative
) -> tuple[Tensor, Tensor]:
    """Return dF/dt along the velocity of the pairs, by forward-mode differentiation and by a difference."""
    flow = found.trained.flow.disturbed()
    label = p.network_label(found.trained.flow.num_classes)
    about: dict[str, Any] = {
        "domain": (p.r, p.path.t_max),
        "curve": lambda t: p.path.point(p.x, p.noise, t),
    }
    along = p.path.velocity(p.x, p.noise, p.t)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return flow.output(x, t, repeated(p.r, x), repeated(label, x))

    with autocast(engine.precision, engine.device), torch.no_grad():
        rate = strategy(field, p.x_t, p.t, along, **about)[1]
    return rate, CentralDifference(width)(field, p.x_t, p.t, along, **about)[1]
