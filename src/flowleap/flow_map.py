"""The flow map X_{t→r}(x): the point at time r on the flow line through x at time t."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flowleap.parameterization import AverageVelocity, Parameterization
from flowleap.paths import LinearPath, Path
from flowleap.randomness import generator
from flowleap.tensors import Image, Label, Time, like

__all__ = ["EVERY_JUMP", "Conditioning", "ExactMap", "FlowMap", "dtype_of", "times_for"]

Conditioning = Literal["t,r", "t-r", "t", "t,end"]
"""The times that a network is conditioned on, see `FlowMap`."""
EVERY_JUMP = ("t,r", "t-r")
"""The conditionings that tell one jump from t from another."""

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
        conditioning: the times that the network is conditioned on, F_θ(x, t, ·). "t,r": both times of the jump.
            "t-r": the length of the jump alone, given as (t − r, 0), as x itself tells how noisy it is. "t": t alone
            (given twice), so that X_{t→r}(x) = a·x + b·F(x, t, t) for every r (consistency models, progressive
            distillation). "t,end": t and the end t_min of the path where r < t, but (t, t) where r = t: one output
            predicts the data of a point, the other its velocity (live reflow).
        start: the time at which sampling begins, None for t_max of the path (`Sampling.start`).
        guidance_input: whether the network is told by which scale of guidance, and in which interval of times, the flow
            is guided, see `guidance.GuidanceInput`; labels may then carry both (`tensors.guided_label`).

    Shapes: x (batch, *dims); t, r (batch,) or plain numbers; label None, (batch,), or (batch, 4) with guidance.
    Raises: ValueError where the parameterization is singular on the path, for an unknown `conditioning`, for a start
        that is no time of the path, or a network that does not take guidance as an input where it is told.
    """

    network: Network = field(repr=False)
    parameterization: Parameterization = AverageVelocity()
    path: Path = LinearPath()
    conditioning: Conditioning = "t,r"
    start: float | None = None
    guidance_input: bool = False

    def __post_init__(self) -> None:
        if self.guidance_input and not getattr(self.network, "guidance_input", False):
            raise ValueError(
                f"the method tells the network the scale of guidance, and {type(self.network).__name__} takes none: "
                "build DiT, UNet or MLP with guidance_input=True; a network of your own is given labels (batch, 4), "
                "see tensors.guided_label, and says so by the attribute guidance_input = True"
            )
        if self.start is not None and not self.path.t_min < self.start <= self.path.t_max:
            domain = f"({self.path.t_min:g}, {self.path.t_max:g}]"
            raise ValueError(
                f"start={self.start:g}: sampling begins at a time of {type(self.path).__name__} in {domain}"
            )
        if self.conditioning not in get_args(Conditioning):
            raise ValueError(f'conditioning={self.conditioning!r}: expected "t,r", "t-r", "t" or "t,end"')
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
        told = getattr(oracle, "guidance_input", False)
        return cls(_PerfectNetwork(oracle, meaning), meaning, oracle.path, guidance_input=told)

    @property
    def num_classes(self) -> int | None:
        """The number of classes, which is also the index of the null label; None where there are no labels."""
        return getattr(self.network, "num_classes", None)

    def __call__(self, x: Image, t: Time | float, r: Time | float, label: Label = None) -> Image:
        """Return X_{t→r}(x), like x."""
        t, r = times_for(t, x), times_for(r, x)
        return self.step(self.output(x, t, r, label), x, t, r)

    def output(self, x: Image, t: Time, r: Time, label: Label = None) -> Image:
        """Return the raw network output F(x, t, r), like x; the network sees `network_times(t, r)`.

        A module whose weights have another type than x, such as bfloat16, is given x in theirs and answers in that of
        x. Times stay as they are, in float32 or wider: differences of times are lost in half precision.
        """
        return self._asked(self.network, x, t, r, label)[0]

    def with_velocity(self, x: Image, t: Time, r: Time, label: Label = None) -> tuple[Image, Image]:
        """Return F(x, t, r) and what the velocity head of the network says of v(x, t), both like x, in one evaluation.

        Raises: ValueError for a network without such a head.
        """
        asked: Any = getattr(self.network, "with_velocity", None)
        if asked is None:
            raise ValueError(
                f"{type(self.network).__name__} has no velocity head: build DiT or MLP with velocity_head=1 or more, "
                "the number of the last blocks that the head has copies of; or leave out VelocityHead and Head"
            )
        output, velocity = self._asked(asked, x, t, r, label)
        return output, velocity

    def _asked(
        self, network: Callable[..., Any], x: Image, t: Time, r: Time, label: Label
    ) -> tuple[Image, ...]:
        """Return what a network answers, one or several tensors like x, in the type of x."""
        scale = self.parameterization.input_scale(self.path, t)
        x_in = x if scale is None else like(scale, x) * x
        kind, times = dtype_of(self.network), self.network_times(t, r)
        other = kind is not None and kind != x_in.dtype
        found = network(x_in.to(kind) if other else x_in, *times, label)
        answers = found if isinstance(found, tuple) else (found,)
        return tuple(answer.to(x.dtype) for answer in answers) if other else answers

    def network_times(self, t: Time, r: Time) -> tuple[Time, Time]:
        """Return the two times that the network is given for a jump from t to r, each (batch,)."""
        if self.conditioning == "t,r":
            return t, r
        if self.conditioning == "t-r":
            return t - r, torch.zeros_like(t)
        if self.conditioning == "t":
            return t, t
        return t, torch.where(r < t, torch.full_like(t, self.path.t_min), t)

    def velocity(
        self, x: Image, t: Time | float, r: Time | float | None = None, label: Label = None
    ) -> Image:
        """Return u = (X_{t→r}(x) − x)/(r − t), with its limit, the instantaneous velocity, where r = t.

        `r=None` means r = t.
        """
        t = times_for(t, x)
        r = t if r is None else times_for(r, x)
        return self.velocity_of(self.output(x, t, r, label), x, t, r)

    def velocity_of(self, output: Image, x: Image, t: Time, r: Time) -> Image:
        """Return the velocity u that an output F given at (x, t, r) stands for, see `velocity`."""
        a, b = self.parameterization.coefficients(self.path, t, r)
        a_rate, b_rate = self.parameterization.landing_rates(self.path, t)
        diagonal = (t - r).abs() <= 1e-7 * self.path.t_max
        span = torch.where(diagonal, torch.ones_like(t), r - t)
        on_x = torch.where(diagonal, a_rate, (a - 1) / span)
        on_output = torch.where(diagonal, b_rate, b / span)
        return like(on_x, x) * x + like(on_output, x) * output

    def denoised(self, x: Image, t: Time | float, label: Label = None) -> Image:
        """Return what the instantaneous velocity at (x, t) says of the data: E[x_0 | x_t = x], like x."""
        t = times_for(t, x)
        return self.path.mean_from_velocity(x, t, self.velocity(x, t, label=label))

    def prior(self, noise: Image) -> Image:
        """Scale standard normal noise to what sampling begins with."""
        return self.path.prior(noise, self.start)

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
        return None if head is None else head(*self.network_times(t, r))

    def with_network(self, network: Network) -> FlowMap:
        """Return the same map with another network (a target copy, EMA weights)."""
        return replace(self, network=network)

    def as_velocity(self) -> FlowMap:
        """Return the same map as that of a network whose output is the average velocity u, whatever F means here."""
        return FlowMap(_Velocity(self), AverageVelocity(), self.path, "t,r", self.start, self.guidance_input)

    def held(self) -> FlowMap:
        """Return the same map with its weights held as they are: a graph runs through its input only."""
        return replace(self, network=_Held(self.network)) if isinstance(self.network, nn.Module) else self

    def disturbed(self) -> FlowMap:
        """Return the same map with weights a little disturbed, the same every time: at the start many networks answer
        zero, and a check of their derivatives would see nothing."""
        if not isinstance(self.network, nn.Module):
            return self
        random = generator(0, "self-check")
        weights = {
            name: weight.detach() + 0.02 * torch.randn(weight.shape, generator=random).to(weight)
            for name, weight in self.network.named_parameters()
        }
        return replace(self, network=_Held(self.network, weights))


