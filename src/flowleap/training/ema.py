"""Running averages of the weights: θ̄ ← μ_k θ̄ + (1 − μ_k) θ, μ_k = min(μ, (1 + k)/(10 + k)) at update k."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowleap.objectives import EMA

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(network: nn.Module, decay: float | Callable[[int], float]) -> AveragedModel:
    """Return a copy of `network` whose `update_parameters(network)` does one step of the warmed-up average.

    μ_k = `EMA(decay).at(k)`, the law that target networks follow too, or what `decay` says of k; k = 0 at the first
    update. The copy (`.module`) is in evaluation mode and asks for no gradient. Buffers are copied, not averaged.
    """
    law = decay if callable(decay) else EMA(decay).at

    def update(averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
        # `count` is on the device; the counter of the copy is on the host and can be read without waiting
        k = int(copy.n_averaged) - 1
        get_ema_multi_avg_fn(law(k))(averages, weights, count)

    copy = AveragedModel(network, multi_avg_fn=update)
    copy.update_parameters(network)  # the first call copies; afterwards n_averaged − 1 counts the updates
    copy.eval().requires_grad_(False)
    return copy


def restore(copy: AveragedModel, updates: int) -> None:
    """Tell an average whose weights were loaded how many updates those weights have seen."""
    copy.n_averaged.fill_(updates + 1)
