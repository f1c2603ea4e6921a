"""A network in two stages: above a time it is trained, below it a frozen copy of its former self answers.

Source: Lee et al. 2024 (arXiv 2410.14895), truncated consistency models.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from flowleap.networks import dropout
from flowleap.networks.adapters import Border

__all__ = ["Truncated", "chosen"]

NEAR = 1 - 1e-6
"""Times this close below a boundary, by rounding, lie on it."""


def chosen(
    above: Callable[..., Tensor],
    below: Callable[..., Tensor],
    boundary: float,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    label: Tensor | None,
) -> Tensor:
    """Return above(x, t, r, label) on the rows with t ≥ boundary and below(…), without a gradient, on the others.

    Each is asked for its own rows only, and not at all where it has none.
    """
    upper = t >= boundary * NEAR
    rows, rest = upper.nonzero().squeeze(1), (~upper).nonzero().squeeze(1)
    if not len(rest):
        return above(x, t, r, label)
    known = None if label is None else label[rest]
    with torch.no_grad(), dropout.only(rest):
        output = below(x[rest], t[rest], r[rest], known)
    if not len(rows):
        return output
    with dropout.only(rows):
        own = above(x[rows], t[rows], r[rows], None if label is None else label[rows])
    return torch.cat([own, output.to(own.dtype)])[torch.cat([rows, rest]).argsort()]


class Truncated(Border):
    """A network for times from `boundary` on, and below that a frozen copy of it: the first stage of its training.

    F(x, t, r) is that of `network` where t ≥ boundary and that of `first`, without a gradient, where t < boundary.
    Both are part of the state and of the averages, so that a run or a checkpoint is whole without its teacher.

    Args:
        network: the finished first stage, which goes on as the second; it is copied.
        boundary: the time between the two, a noise level on the variance-exploding path.

    Shapes: as the network's.
    Raises: ValueError for a boundary that is not positive.
    Source: Lee et al. 2024 (arXiv 2410.14895); boundary 1, weights of both from the average of the first stage, in the
    code of NVlabs/FastGen.
    """

    def __init__(self, network: nn.Module, boundary: float = 1.0) -> None:
        super().__init__(network)
        if not boundary > 0:
            raise ValueError(f"Truncated(boundary={boundary}): a time above that of the data is expected")
        self.boundary = float(boundary)
        self.first: Any = deepcopy(network).requires_grad_(False)

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "boundary": self.boundary}

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return chosen(self.network, self.first, self.boundary, x, t, r, label)

    @property
    def log_variance(self) -> Callable[[Tensor, Tensor], Tensor]:
        learned: Callable[[Tensor, Tensor], Tensor] = self.network.log_variance  # absent where there is none
        return learned
