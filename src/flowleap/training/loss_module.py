"""The loss of a step as a module, with the trained network inside: what DDP and FSDP wrap, and what is compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.point import Point, Regression

NUMBERS = ("raw_error", "loss", "derivative_norm", "jumps")
"""What a part of a batch adds to: its share of two means over the batch, a sum over rows r < t, and their number."""


class LossModule(nn.Module):
    """Its forward is the part of a loss that some rows of a global batch make up; the network in it is its only child.

        loss = Σ_i ℓ_i / total   over the rows that are here,

    so that the losses of all parts add up to the mean over the global batch, whatever the parts' sizes. Gradients are
    synchronized, weights gathered and graphs compiled around this forward and nowhere else, which is why everything
    that asks the network in a step goes through it. Averages, teachers and other frozen maps are no part of it.

    Args:
        network: in training; `flow` is its map.
        flow, frozen: the map in training and that which targets are made with.
        objective: what makes the loss.
        precision: "fp32", or "bf16" for autocast: weights, their gradients and everything but the network's own matrix
            products stay in float32. The casts are not cached: in torch before December 2025 (pytorch#158232) a
            cast made under `no_grad`, as by the derivative of a two-pass target, was used again by the pass that needs
            its gradient.

    Raises: ValueError where `flow` is the map of another network.
    """

    def __init__(
        self,
        network: nn.Module,
        flow: FlowMap,
        frozen: FlowMap,
        objective: Objective,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        if flow.network is not network:
            raise ValueError("LossModule: flow is the map of another network than the one that is trained")
        self.network = network
        self.flow, self.frozen, self.objective, self.precision = flow, frozen, objective, precision

    def forward(self, point: Point, total: int) -> tuple[Tensor, Tensor, Regression]:
        """Return the loss of these rows of a batch of `total`, numbers to be added up, and the regression, no graph.

        Shapes: → scalar, (4,) float64 in the order of `NUMBERS`, and a regression of these rows.
        """
        with autocast(self.precision, point.x.device):
            regression = self.objective.regress(self.flow, self.frozen, point)
            loss = self.objective.per_sample(regression, point).sum() / total
        return loss, numbers(regression, loss, total), detached(regression)


def autocast(precision: str, device: torch.device) -> Any:
    """Return the context of a precision, see `LossModule`."""
    on = precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=on, cache_enabled=False)


def numbers(regression: Regression, loss: Tensor, total: int) -> Tensor:
    """Return what these rows add to the numbers of a step, (4,) float64, without a graph."""
    norm, none = regression.derivative_norm, torch.zeros((), dtype=torch.float64, device=loss.device)
    derivative = none if norm is None else norm.detach().sum().double()
    jumps = none if norm is None else none + norm.numel()
    return torch.stack([(regression.raw.sum() / total).double(), loss.detach().double(), derivative, jumps])


def detached(regression: Regression) -> Regression:
    """Return prediction, target and derivative norm of a regression without their graph."""
    norm = regression.derivative_norm
    return Regression(
        prediction=regression.prediction.detach(),
        target=regression.target.detach(),
        space=regression.space,
        derivative_norm=None if norm is None else norm.detach(),
    )
