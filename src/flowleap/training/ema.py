"""Running averages of the weights: θ̄ ← μ_k θ̄ + (1 − μ_k) θ, μ_k = min(μ, (1 + k)/(10 + k)) at update k."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from flowleap.objectives import EMA


class Average(nn.Module):
    """A copy of a network, `module`, whose weights are a running average of those of the network.

    The copy is in evaluation mode and asks for no gradient. Buffers are copied, not averaged.

    Args:
        network: what is copied.
        decay: μ of the warmed-up average, `EMA(decay).at(k)`, the law that target networks follow too; or a function
            that returns μ_k of k. k = 0 at the first update.

    Attributes:
        updates: the number of updates so far.
    """

    def __init__(self, network: nn.Module, decay: float | Callable[[int], float]) -> None:
        super().__init__()
        self.module = deepcopy(network).eval().requires_grad_(False)
        self.law = decay if callable(decay) else EMA(decay).at
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the present weights, all of them in one operation."""
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - self.law(self.updates))
        for kept, buffer in zip(self.module.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)
        self.updates += 1
