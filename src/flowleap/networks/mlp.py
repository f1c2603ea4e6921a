"""Residual MLP for points and small images, with the same protocol as the transformer."""

import math
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowleap.networks.embeddings import (
    Conditioned,
    Second,
    TimeEmbedding,
    modulate,
    modulation,
    tails,
    velocity_blocks,
    zero_linear,
)

CONDITION = 128  # width of the embedded (t, r, label); a small part of the weights of a block


class ResidualBlock(nn.Module):
    """h + gate · fc2(SiLU(fc1(modulated LayerNorm h))); the identity at init."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.adaLN_modulation = modulation(CONDITION, 3 * width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(c).chunk(3, dim=-1)
        normed = F.layer_norm(h, (self.width,), eps=1e-6)
        return torch.addcmul(h, gate, self.fc2(F.silu(self.fc1(modulate(normed, shift, scale)))))

    def matrices(self) -> list[Tensor]:
        """The weights of both layers, without those of the modulation."""
        return [self.fc1.weight, self.fc2.weight]


def _run(block: nn.Module, h: Tensor, c: Tensor) -> Tensor:
    made: Tensor = block(h, c)
    return made


class MLP(Conditioned):
    """Residual MLP over flattened samples, modulated by (t, t - r, label): exactly zero at init.

    F = linear(blocks(linear(x), c)),  c = t_embedder(t) + r_embedder(t - r) + y_embedder(label)
    Shapes: x (batch, *shape), t and r (batch,), label None or int64 (batch,), null class last (with
        `guidance_input` also (batch, 4), see `tensors.guided_label`) → like x.

    Args:
        second, log_variance, guidance_input, velocity_head: as of `DiT`.

    Raises: ValueError for an input that does not fit.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        classes: int | None = None,
        *,
        width: int = 256,
        depth: int = 4,
        second: Second = "span",
        log_variance: bool = False,
        guidance_input: bool = False,
        velocity_head: int = 0,
    ) -> None:
        # angular frequencies from 8 down to 1/8: a turn or so over t in [0, 1], and no faster
        time = partial(TimeEmbedding, size=32, max_period=64.0, scale=8.0)
        super().__init__(CONDITION, classes, second, log_variance, time, guidance_input)
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.config: dict[str, Any] = {
            "kind": "MLP", "shape": list(self.shape), "classes": classes, "width": width, "depth": depth,
            "second": second, "log_variance": log_variance, "guidance_input": guidance_input,
            "velocity_head": velocity_head,
        }  # fmt: skip
        self.x_embedder = nn.Linear(math.prod(self.shape), width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.final_layer = zero_linear(width, math.prod(self.shape))
        if velocity_head:
            self.v_blocks = velocity_blocks(self.blocks, velocity_head)
            self.v_final_layer = deepcopy(self.final_layer)

    def _heads(
        self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None, velocity: bool
    ) -> tuple[Tensor, ...]:
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"this network takes samples of shape {self.shape}; got a batch {tuple(x.shape)}"
            )
        c = self._condition(x, t, r, label)
        h = self.x_embedder(x.flatten(1))
        steps = [(block, c) for block in self.blocks]
        own = [(block, c) for block in self.v_blocks] if velocity else None
        heads = (self.final_layer, self.v_final_layer) if velocity else (self.final_layer,)
        return tuple(head(h).view_as(x) for head, h in zip(heads, tails(_run, h, steps, own), strict=True))
