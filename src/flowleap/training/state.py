"""The state of a run: all that a checkpoint holds. Draws are keyed by (seed, step), not stateful."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flowleap.flow_map import FlowMap
from flowleap.objectives import EMA, Objective
from flowleap.training.ema import averaged

__all__ = ["Player", "State", "new_player"]


@dataclass
class Player:
    """A network in training, with its optimizer and the averages of its weights.

    `flow` wraps `network`; `frozen` is the map that targets are made with: `flow`, or the map of `target`.
    """

    network: nn.Module
    flow: FlowMap
    frozen: FlowMap
    optimizer: torch.optim.Optimizer
    averages: dict[float, AveragedModel]
    target: AveragedModel | None

    def set_learning_rate(self, lr: float) -> None:
        """Use `lr` in the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def update_averages(self) -> None:
        """Move every average, the target network's among them, towards the present weights."""
        for average in self.every_average():
            average.update_parameters(self.network)

    def every_average(self) -> list[AveragedModel]:
        """Return the averages of the weights and, where there is one, the target network."""
        return [*self.averages.values(), *([] if self.target is None else [self.target])]


@dataclass
class State:
    """Where a run stands: `step` steps are done, `skipped` of them without an update, the last `streak` so.

    Units: `seconds` of wall time, over all sittings.
    """

    player: Player
    step: int = 0
    skipped: int = 0
    streak: int = 0
    seconds: float = field(default=0.0, compare=False)


def new_player(
    network: nn.Module,
    objective: Objective,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    decays: tuple[float, ...],
) -> Player:
    """Return a player at its first step: fused Adam, one average per decay, and a target network if needed.

    Raises: ValueError where `objective.frozen` is neither the network itself nor an average of it.
    """
    flow = objective.flow_map(network)
    target = averaged(network, objective.frozen.decay) if isinstance(objective.frozen, EMA) else None
    return Player(
        network=network,
        flow=flow,
        frozen=flow if target is None else objective.flow_map(target.module),
        optimizer=torch.optim.AdamW(
            network.parameters(), lr=lr, betas=betas, weight_decay=weight_decay, fused=True
        ),
        averages={decay: averaged(network, decay) for decay in decays},
        target=target,
    )
