"""The pivot: X_{t→r}(x), the point at time r of the flow line through x at time t. Everything speaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from flowleap.parameterization import AverageVelocity, Parameterization
from flowleap.paths import LinearPath, Path
from flowleap.tensors import Image, Label, Time, like

__all__ = ["ExactMap", "FlowMap", "Told"]

Told = Literal["landing", "nothing", "data"]
"""Which second time a network is told, beside the time t of departure."""

Network = Callable[[Image, Time, Time, Label], Image]


class ExactMap(Protocol):
    """What an exactly known flow offers: its map and its velocity on a path."""

    path: Path

    def __call__(self, x: Image, t: Time, r: Time, label: Label = None) -> Image: ...

    def velocity(self, x: Image, t: Time, label: Label = None) -> Image: ...


@dataclass(frozen=True)
class FlowMap:
    """A network with its meaning: X_{t→r}(x) = a(t, r)·x + b(t, r)·F_θ(x, t, r).

    Args:
        network: any callable network(x, t, r, label) → tensor like x.
        parameterization: what F means; average velocity by default.
        path: the path the times belong to; linear by default.
        told: what the network is given for r. "landing": r itself. "nothing": t once more, so that it knows one
            time only and X_{t→r}(x) = a·x + b·F(x, t, t) for every r (consistency models, progressive distillation).
            "data": the end t_min of the path where r < t, and t where r = t: two heads, one that knows the data a
            point belongs to and one that knows the velocity (live reflow).

    Shapes: x (batch, *dims); t, r (batch,) or plain numbers; label None or (batch,).
    Raises: ValueError where the parameterization is singular on the path, or for an unknown `told`.
    """

    network: Network = field(repr=False)
    parameterization: Parameterization = AverageVelocity()
    path: Path = LinearPath()
    told: Told = "landing"

    def __post_init__(self) -> None:
        if self.told not in get_args(Told):
            raise ValueError(f'told={self.told!r}: expected "landing", "nothing" or "data"')
        reason = self.parameterization.singularity(self.path)
        if reason is not None:
            raise ValueError(
                f"{type(self.parameterization).__name__} cannot be used on {type(self.path).__name__}: {reason}; "
                "choose Velocity() or AverageVelocity(), which are regular on every path"
            )

    @classmethod
    def of(cls, oracle: ExactMap, parameterization: Parameterization | None = None) -> FlowMap:
        """Wrap an exactly known map as if a perfect network had learned it (F by inversion)."""
        meaning = AverageVelocity() if parameterization is None else parameterization
        return cls(_PerfectNetwork(oracle, meaning), meaning, oracle.path)

    @property
    def num_classes(self) -> int | None:
        """The number of classes, which is also the index of the null label; None where there are no labels."""
        return getattr(self.network, "num_classes", None)

    def __call__(self, x: Image, t: Time | float, r: Time | float, label: Label = None) -> Image:
        """Return X_{t→r}(x), like x."""
        t, r = _times(t, x), _times(r, x)
        return self.step(self.output(x, t, r, label), x, t, r)

    def output(self, x: Image, t: Time, r: Time, label: Label = None) -> Image:
        """Return the raw network output F(x, t, r), like x; the network sees `second_time(t, r)` for r."""
        scale = self.parameterization.input_scale(self.path, t)
        x_in = x if scale is None else like(scale, x) * x
        return self.network(x_in, t, self.second_time(t, r), label)

    def second_time(self, t: Time, r: Time) -> Time:
        """Return the second time that the network is told on the way from t to r, (batch,)."""
        if self.told == "landing":
            return r
        if self.told == "nothing":
            return t
        return torch.where(r < t, torch.full_like(t, self.path.t_min), t)

    def velocity(
        self, x: Image, t: Time | float, r: Time | float | None = None, label: Label = None
    ) -> Image:
        """Return u = (X_{t→r}(x) − x)/(r − t), with its limit, the instantaneous velocity, where r = t.

        `r=None` means r = t.
        """
        t = _times(t, x)
        r = t if r is None else _times(r, x)
        output = self.output(x, t, r, label)
        a, b = self.parameterization.coefficients(self.path, t, r)
        a_rate, b_rate = self.parameterization.landing_rates(self.path, t)
        diagonal = (t - r).abs() <= 1e-7 * self.path.t_max
        span = torch.where(diagonal, torch.ones_like(t), r - t)
        on_x = torch.where(diagonal, a_rate, (a - 1) / span)
        on_output = torch.where(diagonal, b_rate, b / span)
        return like(on_x, x) * x + like(on_output, x) * output

    def step(self, output: Image, x: Image, t: Time, r: Time) -> Image:
        """Return a·x + b·F: where an output F given at (x, t) leads at time r."""
        a, b = self.parameterization.coefficients(self.path, t, r)
        return like(a.to(x.dtype), x) * x + like(b.to(x.dtype), x) * output

    def output_for(self, x_r: Image, x: Image, t: Time, r: Time) -> Image:
        """Return the F with X_{t→r}(x) = x_r, for r < t: F = (x_r − a·x)/b."""
        a, b = self.parameterization.coefficients(self.path, t, r)
        return (x_r - like(a, x) * x) / like(b, x)

    def output_of_velocity(self, velocity: Image, x: Image, t: Time) -> Image:
        """Return the F on the diagonal whose instantaneous velocity is given: F = (v − ∂_r a·x)/∂_r b at r = t."""
        a_rate, b_rate = self.parameterization.landing_rates(self.path, t)
        return (velocity - like(a_rate, x) * x) / like(b_rate, x)

    def log_variance(self, t: Time, r: Time) -> Tensor | None:
        """Return the network's learned log-variance ℓ(t, r), (batch,), or None where it has none."""
        head: Any = getattr(self.network, "log_variance", None)
        return None if head is None else head(t, self.second_time(t, r))

    def with_network(self, network: Network) -> FlowMap:
        """Return the same map with another network (a target copy, EMA weights)."""
        return replace(self, network=network)


def _times(t: Time | float, x: Image) -> Time:
    if isinstance(t, Tensor) and t.ndim == 1:
        if len(t) != len(x):
            raise ValueError(f"times have {len(t)} rows, images {len(x)}: one time per row is expected")
        return t
    return torch.full((len(x),), float(t), dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class _PerfectNetwork:
    """F of an exact map: (X − a·x)/b off the diagonal, the velocity's F on it."""

    oracle: ExactMap
    parameterization: Parameterization

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        path, meaning = self.oracle.path, self.parameterization
        scale = meaning.input_scale(path, t)
        x = x if scale is None else x / like(scale, x)
        diagonal = like((t - r).abs() < 1e-12, x)
        a, b = (like(c, x) for c in meaning.coefficients(path, t, r))
        a_rate, b_rate = (like(c, x) for c in meaning.landing_rates(path, t))
        jump = (self.oracle(x, t, r, label) - a * x) / torch.where(diagonal, torch.ones_like(b), b)
        return torch.where(diagonal, (self.oracle.velocity(x, t, label) - a_rate * x) / b_rate, jump)
