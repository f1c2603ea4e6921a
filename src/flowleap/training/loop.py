"""The training loop, from top to bottom.

Every draw is keyed by (seed, step), so a step depends on nothing but its number, the weights, their averages
and the optimizer: a run that is interrupted and resumed computes what an uninterrupted one computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from flowleap.data import Dataset
from flowleap.objectives import Objective
from flowleap.point import Batch, Regression
from flowleap.training.guard import Diverged, Guard, likely_cause
from flowleap.training.log import Recorder
from flowleap.training.state import RIVAL, Player, State

__all__ = ["Events", "Plan", "draw_batch", "fit"]


@dataclass(frozen=True)
class Plan:
    """How long, in what order and with which steps to train; `warmup` is a fraction of the run, 0 for none.

    `clip` bounds the gradient norm (None: no bound). `patience` is how many steps in a row may not be finite.
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

    def learning_rate(self, step: int) -> float:
        """Return lr · min(1, (k + 1)/(warmup · K)) · ½(1 + cos πf), f how far step k is into the last decay · K."""
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        into = (step / self.steps - 1.0 + self.decay) / self.decay if self.decay else 0.0
        return self.lr * rise * 0.5 * (1.0 + math.cos(math.pi * max(0.0, into)))


@dataclass(frozen=True)
class Events:
    """What the loop calls outside of itself.

    Args:
        log: given the averages over each log interval.
        sample: called every `Plan.sample_every` steps and at the end.
        measure: called after each log interval; it decides itself whether there is time to measure quality.
        save: called every `Plan.checkpoint_every` steps, at the end, and when the run is interrupted.
        tick: called after each step.
        interrupted: asked after each step whether to save and leave.
    """

    log: Callable[[dict[str, Any]], None]
    sample: Callable[[State], None]
    save: Callable[[State], None]
    measure: Callable[[State], None] = lambda state: None
    tick: Callable[[int], None] = lambda step: None
    interrupted: Callable[[], bool] = lambda: False


def draw_batch(data: Dataset, objective: Objective, plan: Plan, step: int, device: torch.device) -> Batch:
    """Return the batch of a step: a pure function of (seed, step)."""
    rows = objective.batching.indices(data.label, len(data), plan.batch, step, plan.seed)
    x = data.take(rows, step, plan.seed).to(device, non_blocking=True)
    label, noise = (
        None if tensor is None else tensor[rows].to(device, non_blocking=True)
        for tensor in (data.label, data.noise)
    )
    return Batch(x=x, label=label, noise=noise)


def fit(state: State, objective: Objective, data: Dataset, plan: Plan, events: Events) -> State:
    """Train until `plan.steps` steps are done or the run is interrupted; `state` is changed in place.

    Args:
        objective: as `Objective.for_run` gives it.
        data: on the CPU; without labels where the network has none.

    Raises: Diverged after `plan.patience` steps in a row whose loss or gradient was not finite.
    """
    device = next(state.player.network.parameters()).device
    recorder = Recorder(device, plan.batch, state.seconds)
    guard = Guard(device, state.skipped, state.streak)

    while state.step < plan.steps:
        # a batch, and the turn of every player: most runs have one, and some a rival, whose turn comes first
        batch = draw_batch(data, objective, plan, state.step, device)
        lr = plan.learning_rate(state.step)
        turns = [
            take_turn(player, task, batch, plan, state.step, lr, guard)
            for player, task in state.players(objective)
            if player.due(state.step)
        ]
        guard.count(whole=state.player.due(state.step))

        # numbers, pictures, a checkpoint (reading the guard waits for the device, which costs a CPU nothing)
        state.step += 1
        for turn in turns:
            recorder.add(turn.regression, turn.loss, turn.norm, rival=turn.role == RIVAL)
        done = state.step == plan.steps
        leaving = done or events.interrupted()
        log, save = (leaving or every(n, state.step) for n in (plan.log_every, plan.checkpoint_every))
        if log or save or device.type == "cpu":
            state.skipped, state.streak = guard.read()
        lost = state.streak >= plan.patience
        if log or lost:
            events.log(recorder.row(state, lr * state.player.pace))
        if lost:
            first = next((turn for turn in turns if not turn.finite), turns[-1])
            cause = likely_cause(batch, first.regression, first.loss, recorder.usual_derivative)
            raise Diverged(f"{state.streak} steps in a row were not finite, up to step {state.step}: {cause}")
        with recorder.aside(state):
            if log and (done or not leaving):
                events.measure(state)
            if done or every(plan.sample_every, state.step):
                events.sample(state)
            if save and (leaving or not state.streak):
                events.save(state)
        events.tick(state.step)
        if leaving:
            break
    return state


class Turn(NamedTuple):
    """What became of one step of one player's optimizer; loss, norm and finite are scalars."""

    role: str
    regression: Regression
    loss: Tensor
    norm: Tensor
    finite: Tensor


def take_turn(
    player: Player, objective: Objective, batch: Batch, plan: Plan, step: int, lr: float, guard: Guard
) -> Turn:
    """Let a player learn from a batch: it takes one step of its optimizer, unless something is not finite."""
    # the random draws made for the batch, and the error of the network there; a new stage has a new teacher
    player.network.train()
    player.refresh(objective.stage(step))
    point = objective.draw(batch, step, player.key(plan.seed), player.frozen)
    regression = objective.regress(player.flow, player.frozen, point)
    loss = objective.per_sample(regression, point).mean()

    # one step of the optimizer; then the averages follow
    player.set_learning_rate(lr)
    player.optimizer.zero_grad()
    loss.backward()
    weights = [weight for weight in player.network.parameters() if weight.requires_grad]
    norm = clip_grad_norm_(weights, math.inf if plan.clip is None else plan.clip)
    finite = (loss + norm).isfinite()
    guard.step(player.optimizer, finite)
    player.update_averages()
    return Turn(player.role, regression, loss, norm, finite)


def every(interval: int, step: int) -> bool:
    """Whether something done every `interval` steps (0: never) is due after step `step`."""
    return interval > 0 and step % interval == 0
