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

    def update(self, network: nn.Module) -> None:
        """Move the average towards the present weights, all of them in one operation."""
        self._move(list(network.parameters()), list(network.buffers()))

    def finish(self) -> None:
        """Complete an update that has begun; to be called before the average is read."""

    def rest(self) -> None:
        """Go back to where the average is kept, after `module` was moved."""

    @torch.no_grad()
    def _move(self, weights: list[Tensor], buffers: list[Tensor]) -> None:
        averages: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(averages, weights, 1 - self.law(self.updates))
        for kept, buffer in zip(self.module.buffers(), buffers, strict=True):
            kept.copy_(buffer)
        self.updates += 1


class AverageOnCPU(Average):
    """The average, kept by the CPU, of a network on a GPU; it takes no memory there.

    An update begins with a copy of the weights into pinned memory, which nobody waits for, and is completed as the next
    one begins, while the GPU computes, or by `finish`.
    """

    def __init__(self, network: nn.Module, decay: float | Callable[[int], float]) -> None:
        super().__init__(network, decay)
        self.rest()
        self.weights, self.buffered = (
            [tensor.detach().clone().pin_memory() for tensor in tensors]
            for tensors in (self.module.parameters(), self.module.buffers())
        )
        self.arrival: torch.Event | None = None

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.finish()
        now = [*network.parameters(), *network.buffers()]
        for here, tensor in zip([*self.weights, *self.buffered], now, strict=True):
            here.copy_(tensor, non_blocking=True)
        self.arrival = torch.Event(now[0].device)
        self.arrival.record()

    def finish(self) -> None:
        if self.arrival is not None:
            self.arrival.synchronize()
            self.arrival = None
            self._move(self.weights, self.buffered)

    def rest(self) -> None:
        self.module.cpu()
