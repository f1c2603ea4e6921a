"""The training loop, from top to bottom.

Every draw is keyed by (seed, step), so a step depends on nothing but its number, the weights, their averages
and the optimizer: a run that is interrupted and resumed computes what an uninterrupted one computes, on as many
processes as there are then; with one number of CPU threads to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from flowleap import clock, processes
from flowleap.data import Dataset
from flowleap.objectives import Objective
from flowleap.point import Batch, Regression
from flowleap.tensors import onto
from flowleap.training.distributed import Engine, whole
from flowleap.training.guard import VAGUE, Diverged, Guard, likely_cause
from flowleap.training.log import Recorder
from flowleap.training.loss_module import NUMBERS
from flowleap.training.state import AUXILIARY, State, TrainedNetwork


@dataclass(frozen=True)
class Plan:
    """How long, in what order and with which steps to train; `warmup` is a fraction of the run, 0 for none.

    `clip` bounds the gradient norm (None: no bound). `patience` is how many steps in a row may not be finite.
    `checkpoints_total_limit` is how many checkpoints are kept, 0 for all.
    """

    steps: int
    batch: int
    seed: int
    lr: float
    warmup: float = 0.0
    decay: float = 0.0
    clip: float | None = 1.0
    patience: int = 20
    log_every: int = 50
    sample_every: int = 500
    checkpoint_every: int = 500
    checkpoints_total_limit: int = 2

    def learning_rate(self, step: int) -> float:
        """Return lr · min(1, (k + 1)/(warmup · K)) · ½(1 + cos πf), f how far step k is into the last decay · K."""
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        into = (step / self.steps - 1.0 + self.decay) / self.decay if self.decay else 0.0
        return self.lr * rise * 0.5 * (1.0 + math.cos(math.pi * max(0.0, into)))

    def draws(self, step: int) -> bool:
        """Return whether samples are drawn after a step: with the first numbers, every `sample_every`, at the end."""
        first = min(self.log_every, self.sample_every)
        return step == self.steps or every(self.sample_every, step) or 0 < first == step


@dataclass(frozen=True)
class Events:
    """What the loop calls outside of itself.

    Args:
        log: given the averages over each log interval.
        sample: called as `Plan.draws` says.
        measure: called after each log interval; it decides itself whether there is time to measure quality.
        save: called every `Plan.checkpoint_every` steps, at the end, and when the run is interrupted.
        keep: called after each step; it decides itself whether there is something to store.
        tick: called after each step.
        interrupted: asked after each step whether to save and leave.
        step: returns a context around the computing of each step.
    """

    log: Callable[[dict[str, Any]], None]
    sample: Callable[[State], None]
    save: Callable[[State], None]
    measure: Callable[[State], None] = lambda state: None
    keep: Callable[[State], None] = lambda state: None
    tick: Callable[[int], None] = lambda step: None
    interrupted: Callable[[], bool] = lambda: False
    step: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Reads:
    """Which rows of the data a process asks for: a pure function of (seed, step) and the part of the batch.

    Args:
        label, size: of the data. objective: whose batches these are. batch, seed: of the run.
        own: the parts of this process, one turn each. parts: into how many the global batch is cut.
    """

    label: Tensor | None
    size: int
    objective: Objective
    batch: int
    seed: int
    own: range = range(1)
    parts: int = 1

    @property
    def turns(self) -> int:
        """How often rows are asked for in a step."""
        return len(self.own)

    def rows(self, turn: int) -> Tensor:
        """Return the rows of a turn, the first of step k being turn k · `turns`. Shapes: → int64 (rows,)."""
        step, place = divmod(turn, self.turns)
        rows, here, others = self.places(step, self.own[place])
        return rows[torch.cat([here, others])]

    def places(self, step: int, part: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of the global batch, where in it those of a part are, and those of their context."""
        rows = self.objective.batching.indices(self.label, self.size, self.batch, step, self.seed)
        if self.parts == 1:
            return rows, torch.arange(len(rows)), torch.empty(0, dtype=torch.int64)
        here = self.objective.part(self.batch, step, self.seed, part, self.parts)
        label = None if self.label is None else self.label[rows]
        return rows, here, self.objective.context(label, here, self.batch)


def draw_batch(
    data: Dataset,
    objective: Objective,
    plan: Plan,
    step: int,
    device: torch.device,
    part: int = 0,
    parts: int = 1,
) -> Batch:
    """Return the batch of a step, or a part of it: a pure function of (seed, step) and the part.

    Only the rows of the part are drawn and read, and beside them those that belong together with them.
    """
    reads = Reads(data.label, len(data), objective, plan.batch, plan.seed, range(part, part + 1), parts)
    rows, here, others = reads.places(step, part)
    label, noise = (None if tensor is None else tensor[rows] for tensor in (data.label, data.noise))

    def placed(tensor: Tensor | None) -> Any:
        return None if tensor is None else onto(tensor, device)

    if parts == 1:
        x = data.take(rows, step, plan.seed)
        return Batch(x=placed(x), label=placed(label), noise=placed(noise))
    x = placed(data.take(rows, step, plan.seed, torch.cat([here, others])))
    mixed = objective.mixes_rows
    return Batch(
        x=x[: len(here)],
        label=placed(None if label is None else label[here]),
        noise=placed(None if noise is None else noise[here]),
        row=here,
        size=plan.batch,
        context=x[len(here) :] if mixed else None,
        context_label=placed(label[others]) if mixed and label is not None else None,
        context_row=others if mixed else None,
    )


