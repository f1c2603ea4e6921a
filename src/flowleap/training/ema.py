"""Running averages of the weights: θ̄ ← μ_k θ̄ + (1 − μ_k) θ with μ_k = min(μ, (1 + k)/(10 + k)) after k updates."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowleap.objectives import EMA

__all__ = ["averaged", "restore"]


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of `network` whose `update_parameters(network)` moves it by one step of the warmed-up average.

    μ_k = `EMA(decay).at(k)`, the same law as that of a target network; k = 0 at the first update. The copy
    (`.module`) is in evaluation mode and asks for no gradient. Buffers are copied, not averaged.
    """
    law = EMA(decay)

    def update(averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        # The counter of the copy lives on the host, so reading it waits for no device; `count` is on the device.
        k = int(copy.n_averaged) - 1
        get_ema_multi_avg_fn(law.at(k))(averages, weights, count)

    copy = AveragedModel(network, multi_avg_fn=update)
    copy.update_parameters(network)  # the first call copies; afterwards n_averaged − 1 counts the updates
    copy.eval().requires_grad_(False)
    return copy


def restore(copy: AveragedModel, updates: int) -> None:
    """Tell an average whose weights were loaded how many updates those weights have seen."""
    copy.n_averaged.fill_(updates + 1)
