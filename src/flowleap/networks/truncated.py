"""A network in two stages: above a boundary in time it is trained, below it a frozen copy of the first stage is used.

Source: Lee et al. 2024 (arXiv 2410.14895), truncated consistency models.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from flowleap.networks.adapters import Border
from flowleap.networks.dropout import only
from flowleap.tensors import like

NEAR = 1 - 1e-6
"""Times above this fraction of the boundary count as on it, for rounding."""


def chosen(
    above: Callable[..., Tensor],
    below: Callable[..., Tensor],
    boundary: float,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    label: Tensor | None,
) -> Tensor:
    """Return above(x, t, r, label) for rows with t ≥ boundary, and below(…) without gradient for the others.

    Each is evaluated on its own rows only, and not at all without rows; in an exported graph both are, on all rows.
    """
    upper = t >= boundary * NEAR
    if torch.compiler.is_exporting():  # in a graph the number of rows of each cannot depend on the times
        return torch.where(like(upper, x), above(x, t, r, label), below(x, t, r, label))
    rows, rest = upper.nonzero().squeeze(1), (~upper).nonzero().squeeze(1)
    if not len(rest):
        return above(x, t, r, label)
    known = None if label is None else label[rest]
    with torch.no_grad(), only(rest):
        output = below(x[rest], t[rest], r[rest], known)
    if not len(rows):
        return output
    with only(rows):
        own = above(x[rows], t[rows], r[rows], None if label is None else label[rows])
    return torch.cat([own, output.to(own.dtype)])[torch.cat([rows, rest]).argsort()]


class Truncated(Border):
    """A network for times t ≥ boundary, and a frozen copy of it, the first stage of its training, below.

    F(x, t, r) is that of `network` for t ≥ boundary, and that of `first`, without gradient, for t < boundary. Both are
    part of the state dict and of the weight averages, so that runs and checkpoints do not need the teacher.

    Args:
        network: the finished first stage, which is copied and then trained as the second.
        boundary: a noise level on the variance-exploding path.

    Shapes: as the network's.
    Raises: ValueError for a boundary that is not positive.
    Source: Lee et al. 2024 (arXiv 2410.14895); boundary 1, weights of both from the average of the first stage, in the
    code of NVlabs/FastGen.
    """

    def __init__(self, network: nn.Module, boundary: float = 1.0) -> None:
        super().__init__(network, boundary=float(boundary))
        if not boundary > 0:
            raise ValueError(f"Truncated(boundary={boundary}): a time above that of the data is expected")
        self.boundary = float(boundary)
        self.first: Any = deepcopy(network).requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return chosen(self.network, self.first, self.boundary, x, t, r, label)

    @property
    def log_variance(self) -> Callable[[Tensor, Tensor], Tensor]:
        learned: Callable[[Tensor, Tensor], Tensor] = self.network.log_variance  # absent where there is none
        return learned
