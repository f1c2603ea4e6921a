"""Adapters around a network: another convention for times and signs, or a log-variance head."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flowleap.networks.embeddings import TimeEmbedding, zero_linear

Network = Callable[..., Tensor]
FINEST = 1 / 128
LOWEST = 1e-6


class Border(nn.Module):
    """Base class of adapters: evaluates the network inside and has its classes.

    Args:
        options: of the adapter, for its `config`.
    """

    def __init__(self, network: Network, **options: Any) -> None:
        super().__init__()
        self.network: Any = network
        self._options = options

    @property
    def num_classes(self) -> int | None:
        return getattr(self.network, "num_classes", None)

    @property
    def guidance_input(self) -> bool:
        return getattr(self.network, "guidance_input", False)

    @property
    def config(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, "network": dict(self.network.config), **self._options}

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return self.network(x, t, r, label)

    def matrices(self) -> list[Tensor]:
        """Those of the network inside."""
        return list(self.network.matrices())

    @property
    def with_velocity(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """F and what the velocity head of the network says; absent where that has none, or times are converted."""
        if type(self).forward is not Border.forward:
            raise AttributeError(
                f"{type(self).__name__} passes on the output alone, not that of a velocity head"
            )
        inner: Callable[..., tuple[Tensor, Tensor]] = self.network.with_velocity
        return inner


class WithLogVariance(Border):
    """Adds a small network ℓ(t, r), for losses with a learned weight; ℓ = 0 at init.

    ℓ(t, r) = linear(SiLU(t_embedder(t) + r_embedder(t - r)))
    Shapes: as the network's; log_variance: t, r (batch,) → (batch,).
    """

    def __init__(self, network: Network, width: int = 64) -> None:
        super().__init__(network, width=width)
        self.t_embedder = TimeEmbedding(width, size=32, max_period=64.0, scale=8.0)
        self.r_embedder = TimeEmbedding(width, size=32, max_period=64.0, scale=8.0)
        self.logvar_linear = zero_linear(width, 1)

    def log_variance(self, t: Tensor, r: Tensor) -> Tensor:
        with torch.autocast(t.device.type, enabled=False):
            h = nn.functional.silu(self.t_embedder(t) + self.r_embedder(t - r))
            return self.logvar_linear(h).squeeze(-1)


class Retimed(Border):
    """Base class of adapters that convert times, also those of the log-variance head if there is one."""

    def times(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """The two times that the network inside is given."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return self.network(x, *self.times(t, r), label)

    @property
    def log_variance(self) -> Callable[[Tensor, Tensor], Tensor]:
        inner = self.network.log_variance  # absent where the network has none
        return lambda t, r: inner(*self.times(t, r))


class NoiseTime(Retimed):
    """Gives the network ¼ ln σ in place of the noise level σ, the time of the variance-exploding path.

    Levels below 1e-6, such as 0 at the data, become 1e-6.
    Shapes: as the network's.
    Source: Karras et al. 2022 (arXiv 2206.00364), table 1, c_noise.
    """

    def times(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return t.clamp_min(LOWEST).log() / 4, r.clamp_min(LOWEST).log() / 4


class StepToken(Retimed):
    """Gives the network the step size as the published shortcut code does, by its exponent.

    b = log2(1 / max(t - r, 1/128)) is the second input of the network. On the diagonal, r = t, b = 7: the instantaneous
    velocity counts as the finest step.
    Shapes: as the network's.
    Source: Frans et al. 2024 (arXiv 2410.12557), as in its code (kvfrans/shortcut-models).
    """

    def token(self, t: Tensor, r: Tensor) -> Tensor:
        """b = log2(1 / max(t - r, 1/128)), from 0 for the whole way to 7 for the finest step."""
        return -(t - r).clamp_min(FINEST).log2()

    def times(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        b = self.token(t, r)
        return t, b if getattr(self.network, "second", "span") == "landing" else t - b  # so that t - r is b


class Reversed(Retimed):
    """Converts a network for which t = 0 is noise and t = 1 data: it is given 1 - t, and its velocity is negated.

    F(x, t, r) = -network(x, 1 - t, 1 - t - (t - r)): the difference of its two times is still t - r.
    Shapes: as the network's.
    Source: Ma et al. 2024 (arXiv 2401.08740), as in its code (willisma/SiT): x_t = t x + (1 - t) ε, velocity x - ε;
        Frans et al. 2024 (arXiv 2410.12557) eq. 1.
    """

    def times(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, 1 - t - (t - r)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return -super().forward(x, t, r, label)


class Timestep(Retimed):
    """Gives the network the timestep k of a discrete diffusion in place of the time t of the variance-preserving path.

    k has the same noise level, α(t)² = Π_{i ≤ k} (1 - β_i) with β from `first` to `last` in equal steps, and α of the
    path with β_min = steps · first, β_max = steps · last; ln α is interpolated linearly between two timesteps.

    Shapes: as the network's.
    Source: Peebles and Xie 2022 (arXiv 2212.09748) section 3.1, and its code (facebookresearch/DiT): 1000 timesteps,
        β from 1e-4 to 0.02.
    """

    levels: Tensor

    def __init__(self, network: Network, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> None:
        super().__init__(network, steps=steps, first=first, last=last)
        if steps < 2 or not 0 < first <= last < 1:
            raise ValueError(
                f"a discrete diffusion has 2 or more timesteps and 0 < first <= last < 1; got steps={steps}, "
                f"first={first}, last={last}"
            )
        self.steps, self.first, self.last = steps, first, last
        sums, level = [], 0.0
        for i in range(steps):
            level -= math.log1p(-(first + (last - first) * i / (steps - 1))) / 2
            sums.append(level)
        self.register_buffer("levels", torch.tensor(sums), persistent=False)  # -ln α, rising

    def timestep(self, t: Tensor) -> Tensor:
        """k, from 0 to steps - 1, with fractions."""
        rise = self.steps * (self.last - self.first)
        level = self.steps * self.first * t / 2 + rise * t.square() / 4
        table = self.levels.to(level.dtype)
        below = torch.searchsorted(table, level.detach()).clamp(1, self.steps - 1) - 1
        fraction = (level - table[below]) / (table[below + 1] - table[below])
        return (below + fraction).clamp(0, self.steps - 1)

    def times(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return self.timestep(t), self.timestep(r)
