"""The state of a run, which a checkpoint holds. Random draws are keyed by (seed, step) and have no state."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.randomness import key_of
from flowleap.training import power
from flowleap.training.ema import Average, AverageOnCPU
from flowleap.training.optimizer import Optimizer

STUDENT, AUXILIARY = "student", "rival"
"""The roles of networks in training; draws and checkpoint files are keyed by them."""


@dataclass
class TrainedNetwork:
    """A network in training, with its optimizer and the averages of its weights, by decay and, as `powers`, by width.

    `flow` wraps `network`; `frozen` is the map that targets are computed with: `flow`, or that of the `target` network,
    or that of `copy`, which is copied from the first average when a stage begins (`stage` is the last one it was copied
    for), or that of the `auxiliary` network, whose own frozen map is `flow`. The network is updated in every
    `period`-th step with a learning rate of `lr_scale` times that of the run; its draws are keyed by seed and `role`.
    """

    network: nn.Module
    flow: FlowMap
    frozen: FlowMap
    optimizer: Optimizer
    averages: dict[float, Average]
    target: Average | None
    powers: dict[float, Average] = field(default_factory=dict)
    copy: nn.Module | None = None
    stage: int = 0
    auxiliary: TrainedNetwork | None = None
    period: int = 1
    lr_scale: float = 1.0
    role: str = STUDENT

    def key(self, seed: int) -> int:
        """Return the key of its draws, independent of that of the other network."""
        return seed if self.role == STUDENT else key_of(seed, self.role)

    def due(self, step: int) -> bool:
        """Return whether it is updated in this step: in the last of every `period`."""
        return (step + 1) % self.period == 0

    def updates(self, step: int) -> int:
        """Return how many updates it had once `step` steps are done."""
        return step // self.period

    def set_learning_rate(self, lr: float) -> None:
        """Use the learning rate lr · lr_scale in the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * self.lr_scale

    def update_averages(self) -> None:
        """Move every average, the target network's among them, towards the present weights."""
        for average in self.every_average():
            average.update(self.network)

    def refresh(self, stage: int) -> None:
        """Copy the first average of the weights into the frozen map where a new stage begins."""
        if self.copy is not None and stage != self.stage:
            average = next(iter(self.averages.values()))
            average.finish()
            self.copy.load_state_dict(average.module.state_dict())
            self.stage = stage

    def every_average(self) -> list[Average]:
        """Return all averages of the weights and, where there is one, the target network."""
        others = [] if self.target is None else [self.target]
        return [*self.averages.values(), *self.powers.values(), *others]


@dataclass
class State:
    """Where a run stands: `step` steps are done, `skipped` of them without an update, the last `streak` so.

    Units: `seconds` of wall time, of all its parts where the run was resumed.
    """

    trained: TrainedNetwork
    step: int = 0
    skipped: int = 0
    streak: int = 0
    seconds: float = field(default=0.0, compare=False)

    @property
    def networks(self) -> list[TrainedNetwork]:
        """The networks in training: that of the run and its auxiliary network, where it has one."""
        return [self.trained, *([] if self.trained.auxiliary is None else [self.trained.auxiliary])]

    def averages(self) -> list[Average]:
        """Return the averages of all networks in training, ready to be read: updates that have begun are completed."""
        found = [average for trained in self.networks for average in trained.every_average()]
        for average in found:
            average.finish()
        return found

    def trained_networks(self, objective: Objective) -> list[tuple[TrainedNetwork, Objective]]:
        """Return the networks in training with their objectives, in the order of their updates: the auxiliary first."""
        if self.trained.auxiliary is None or objective.auxiliary is None:
            return [(self.trained, objective)]
        return [(self.trained.auxiliary, objective.auxiliary), (self.trained, objective)]


def new_trained_network(
    network: nn.Module,
    objective: Objective,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    decays: tuple[float, ...],
    muon: float | None = None,
    widths: tuple[float, ...] = (),
    averages_device: str = "same",
) -> TrainedNetwork:
    """Return a network at its first step: its optimizer, one average per decay and width, a target network if needed.

    The averages, the copy of a method whose frozen map is refreshed, and an auxiliary network start from its weights.
    A method with betas of its own has AdamW everywhere. With `averages_device="cpu"` the CPU keeps the averages, but
    not the target network, which each step evaluates.
    """
    flow, auxiliary, targets = objective.flow_map(network), None, objective.frozen
    on_cpu = averages_device == "cpu" and next(network.parameters()).device.type != "cpu"
    average = AverageOnCPU if on_cpu else Average
    if targets.betas is not None:
        betas, muon = targets.betas, None
    if objective.auxiliary is not None:
        settings: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "decays": ()}
        auxiliary = new_trained_network(deepcopy(network), objective.auxiliary, **settings)
        auxiliary.frozen, auxiliary.role, auxiliary.lr_scale = flow, AUXILIARY, targets.lr_scale
    target = Average(network, _decay_of(objective)) if targets.copy == "average" else None
    copy = deepcopy(network).eval() if targets.copy == "snapshot" else None
    held = copy.requires_grad_(False) if copy is not None else None if target is None else target.module
    frozen = flow if held is None else objective.flow_map(held)
    return TrainedNetwork(
        network=network,
        flow=flow,
        frozen=frozen if auxiliary is None else auxiliary.flow,
        optimizer=Optimizer(network, lr=lr, betas=betas, weight_decay=weight_decay, muon=muon),
        averages={decay: average(network, decay) for decay in decays},
        target=target,
        powers={width: average(network, partial(power.decay, power.exponent(width))) for width in widths},
        copy=copy,
        auxiliary=auxiliary,
        period=targets.period,
        lr_scale=targets.lr_scale,
    )


def _decay_of(objective: Objective) -> Callable[[int], float]:
    """Return the law of the target network's decay by the number of updates before."""

    def decay(updates: int) -> float:
        found = objective.target_decay(updates)
        assert found is not None
        return found

    return decay
