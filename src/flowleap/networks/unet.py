"""U-Net for the flow map of pixels: two times, optional labels, residual blocks over several resolutions.

Source: Song et al. 2020 (arXiv 2011.13456) appendix H, the DDPM++ network, with the sizes of Karras et al. 2022
(arXiv 2206.00364) appendix F: residual blocks that resample inside, branches joined by √½, one head of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowleap.networks.dropout import Dropout, row_keys
from flowleap.networks.embeddings import Conditioned, Second, TimeEmbedding
from flowleap.networks.recompute import recomputed

EMBEDDED = 4
"""The condition is this many times as wide as the first level."""
HALF = sqrt(0.5)


class GroupNorm(nn.GroupNorm):
    """Group normalization of up to 32 groups, of four channels or more.

    Its input is made contiguous, which forward-mode differentiation needs.
    """

    def __init__(self, channels: int) -> None:
        groups = next(n for n in range(min(32, max(1, channels // 4)), 0, -1) if channels % n == 0)
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


class PixelAttention(nn.Module):
    """Self-attention over pixels, (x + proj(attention(norm x))) √½, without a fused kernel, so that forward-mode
    differentiation works on every device."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(channels)
        self.qkv = convolution(channels, 3 * channels, 1)
        self.proj = convolution(channels, channels, 1, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        weight = torch.softmax((q * q.shape[2] ** -0.5).transpose(2, 3) @ k, dim=-1)
        h = v @ weight.to(v.dtype).transpose(2, 3)  # (batch, head, channel, pixel)
        return (x + self.proj(h.flatten(1, 2).view_as(x))) * HALF


class Residual(nn.Module):
    """(skip(x) + branch(x, c)) √½, then attention: two convolutions with the condition added between them.

    branch = conv₂(dropout(SiLU(norm₂(conv₁(SiLU(norm₁ x)) + condition(c))))); conv₂ is zero at init. `resample` halves
    ("down") or doubles ("up") both paths; a doubled side may be cut to `size`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedded: int,
        dropout: Dropout,
        *,
        resample: str = "",
        heads: int = 0,
    ) -> None:
        super().__init__()
        self.resample, self.outputs = resample, outputs
        self.norm1, self.norm2 = GroupNorm(inputs), GroupNorm(outputs)
        self.conv1 = convolution(inputs, outputs, 3)
        self.conv2 = convolution(outputs, outputs, 3, zero=True)
        self.condition = nn.Linear(embedded, outputs)
        self.dropout = dropout
        self.skip = convolution(inputs, outputs, 1) if inputs != outputs or resample else nn.Identity()
        self.attention = PixelAttention(outputs, heads) if heads else nn.Identity()

    def forward(
        self, x: Tensor, c: Tensor, keys: Tensor | None, size: tuple[int, int] | None = None
    ) -> Tensor:
        h = self.conv1(self._resampled(F.silu(self.norm1(x)), size))
        h = F.silu(self.norm2(h + self.condition(c)[:, :, None, None]))
        h = self.conv2(self.dropout(h, keys))
        return self.attention((self.skip(self._resampled(x, size)) + h) * HALF)

    def matrices(self) -> list[Tensor]:
        """The weights of its convolutions and of its attention, without that of the condition."""
        parts = (self.conv1, self.conv2, self.skip, self.attention)
        return [weight for part in parts for weight in part.parameters() if weight.ndim == 4]

    def _resampled(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2, ceil_mode=True)
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            return x if size is None else x[:, :, : size[0], : size[1]]
        return x


class UNet(Conditioned):
    """Residual blocks down and up a ladder of resolutions, each reading (t, r, label): exactly zero at init.

    F = out(up(middle(down(conv x, c), c), c)),  c = SiLU(t_embedder(t) + r_embedder(t - r) + y_embedder(label))

    Level i has width · multipliers[i] channels and 1/2^i of the side of the image, rounded up: 28, 14, 7. On the way up
    each level has one block more than on the way down, and skip connections from there.

    Args:
        image: (channels, height, width). classes: their number, None for a network without labels.
        width: channels of the first level. multipliers: those of each level, in units of `width`.
        depth: residual blocks of a level on the way down.
        attention: the levels with attention, 0 for full resolution; the middle always has it. On the way down it
            follows every block, on the way up the last one of the level. heads: of each attention.
        dropout: the share of activations dropped in training, the same in every evaluation of a row, see
            `networks.dropout`.
        second, log_variance, guidance_input, time_scale: as of `DiT`.
        checkpointing: whether blocks are recomputed in the backward pass, see `networks.recompute`.

    Shapes: x (batch, *image), t and r (batch,), label None or int64 (batch,), null class last (with
        `guidance_input` also (batch, 4), see `tensors.guided_label`) → like x.
    Raises: ValueError for an image too small for its levels, options out of range, or an input that does not fit.
    Source: Song et al. 2020 (arXiv 2011.13456) appendix H; Karras et al. 2022 (arXiv 2206.00364) appendix F.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        classes: int | None = None,
        *,
        width: int = 128,
        multipliers: Sequence[int] = (2, 2, 2),
        depth: int = 4,
        attention: Sequence[int] = (1,),
        heads: int = 1,
        dropout: float = 0.0,
        second: Second = "span",
        log_variance: bool = False,
        guidance_input: bool = False,
        time_scale: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        channels, *size = image
        widths, attention = [width * int(m) for m in multipliers], tuple(int(i) for i in attention)
        _check(size, widths, depth, attention, heads, width)
        embedded = EMBEDDED * width
        time = partial(TimeEmbedding, scale=time_scale)
        super().__init__(embedded, classes, second, log_variance, time, guidance_input)
        self.image, self.checkpointing = (channels, *size), checkpointing
        self.config: dict[str, Any] = {
            "kind": "UNet", "image": [channels, *size], "classes": classes, "width": width,
            "multipliers": [int(m) for m in multipliers], "depth": depth, "attention": list(attention), "heads": heads,
            "dropout": dropout, "second": second, "log_variance": log_variance, "guidance_input": guidance_input,
            "time_scale": time_scale, "checkpointing": checkpointing,
        }  # fmt: skip
        layers = iter(range(1_000_000))

        def block(inputs: int, outputs: int, resample: str = "", attentive: bool = False) -> Residual:
            drop = Dropout(dropout, next(layers))
            return Residual(
                inputs, outputs, embedded, drop, resample=resample, heads=heads if attentive else 0
            )

        self.conv_in = convolution(channels, width, 3)
        self.down, left, here = nn.ModuleList(), [width], width
        for level, outputs in enumerate(widths):
            if level:
                self.down.append(block(here, here, "down"))
                left.append(here)
            for _ in range(depth):
                self.down.append(block(here, outputs, attentive=level in attention))
                here = outputs
                left.append(here)
        self.middle = nn.ModuleList([block(here, here, attentive=True), block(here, here)])
        self.up = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                self.up.append(block(here, here, "up"))
            for index in range(depth + 1):
                attentive = index == depth and level in attention
                self.up.append(block(here + left.pop(), outputs, attentive=attentive))
                here = outputs
        self.norm_out = GroupNorm(here)
        self.conv_out = convolution(here, channels, 3, zero=True)

    @property
    def blocks(self) -> list[Residual]:
        """Every residual block, in the order of the computation."""
        blocks: Any = (block for part in (self.down, self.middle, self.up) for block in part)
        return list(blocks)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        if x.shape[1:] != self.image:
            raise ValueError(f"this network takes images of shape {self.image}; got a batch {tuple(x.shape)}")
        c = F.silu(self._condition(x, t, r, label))
        keys = row_keys(x) if self.training and self.config["dropout"] else None
        run = partial(recomputed, wanted=self.checkpointing)
        h = self.conv_in(x)
        left = [h]
        for block in self.down:
            h = run(block, h, c, keys)
            left.append(h)
        for block in self.middle:
            h = run(block, h, c, keys)
        for block in self.up:
            if block.resample:
                h = run(block, h, c, keys, tuple(left[-1].shape[2:]))
            else:
                h = run(block, torch.cat([h, left.pop()], dim=1), c, keys)
        return self.conv_out(F.silu(self.norm_out(h)))


def _check(
    size: Sequence[int], widths: Sequence[int], depth: int, attention: Sequence[int], heads: int, width: int
) -> None:
    """Raise ValueError for sizes that make no network."""
    levels = len(widths)
    if not levels or min(widths) < 1 or depth < 1 or width % 4:
        raise ValueError(
            f"UNet(width={width}, depth={depth}) with {levels} levels: a width that is a multiple of 4, and one level, "
            "one block and a multiplier of 1 or more are expected"
        )
    if min(size) < 2 ** (levels - 1):
        most = min(size).bit_length()
        raise ValueError(
            f"an image of {size[0]} x {size[1]} cannot be halved {levels - 1} times: use at most {most} levels, such "
            f"as multipliers={[1] + [2] * (most - 1)}"
        )
    if any(not 0 <= level < levels for level in attention):
        raise ValueError(f"attention={list(attention)}: levels from 0 to {levels - 1} are expected")
    if heads < 1 or any(widths[level] % heads for level in (*attention, levels - 1)):
        raise ValueError(f"heads={heads}: a number that divides the channels with attention is expected")


def convolution(inputs: int, outputs: int, side: int, zero: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size of its input, with Xavier (or zero) weights and zero bias."""
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