def dtype_of(network: Network) -> torch.dtype | None:
    """Return the floating type of the weights of a network, that of the first one; None where it is not known."""
    if isinstance(network, nn.Module):
        return next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), None)
    return getattr(network, "dtype", None)


def times_for(t: Time | float, x: Image) -> Time:
    """Return one time for each row of x, (batch,), from as many or from one number.

    Raises: ValueError for another number of times than rows.
    """
    if isinstance(t, Tensor) and t.ndim == 1:
        if t.shape[0] != x.shape[0]:
            raise ValueError(f"times have {len(t)} rows, images {len(x)}: one time per row is expected")
        return t
    return torch.full((x.shape[0],), float(t), dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class _Velocity:
    """The average velocity of a map as a network."""

    flow: FlowMap = field(repr=False)

    @property
    def num_classes(self) -> int | None:
        return self.flow.num_classes

    @property
    def guidance_input(self) -> bool:
        return self.flow.guidance_input

    @property
    def log_variance(self) -> Callable[[Time, Time], Tensor | None] | None:
        found = getattr(self.flow.network, "log_variance", None)
        return None if found is None else self.flow.log_variance

    @property
    def with_velocity(self) -> Callable[[Image, Time, Time, Label], tuple[Image, Image]] | None:
        found = getattr(self.flow.network, "with_velocity", None)
        return None if found is None else self._with_velocity

    def _with_velocity(self, x: Image, t: Time, r: Time, label: Label) -> tuple[Image, Image]:
        output, velocity = self.flow.with_velocity(x, t, r, label)
        return self.flow.velocity_of(output, x, t, r), velocity

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        return self.flow.velocity(x, t, r, label)


@dataclass(frozen=True)
class _Held:
    """A network that computes with its weights, or others, but asks for no gradient of them."""

    network: nn.Module = field(repr=False)
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)

    @property
    def num_classes(self) -> int | None:
        classes: int | None = getattr(self.network, "num_classes", None)
        return classes

    @property
    def guidance_input(self) -> bool:
        return getattr(self.network, "guidance_input", False)

    @property
    def dtype(self) -> torch.dtype | None:
        return dtype_of(self.network)

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        weights = self.weights
        if weights is None:
            weights = {name: weight.detach() for name, weight in self.network.named_parameters()}
        output: Image = functional_call(self.network, dict(weights), (x, t, r, label))
        return output


@dataclass(frozen=True)
class _PerfectNetwork:
    """F of an exact map: (X − a·x)/b off the diagonal, the velocity's F on it."""

    oracle: ExactMap
    parameterization: Parameterization

    @property
    def num_classes(self) -> int | None:
        return getattr(self.oracle, "num_classes", None)

    @property
    def guidance_input(self) -> bool:
        return getattr(self.oracle, "guidance_input", False)

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        path, meaning = self.oracle.path, self.parameterization
        scale = meaning.input_scale(path, t)
        x = x if scale is None else x / like(scale, x)
        diagonal = like((t - r).abs() < 1e-12, x)
        a, b = (like(c, x) for c in meaning.coefficients(path, t, r))
        a_rate, b_rate = (like(c, x) for c in meaning.landing_rates(path, t))
        jump = (self.oracle(x, t, r, label) - a * x) / torch.where(diagonal, torch.ones_like(b), b)
        return torch.where(diagonal, (self.oracle.velocity(x, t, label) - a_rate * x) / b_rate, jump)
