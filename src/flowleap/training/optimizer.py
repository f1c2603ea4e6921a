"""The optimizer of a network in training: fused AdamW, and Muon for the matrices inside its blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Optimizer", "matrices_of", "orthogonalized"]

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose five iterations bring singular values near to 1."""
ITERATIONS = 5
BUFFER = "momentum_buffer"


class Optimizer(torch.optim.AdamW):
    """AdamW, but for the matrices inside the blocks of a network where Muon has a rate for them.

    M ← μ M + (1 − μ) G,  W ← (1 − η λ) W − η 0.2 √max(m, n) O(μ M + (1 − μ) G)

    G is the gradient of W of m × n, O(·) the nearest orthogonal matrix, by five iterations of Newton and Schulz, μ =
    0.95, λ the weight decay and η the rate of Muon: `muon` times the learning rate of the other weights. A convolution
    is the matrix from all weights of an output channel to that channel. As in AdamW, a step with `found_inf` of 1
    leaves weights and moments as they are, and nothing waits for the device.

    Args:
        network: asked for its matrices by `matrices()`, as the networks of this library have it.
        muon: η over the learning rate; None for AdamW everywhere.

    Raises: ValueError for a network that does not say what its matrices are.
    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); Liu et al. 2025 (arXiv 2502.16982) for
    0.2 √max(m, n), which gives the update the size of one of AdamW.
    """

    found_inf: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        muon: float | None = None,
    ) -> None:
        matrices = [] if muon is None else matrices_of(network)
        chosen = {id(weight) for weight in matrices}
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in network.parameters() if id(weight) not in chosen]}
        ]
        if matrices:
            groups.append({"params": matrices})
        self.muon = muon
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take groups and moments over; Adam's own expects a count of steps of every weight, as Muon keeps none."""
        torch.optim.Optimizer.__setstate__(self, state)

    @property
    def _by_muon(self) -> list[Tensor]:
        return [] if self.muon is None else self.param_groups[1]["params"]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step where `found_inf` is 0."""
        matrices = [weight for weight in self._by_muon if weight.grad is not None]
        with torch.no_grad():
            for same in _by_shape(matrices):
                self._orthogonal_step(same)
        for weight in matrices:
            weight.grad = None  # AdamW passes over weights without a gradient
        super().step(closure)

    def _orthogonal_step(self, weights: list[Tensor]) -> None:
        """Move matrices of one shape."""
        group, kept = self.param_groups[1], 1 - self.found_inf
        assert self.muon is not None
        rate = group["lr"] * self.muon * kept
        buffers = [self.state[weight].setdefault(BUFFER, torch.zeros_like(weight)) for weight in weights]
        gradients = [weight.grad.nan_to_num(0, 0, 0) for weight in weights if weight.grad is not None]
        for buffer, gradient in zip(buffers, gradients, strict=True):
            buffer.lerp_(gradient, (1 - MOMENTUM) * kept)
        ahead = torch.stack([g.lerp(buffer, MOMENTUM) for g, buffer in zip(gradients, buffers, strict=True)])
        moves = orthogonalized(ahead.flatten(2)).view_as(ahead)
        size = 0.2 * max(ahead.flatten(2).shape[1:]) ** 0.5
        for weight, move in zip(weights, moves, strict=True):
            weight.mul_(1 - rate * group["weight_decay"]).sub_(rate * size * move)

    def empty_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the moments of a weight before the first step, as zeros."""
        if any(weight is one for one in self._by_muon):
            return {BUFFER: torch.zeros_like(weight)}
        zeros = torch.zeros_like(weight)
        return {"step": torch.zeros((), device=weight.device), "exp_avg": zeros, "exp_avg_sq": zeros}


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return U Vᵀ of each U S Vᵀ, up to singular values between 0.7 and 1.2: (count, m, n) → the same shape.

    A bfloat16 product is enough, as published, and is used on a GPU.
    """
    wide = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices
    x = wide.mT if wide.shape[1] > wide.shape[2] else wide
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if wide.shape[1] > wide.shape[2] else x).to(matrices.dtype)


def _by_shape(weights: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return weights in groups of one shape, which are orthogonalized together."""
    groups: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        groups.setdefault(weight.shape, []).append(weight)
    return list(groups.values())


def matrices_of(network: nn.Module) -> list[Tensor]:
    """Return the weights that Muon trains; ValueError for a network that does not say which these are."""
    asked: Any = getattr(network, "matrices", None)
    if asked is None:
        raise ValueError(
            f"optimizer.muon: Muon moves the matrices inside the blocks of a network, and {type(network).__name__} "
            "does not say which these are: give it a method matrices() that returns their weights, or leave "
            "optimizer.muon out"
        )
    return [weight for weight in asked() if weight.requires_grad]
