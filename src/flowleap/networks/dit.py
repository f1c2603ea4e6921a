"""Diffusion transformer (DiT, SiT) for the flow map: two times, optional labels, adaLN-Zero.

Source: Peebles and Xie 2022 (arXiv 2212.09748); parameter names as in SiT, Ma et al. 2024 (arXiv 2401.08740).
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar, Protocol, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowleap.networks.dropout import Dropout, row_keys
from flowleap.networks.embeddings import (
    Conditioned,
    Second,
    TimeEmbedding,
    linear,
    modulate,
    modulate_normalized,
    modulation,
    sincos_positions,
    tails,
    velocity_blocks,
    zero_linear,
)
from flowleap.networks.recompute import recomputed


class Attention(nn.Module):
    """Multi-head self-attention; forward-mode derivatives need the MATH backend, which `derivatives` selects."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.proj = linear(width, width)
        self.q_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(h.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU (by tanh), linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = linear(width, hidden)
        self.fc2 = linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """x + gate · dropout(branch(modulated LayerNorm x)), for attention, then for the MLP; the identity at init.

    Args:
        dropout: that of attention and that of the MLP.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: tuple[Dropout, Dropout],
        qk_norm: bool = False,
        double_norm: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.modulate = width, modulate_normalized if double_norm else modulate
        self.attn = Attention(width, heads, qk_norm)
        self.mlp = Mlp(width, hidden)
        self.attn_dropout, self.mlp_dropout = dropout
        self.adaLN_modulation = modulation(width, 6 * width)

    def forward(self, x: Tensor, c: Tensor, keys: Tensor | None = None) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        # no variable for what a branch makes: it would hold memory while the next one computes
        x = torch.addcmul(
            x, gate_1, self.attn_dropout(self.attn(self.modulate(self._norm(x), shift_1, scale_1)), keys)
        )
        return torch.addcmul(
            x, gate_2, self.mlp_dropout(self.mlp(self.modulate(self._norm(x), shift_2, scale_2)), keys)
        )

    def matrices(self) -> list[Tensor]:
        """The weights of attention and MLP, without those of the modulation."""
        return [part.weight for part in (self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2)]

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=1e-6)


class FinalLayer(nn.Module):
    """Modulated LayerNorm, then a linear layer from tokens to patches; zero at init."""

    def __init__(self, width: int, outputs: int, double_norm: bool = False) -> None:
        super().__init__()
        self.width, self.modulate = width, modulate_normalized if double_norm else modulate
        self.linear = zero_linear(width, outputs)
        self.adaLN_modulation = modulation(width, 2 * width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, -1)
        return self.linear(self.modulate(F.layer_norm(x, (self.width,), eps=1e-6), shift, scale))


class PatchEmbedding(nn.Module):
    """Image → tokens: the convolution `proj` with stride = patch, computed as one matrix product."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch
        x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (batch, channel, row, p, column, q)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (batch, token, channel · p · q)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class Options(TypedDict, total=False):
    """The options of `DiT` that its named sizes leave open."""

    mlp_ratio: float
    dropout: float
    second: Second
    qk_norm: bool
    log_variance: bool
    guidance_input: bool
    velocity_head: int
    time_scale: float
    double_norm: bool
    checkpointing: bool
    decoder: int | None


class Sized(Protocol):
    """A constructor of a `DiT` of a named size."""

    def __call__(
        self,
        image: tuple[int, int, int],
        classes: int | None = None,
        patch: int = 2,
        **options: Unpack[Options],
    ) -> "DiT": ...


def _sized(width: int, depth: int, heads: int, about: str) -> Any:
    def make(cls: "type[DiT]", image: Any, classes: Any = None, patch: int = 2, **options: Any) -> "DiT":
        return cls(image, classes, patch=patch, width=width, depth=depth, heads=heads, **options)

    make.__doc__ = about
    return classmethod(make)


def _check_sizes(
    size: Sequence[int],
    patch: int,
    width: int,
    depth: int,
    heads: int,
    decoder: int | None,
    velocity_head: int,
) -> None:
    """Raise ValueError for sizes that make no network."""
    if any(side % patch for side in size):
        raise ValueError(
            f"an image of {size[0]} x {size[1]} does not split into patches of {patch} x {patch}"
        )
    if width % heads or width % 4:
        raise ValueError(f"width is a multiple of heads and of 4; got width={width}, heads={heads}")
    if decoder is not None and not 0 < decoder < depth:
        raise ValueError(
            f"decoder={decoder}: the number of the last blocks that are told r in the place of t is at least 1 and "
            f"less than depth={depth}; None for a network that is told t and r everywhere"
        )
    if velocity_head and decoder:
        raise ValueError(
            f"velocity_head={velocity_head}, decoder={decoder}: the last blocks are told r, and the velocity is "
            "that at t: use velocity_head=0 or decoder=0"
        )


class DiT(Conditioned):
    """Transformer over image patches, conditioned on (t, r, label) by adaLN-Zero: exactly zero at init.

    F = unpatchify(final(blocks(patches(x) + positions, c), c))
    c = t_embedder(t) + r_embedder(t - r) + y_embedder(label)
    With `double_norm` the shifts and scales of the modulation are normalized over the channels, gates are not. Times
    are embedded as sinusoids of t in [0, 1], not of 1000 t, which keeps derivatives in t small. With `checkpointing`
    blocks are recomputed in the backward pass (`networks.recompute`).
    With `decoder` n the last n blocks and the final layer are told r in the place of t, and the others t alone, by
    the same embedding: c = t_embedder(t) + y_embedder(label), then c = t_embedder(r) + y_embedder(label). On r = t it
    is a network of one time, so that the weights of a flow model can be taken as they are.
    A `velocity_head` has copies of so many of the last blocks, and predicts the velocity beside F, in training alone
    (`with_velocity`); 0 for none.
    `dropout` is the share of the outputs of attention and MLP that is dropped in training before the gate, the same in
    every evaluation of a row (`networks.dropout`); 0 for none.
    Shapes: x (batch, *image), t and r (batch,), label None or int64 (batch,), null class last (with
        `guidance_input` also (batch, 4), see `tensors.guided_label`) → like x.
    Raises: ValueError for an image that does not split into patches, or an input of another shape.
    Source: Peebles and Xie 2022 (arXiv 2212.09748) section 3.2; Lu and Song 2024 (arXiv 2410.11081) section 4.1; Lee
    et al. 2025 (arXiv 2510.24474) for `decoder`, 8 blocks of 28; Vaswani et al. 2017 (arXiv 1706.03762) section 5.4 for
    the place of `dropout`.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        classes: int | None = None,
        *,
        patch: int = 2,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        second: Second = "span",
        qk_norm: bool = False,
        log_variance: bool = False,
        guidance_input: bool = False,
        velocity_head: int = 0,
        time_scale: float = 1.0,
        double_norm: bool = False,
        checkpointing: bool = False,
        decoder: int | None = None,
    ) -> None:
        channels, *size = image
        _check_sizes(size, patch, width, depth, heads, decoder, velocity_head)
        time = partial(TimeEmbedding, scale=time_scale)
        super().__init__(
            width, classes, second, log_variance, time, guidance_input, one_embedder=decoder is not None
        )
        self.image, self.patch, self.checkpointing = (channels, *size), patch, checkpointing
        self.decoder = decoder or 0
        self.config: dict[str, Any] = {
            "kind": "DiT", "image": [channels, *size], "classes": classes, "patch": patch, "width": width,
            "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio, "dropout": dropout, "second": second,
            "qk_norm": qk_norm, "log_variance": log_variance, "guidance_input": guidance_input,
            "velocity_head": velocity_head, "time_scale": time_scale, "double_norm": double_norm,
            "checkpointing": checkpointing, "decoder": decoder,
        }  # fmt: skip
        self.x_embedder = PatchEmbedding(channels, patch, width)
        self.register_buffer("pos_embed", sincos_positions(width, size[0] // patch, size[1] // patch))
        self.blocks = nn.ModuleList(
            Block(width, heads, int(width * mlp_ratio), drop, qk_norm, double_norm)
            for drop in (
                (Dropout(dropout, 2 * layer), Dropout(dropout, 2 * layer + 1)) for layer in range(depth)
            )
        )
        self.final_layer = FinalLayer(width, patch * patch * channels, double_norm)
        if velocity_head:
            self.v_blocks = velocity_blocks(self.blocks, velocity_head)
            self.v_final_layer = deepcopy(self.final_layer)

    def _heads(
        self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None, velocity: bool
    ) -> tuple[Tensor, ...]:
        if x.shape[1:] != self.image:
            raise ValueError(f"this network takes images of shape {self.image}; got a batch {tuple(x.shape)}")
        first, last = self._conditions(x, t, r, label)
        tokens = self.x_embedder(x) + self.pos_embed
        keys = row_keys(x) if self.training and self.config["dropout"] else None

        def run(block: nn.Module, h: Tensor, c: Tensor) -> Tensor:
            return recomputed(block, h, c, keys, wanted=self.checkpointing)

        edge = len(self.blocks) - self.decoder
        steps = [(block, first if i < edge else last) for i, block in enumerate(self.blocks)]
        own = [(block, last) for block in self.v_blocks] if velocity else None
        heads = (self.final_layer, self.v_final_layer) if velocity else (self.final_layer,)
        found = zip(heads, tails(run, tokens, steps, own), strict=True)
        return tuple(self._unpatchify(head(h, last)) for head, h in found)

    def _conditions(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the conditions of the first blocks and of the last ones."""
        if self.decoder == 0:
            c = self._condition(x, t, r, label)
            return c, c
        self._check(x, t, r)
        first, last = (self._named(self.t_embedder(time), x, t, label) for time in (t, r))
        return first, last

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        (channels, height, width), p = self.image, self.patch
        x = tokens.view(
            tokens.shape[0], height // p, width // p, p, p, channels
        )  # row, column, p, q, channel
        return x.permute(0, 5, 1, 3, 2, 4).reshape(tokens.shape[0], channels, height, width)

    tiny: ClassVar["Sized"] = _sized(192, 6, 3, "6 layers, 192 wide.")
    small: ClassVar["Sized"] = _sized(384, 12, 6, "DiT-S: 12 layers, 384 wide, 33 M parameters.")
    base: ClassVar["Sized"] = _sized(768, 12, 12, "DiT-B: 12 layers, 768 wide, 131 M parameters.")
    large: ClassVar["Sized"] = _sized(1024, 24, 16, "DiT-L: 24 layers, 1024 wide, 460 M parameters.")
    xlarge: ClassVar["Sized"] = _sized(1152, 28, 16, "DiT-XL: 28 layers, 1152 wide, 676 M parameters.")
