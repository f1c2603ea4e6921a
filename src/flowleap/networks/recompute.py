"""Gradient checkpointing: a block keeps its input alone, and what lies inside is computed again for the gradient.

It costs one more forward pass of what is trained, and it is silent where nothing is recorded or trained: under
`no_grad`, and so in the derivative of two passes; for maps that only make targets; in sampling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputed"]


def recomputed(block: nn.Module, *given: Any, wanted: bool) -> Tensor:
    """Return block(*given), whose inside is computed again for the gradient where that is wanted and of use.

    Args:
        block: computes from `given` and its parameters alone, without random draws of its own.
        wanted: the option of the network.

    Raises: ValueError for a forward-mode derivative that is to keep its graph: torch cannot compute that again.
    """
    if not (wanted and torch.is_grad_enabled() and _trained(block)):
        output: Tensor = block(*given)
        return output
    if any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in given):
        raise ValueError(
            "checkpointing=True: a derivative that keeps its graph (ExactJVP) cannot be computed again; use two passes "
            "(--set target.derivative=TwoPass), or leave checkpointing out"
        )
    again: Tensor = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
    return again


def _trained(block: nn.Module) -> bool:
    """Whether a weight asks for a gradient; held or frozen weights do not, and their graph may be another later."""
    return any(weight.requires_grad for weight in block.parameters())
