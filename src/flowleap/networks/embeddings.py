"""Embeddings of times, labels and guidance: c = t_embedder(t) + r_embedder(t - r) + y_embedder(label) + g_embedder(w).

Times are embedded unscaled, in [0, 1], and in fp32 under autocast: derivatives in t through bf16 sines are noise.
Parameter names are those of SiT and DiT, so their checkpoints load.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowleap.networks.published import Published
from flowleap.tensors import UNGUIDED, classes_of

Second = Literal["span", "landing"]


def sinusoid(t: Tensor, size: int = 256, max_period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of t at geometric frequencies.

    e_k(t) = cos(ω_k t),  e_{k + size/2}(t) = sin(ω_k t),  ω_k = max_period^(-2k / size)
    Shapes: t (batch,) → (batch, size), in at least fp32.
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    exponent = torch.arange(size // 2, dtype=t.dtype, device=t.device) / (size // 2)
    angle = t[:, None] * torch.exp(-math.log(max_period) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Embeds a time: Linear(SiLU(Linear(sinusoid(scale · t)))), in fp32 even under autocast.

    Shapes: t (batch,) → (batch, width).
    """

    def __init__(self, width: int, size: int = 256, max_period: float = 10_000.0, scale: float = 1.0) -> None:
        super().__init__()
        self.size, self.max_period, self.scale = size, max_period, scale
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
        for name, parameter in self.mlp.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.zeros_(parameter)

    def forward(self, t: Tensor) -> Tensor:
        with torch.autocast(t.device.type, enabled=False):
            waves = sinusoid(self.scale * t, self.size, self.max_period)
            return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


