"""Gradient checkpointing: a block stores only its input, and its activations are recomputed in the backward pass.

This costs one more forward pass of the trained network. It does nothing under `no_grad` or for frozen weights: in the
two-pass derivative, in maps that only make targets, and in sampling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, *given: Any, wanted: bool) -> Tensor:
    """Return block(*given), recomputed in the backward pass if that is `wanted` and a weight needs a gradient.

    Args:
        block: a function of `given` and its parameters, without random draws of its own.

    Raises: ValueError for a forward-mode derivative that keeps its graph, which torch cannot recompute.
    """
    if not (wanted and torch.is_grad_enabled() and any(w.requires_grad for w in block.parameters())):
        output: Tensor = block(*given)
        return output
    if any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in given):
        raise ValueError(
            "checkpointing=True: a derivative that keeps its graph (ExactJVP) cannot be computed again; use two passes "
            "(--set target.derivative=TwoPass), a difference (CentralDifference) where its gradient is taken, or leave "
            "checkpointing out"
        )
    again: Tensor = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
    return again
