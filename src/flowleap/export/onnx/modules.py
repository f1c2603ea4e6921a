"""The torch modules that are traced: a step of the sampler, what follows the last step, and both at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from flowleap.autoencoders import Decoder
from flowleap.flow_map import FlowMap
from flowleap.tensors import UNGUIDED, Image, Label, Time, guided_label

Output = Literal["float", "uint8"]
Move = Callable[[FlowMap, Image, Time, Time, Label], Image]
"""A step of a sampler, see `samplers.Sampling.step`."""


class Step(nn.Module):
    """A step of a sampler at times that all rows share.

    Args:
        network: that of the map, so that its weights are those of the module.

    Shapes: x (batch, *shape), t and r (), label (batch,) int64 or None, guidance (batch,) or None → like x.
    """

    def __init__(self, flow: FlowMap, network: nn.Module, move: Move) -> None:
        super().__init__()
        self.network, self.flow, self.move = network, flow, move

    def forward(
        self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        rows = x.shape[0]
        if label is not None and guidance is not None:
            interval = [torch.full_like(guidance, time) for time in UNGUIDED[1:]]
            label = guided_label(label, torch.stack([guidance, *interval], dim=1))
        return self.move(self.flow, x, t.expand(rows), r.expand(rows), label)


class Finish(nn.Module):
    """What follows the last step: decode latents, clamp to the range of an image file, convert to bytes.

    Shapes: x (batch, *shape) → float32 (batch, *shape of an image), or uint8 (batch, height, width, channels).
    """

    def __init__(self, decoder: Decoder | None, bounds: tuple[float, float] | None, output: Output) -> None:
        super().__init__()
        self.autoencoder = None if decoder is None else decoder.autoencoder.module
        self.decoder, self.bounds, self.output = decoder, bounds, output

    def forward(self, x: Tensor) -> Tensor:
        images = x if self.decoder is None else self.decoder.images(x)
        if self.bounds is not None:
            images = images.clamp(*self.bounds)
        if self.output == "float":
            return images.clone()  # where nothing is done, input and output are still two values
        return ((images + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


class OneStep(nn.Module):
    """From noise to image by one step between fixed times.

    Args:
        scale: the standard deviation of the noise at the first time, see `FlowMap.prior`.

    Shapes: noise (batch, *shape), label (batch,) int64 or None, guidance (batch,) or None → as `Finish`.
    """

    def __init__(self, step: Step, finish: Finish, scale: float, times: tuple[float, float]) -> None:
        super().__init__()
        self.step, self.finish, self.scale, self.times = step, finish, scale, times

    def forward(self, noise: Tensor, label: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        t, r = (noise.new_full((), time) for time in self.times)
        return self.finish(self.step(noise * self.scale, t, r, label, guidance))