class LabelEmbedding(nn.Module):
    """Embeds a label; the table has one row more than there are classes, its last is the null class.

    Shapes: label (batch,) int64 in [0, classes], or None for the null class throughout → (batch, width).
    Raises: ValueError for a label out of range (checked on the CPU only, to avoid a CUDA synchronization).
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.embedding_table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        if label is None:
            return self.embedding_table.weight[self.classes].expand(batch, -1)
        if label.shape != (batch,) or label.is_floating_point() or label.dtype == torch.bool:
            raise ValueError(
                f"labels are integers of shape ({batch},), one per sample; "
                f"got {label.dtype} {tuple(label.shape)}"
            )
        if not torch.compiler.is_compiling() and label.device.type == "cpu" and batch:
            low, high = (int(end) for end in label.aminmax())
            if low < 0 or high > self.classes:
                raise ValueError(
                    f"label {low if low < 0 else high} is out of range: this network knows the classes 0 to "
                    f"{self.classes - 1}, and {self.classes} for 'no class'"
                )
        return self.embedding_table(label)


class GuidanceEmbedding(nn.Module):
    """Embeds guidance, scale(1 − 1/w) + first(t_min) + last(t_max): exactly zero at init, whatever it is given.

    It is made without a random draw of the global state, so that the other layers of a network are initialized the same
    with and without it.

    Args:
        time: makes an embedding of a width.

    Shapes: guidance (batch, 3), the scale w and the first and last guided time, or None for w = 1 on t like (batch,) →
        (batch, width).
    Source: Geng et al. 2025 (arXiv 2512.02012), the flexible guidance of improved MeanFlow: 1 − 1/w as the input.
    """

    def __init__(self, width: int, time: Callable[[int], TimeEmbedding]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.scale, self.first, self.last = time(width), time(width), time(width)
        for part in (self.scale, self.first, self.last):
            for weight in part.mlp[-1].parameters():
                nn.init.zeros_(weight)

    def forward(self, guidance: Tensor | None, t: Tensor) -> Tensor:
        if guidance is None:
            guidance = torch.stack([torch.full_like(t, value) for value in UNGUIDED], dim=1)
        scale, first, last = guidance.unbind(1)
        return self.scale(1 - 1 / scale) + self.first(first) + self.last(last)


def sincos_positions(width: int, rows: int, columns: int) -> Tensor:
    """Fixed two-dimensional positions: half of the channels for the column (w), then half for the row.

    Each half is sin ‖ cos of the position at width/4 geometric frequencies from 1 to 1/10000.
    Shapes: → (1, rows · columns, width), tokens in row-major order.
    """
    with torch.device("cpu"):  # arithmetic on the meta device would import torch._dynamo
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        frequency = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
        angle = torch.stack([column.flatten(), row.flatten()], dim=1)[:, :, None] * frequency
        made = torch.cat([angle.sin(), angle.cos()], dim=2).flatten(1)[None].float()
    return made.to(torch.get_default_device())


def velocity_blocks(blocks: nn.ModuleList, count: int) -> nn.ModuleList:
    """Return copies of the last blocks of a network, for a head of its own.

    Raises: ValueError for more blocks than there are.
    """
    if count > len(blocks):
        raise ValueError(
            f"velocity_head={count}: the head has copies of the last blocks, and there are {len(blocks)}"
        )
    return nn.ModuleList(deepcopy(block) for block in list(blocks)[len(blocks) - count :])


Step = tuple[nn.Module, Tensor]
"""A block, and the condition that it is given."""


def tails(
    run: Callable[[nn.Module, Tensor, Tensor], Tensor],
    h: Tensor,
    steps: Sequence[Step],
    own: Sequence[Step] | None,
) -> tuple[Tensor, ...]:
    """Return what the last block makes of h, and that of a head that has blocks of its own in place of the last ones.

    Args:
        run: (block, h, condition) → what the block makes of h. own: the blocks of the head; None for no such head.
    """
    shared = len(steps) - len(own or ())
    for block, c in steps[:shared]:
        h = run(block, h, c)
    ends = (steps[shared:],) if own is None else (steps[shared:], own)
    return tuple(reduce(lambda y, step: run(step[0], y, step[1]), end, h) for end in ends)


class Conditioned(Published):
    """Base class of the networks: the embeddings of (t, r, label), of guidance, and the log-variance head.

    Args:
        second: input of r_embedder, "span" for t - r (MeanFlow, ESC) or "landing" for r.
        time: makes an embedding of a width.
        guidance_input: whether labels may carry guidance (`tensors.guided_label`); plain ones mean a scale of 1.

    Raises: ValueError for options out of range, or guidance as an input without classes.
    """

    def __init__(
        self,
        width: int,
        classes: int | None,
        second: Second,
        log_variance: bool,
        time: Callable[[int], TimeEmbedding],
        guidance_input: bool = False,
        one_embedder: bool = False,
    ) -> None:
        super().__init__()
        if guidance_input and classes is None:
            raise ValueError(
                "guidance_input=True: guidance contrasts a label with none, and this network has no classes: build it "
                "with classes=..., or guidance_input=False"
            )
        if second not in ("span", "landing"):
            raise ValueError(f"second is 'span' (feeds t - r) or 'landing' (feeds r); got {second!r}")
        if classes is not None and classes < 1:
            raise ValueError(f"classes is at least 1, or None for an unconditional network; got {classes}")
        self.num_classes, self.second, self.guidance_input = classes, second, guidance_input
        self.t_embedder = time(width)
        if not one_embedder:
            self.r_embedder = time(width)
        if classes is not None:
            self.y_embedder = LabelEmbedding(classes, width)
        if guidance_input:
            self.g_embedder = GuidanceEmbedding(width, time)
        if log_variance:
            self.logvar_linear = silent_linear(width, 1)

    def matrices(self) -> list[Tensor]:
        """The weights of the linear maps and convolutions inside the blocks, which Muon trains where it is asked to."""
        own: Any = self
        heads: Any = self._modules.get("v_blocks", ())
        return [weight for block in (*own.blocks, *heads) for weight in block.matrices()]

    def _times(self, t: Tensor, r: Tensor) -> Tensor:
        if "r_embedder" not in self._modules:
            return self.t_embedder(t) + self.t_embedder(r)
        return self.t_embedder(t) + self.r_embedder(t - r if self.second == "span" else r)

    def _condition(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        self._check(x, t, r)
        return self._named(self._times(t, r), x, t, label)

    def _check(self, x: Tensor, t: Tensor, r: Tensor) -> None:
        if t.shape != x.shape[:1] or r.shape != x.shape[:1]:
            raise ValueError(
                f"t and r have one entry per sample, shape ({x.shape[0]},); "
                f"got {tuple(t.shape)} and {tuple(r.shape)}"
            )

    def _named(self, times: Tensor, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """Return embedded times with the embedding of the label added."""
        if self.num_classes is None:
            if label is not None:
                raise ValueError(
                    "this network is unconditional: build it with classes=..., or pass label=None"
                )
            return times
        if not self.guidance_input:
            return times + self.y_embedder(label, x.shape[0])
        classes, guidance = (None, None) if label is None else classes_of(label)
        return times + self.y_embedder(classes, x.shape[0]) + self.g_embedder(guidance, t)

    def _log_variance(self, t: Tensor, r: Tensor) -> Tensor:
        with torch.autocast(t.device.type, enabled=False):
            return self.logvar_linear(self._times(t, r)).squeeze(-1)

    def _heads(
        self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None, velocity: bool
    ) -> tuple[Tensor, ...]:
        """F, and with `velocity` what the velocity head says."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return self._heads(x, t, r, label, velocity=False)[0]

    def _with_velocity(
        self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return self._heads(x, t, r, label, velocity=True)

    @property
    def with_velocity(self) -> Callable[..., tuple[Tensor, ...]]:
        """F and the velocity that a second head predicts, of one evaluation; absent unless built with velocity_head.

        Shapes: as of the network → two tensors like x.
        """
        if "v_blocks" not in self._modules:
            raise AttributeError("no velocity head: build with velocity_head=1 or more")
        return self._with_velocity

    @property
    def log_variance(self) -> Callable[[Tensor, Tensor], Tensor]:
        """ℓ(t, r), one linear head on the embedded times; absent unless built with log_variance=True.

        Shapes: t, r (batch,) → (batch,).
        """
        if "logvar_linear" not in self._modules:
            raise AttributeError("no log-variance head: build with log_variance=True, or use WithLogVariance")
        return self._log_variance


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with Xavier weights and zero bias, as everywhere in the transformer."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with zero weights and bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def silent_linear(inputs: int, outputs: int) -> nn.Linear:
    """As `zero_linear`, but made without a random draw, so that the other layers of a network are initialized the same
    with and without it."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device=torch.get_default_device())
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def modulation(width: int, outputs: int) -> nn.Sequential:
    """adaLN-Zero: maps a condition to shifts, scales and gates, all zero at init."""
    return nn.Sequential(nn.SiLU(), zero_linear(width, outputs))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · (1 + scale) + shift, in one pass over x."""
    return torch.addcmul(shift, x, 1 + scale)


def pixel_norm(x: Tensor, eps: float = 1e-4) -> Tensor:
    """x / √(mean(x²) + ε) over the channels; smooth at 0, the initial value of shifts, with slope 1/√ε."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def modulate_normalized(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · p(1 + scale) + p(shift), p the pixel norm: adaptive double normalization.

    The normalized modulation, and its factors in derivatives, stay of size 1 however large the modulation grows.
    Source: Lu and Song 2024 (arXiv 2410.11081) section 4.1; its ε is not given.
    """
    return torch.addcmul(pixel_norm(shift), x, pixel_norm(1 + scale))