def fit(
    state: State,
    objective: Objective,
    data: Dataset,
    plan: Plan,
    events: Events,
    engine: Engine | None = None,
) -> State:
    """Train until `plan.steps` steps are done or the run is interrupted; `state` is changed in place.

    Args:
        objective: as `Objective.for_run` gives it.
        data: on the CPU; without labels where the network has none.
        engine: one that `start.make_ready` prepared; None for one process and whole batches.

    Raises: Diverged after `plan.patience` steps in a row whose loss or gradient was not finite.
    """
    device = next(state.trained.network.parameters()).device
    engine = Engine.alone(state, objective, device) if engine is None else engine
    recorder = Recorder(device, plan.batch, state.seconds)
    guard = Guard(device, state.skipped, state.streak)

    while state.step < plan.steps:
        lr = plan.learning_rate(state.step)
        with events.step():
            updates = train_step(state, objective, data, plan, engine, guard)

        # numbers, pictures, a checkpoint (a GPU sends the numbers of an interval until the next one ends)
        state.step += 1
        with clock.named("log"):
            for one in updates:
                recorder.add(one.numbers, one.norm, auxiliary=one.role == AUXILIARY)
        done = state.step == plan.steps
        leaving = processes.any_of(events.interrupted()) or done
        log, save = (leaving or every(n, state.step) for n in (plan.log_every, plan.checkpoint_every))
        at_once = save or leaving or device.type == "cpu"
        with clock.named("log"):
            if log:
                recorder.close(state, lr * state.trained.lr_scale, guard)
            for row in recorder.rows(at_once=at_once):
                events.log(row)
        if at_once:
            state.skipped, state.streak = guard.read()
        if state.streak >= plan.patience:
            if not log:
                recorder.close(state, lr * state.trained.lr_scale, guard)
                events.log(next(recorder.rows(at_once=True)))
            raise diverged(state, updates, recorder)
        with recorder.aside(state):
            events.keep(state)
            measured, shown = log and (done or not leaving), plan.draws(state.step)
            with engine.whole(state) if measured or shown else nullcontext():
                if measured:
                    with clock.named("evaluate"):
                        events.measure(state)
                if shown:
                    with clock.named("sample"):
                        events.sample(state)
            if save and (leaving or not state.streak):
                with clock.named("save"):
                    events.save(state)
        events.tick(state.step)
        if leaving:
            break
    return state


def diverged(state: State, updates: Sequence[Update], recorder: Recorder) -> Diverged:
    """Return the error that ends a run, with what most likely made a loss or a gradient non-finite."""
    first = next((one for one in updates if not one.finite), updates[-1])
    found = likely_cause(first.batch, first.regression, first.loss, recorder.usual_derivative)
    cause = min(processes.every(found), key=lambda text: text.startswith(VAGUE))
    return Diverged(f"{state.streak} steps in a row were not finite, up to step {state.step}: {cause}")


def train_step(
    state: State, objective: Objective, data: Dataset, plan: Plan, engine: Engine, guard: Guard
) -> list[Update]:
    """Draw the batch of step `state.step`, and update every network that is due; an auxiliary network comes first."""
    draw = partial(draw_batch, data, objective, plan, state.step, engine.device, parts=engine.parts)
    with clock.named("draw"):
        batches, lr = [draw(part) for part in engine.own], plan.learning_rate(state.step)
    updates = [
        update(trained, task, batches, plan, state.step, lr, guard, engine)
        for trained, task in state.trained_networks(objective)
        if trained.due(state.step)
    ]
    guard.count(whole=state.trained.due(state.step))
    return updates


class Update(NamedTuple):
    """The numbers of one step of the optimizer of one network; loss, norm and finite are scalars.

    Numbers are those of `loss_module.NUMBERS`, of the global batch; batch and regression are those of the last part
    here.
    """

    role: str
    numbers: Tensor
    batch: Batch
    regression: Regression
    loss: Tensor
    norm: Tensor
    finite: Tensor


def update(
    trained: TrainedNetwork,
    objective: Objective,
    batches: Sequence[Batch],
    plan: Plan,
    step: int,
    lr: float,
    guard: Guard,
    engine: Engine,
) -> Update:
    """Update a network on a batch in parts by one step of its optimizer, unless something is not finite."""
    trained.network.train()
    trained.refresh(objective.stage(step))  # a new stage has a new teacher
    trained.optimizer.zero_grad()

    # of each part the random draws, and the error of the network there; gradients add up, here and over processes
    numbers: Any = 0.0
    for batch in batches:
        engine.gather()
        with clock.named("draw"):
            point = objective.draw(batch, step, trained.key(plan.seed), trained.frozen)
        more, regression = engine.learn(trained, point, plan.batch, last=batch is batches[-1])
        numbers = numbers + more
    engine.scatter()
    numbers = engine.over_processes(numbers)
    loss = numbers[NUMBERS.index("loss")]

    # one step of the optimizer; then the averages follow
    with clock.named("optimizer"):
        trained.set_learning_rate(lr)
        weights = [weight for weight in trained.network.parameters() if weight.requires_grad]
        norm = whole(clip_grad_norm_(weights, math.inf if plan.clip is None else plan.clip))
        finite = (loss + norm).isfinite()
        guard.step(trained.optimizer, finite)
    with clock.named("averages"):
        trained.update_averages()
    return Update(trained.role, numbers, batches[-1], regression, loss, norm, finite)


def every(interval: int, step: int) -> bool:
    """Whether something done every `interval` steps (0: never) is due after step `step`."""
    return interval > 0 and step % interval == 0
