"""Derivatives along the flow: dF/dt of a field F(x, t) along a tangent dx/dt, three ways behind one interface.

    dF/dt = ∂_t F + (∇_x F) · dx/dt

| strategy          | how                                                   | order in ε | runs under fused attention |
|-------------------|-------------------------------------------------------|------------|----------------------------|
| ExactJVP          | forward-mode AD; value and derivative from one pass   | exact      | no                         |
| TwoPass           | the same AD without a graph; the prediction made anew | exact      | no                         |
| CentralDifference | one evaluation of twice the rows, at t ± ε            | 2          | yes                        |

Attention backend, autocast and random state under differentiation are this file's business and nobody else's:
fused attention has no forward-mode derivative, so the math backend is forced here (torch 2.8 – 2.13).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowleap.citations import Cited
from flowleap.tensors import Image, Time, like

__all__ = ["CentralDifference", "Derivative", "ExactJVP", "TwoPass", "time_rate"]

Field = Callable[[Image, Time], Image]


class Derivative(Cited, ABC):
    """A strategy for dF/dt."""

    single_pass: ClassVar[bool] = False
    """Whether the value comes with its reverse-mode graph, so that it can serve as the prediction."""
    forward_mode: ClassVar[bool] = False
    """Whether it is exact, by forward-mode differentiation, which not every operation of a network has."""

    @property
    def follows_pair(self) -> bool:
        """Whether F is differentiated along the curve of the row's own pair, whatever the tangent is."""
        return False

    @abstractmethod
    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time, float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
    ) -> tuple[Image | None, Image]:
        """Return (F(x, t) or None, c dF/dt), the derivative without a graph, the value with one where `single_pass`.

        Args:
            field: F(x, t), differentiable; landing time and label are fixed inside it. It takes the rows of `x`, or
                several copies of them one after another, see `tensors.repeated`.
            x, t, tangent: the point, its time and dx/dt; (batch, *dims), (batch,), (batch, *dims).
            domain: the times [r, t_max] outside which F is not evaluated; r (batch,) is the landing time.
            curve: t ↦ x_t of the same (x, ε) pair; read by `CentralDifference(along="path")` alone.
            scale: c, (batch,), which multiplies the tangents c·(dx/dt, 1) and not the derivative: where dF/dt is large
                and c small, nothing large is ever computed. None for 1.
        """


@cache
def _load_rules() -> None:
    """Let torch import its forward-mode rules, once, without the deprecation warning of its own that this raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.neg, (torch.ones(1),), (torch.ones(1),))


def _jvp(field: Field, x: Image, t: Time, tangent: Image, scale: Time | None) -> tuple[Image, Image]:
    _load_rules()
    tangent, pace = tangent.to(x.dtype), torch.ones_like(t)
    if scale is not None:
        pace = scale.to(t.dtype)
        tangent = like(pace, x).to(x.dtype) * tangent
    with sdpa_kernel(SDPBackend.MATH):
        value, rate = torch.func.jvp(field, (x, t), (tangent, pace))[:2]
    return value, rate.detach().to(x.dtype)


@dataclass(frozen=True)
class ExactJVP(Derivative):
    """Forward-mode AD in the pass that also makes the prediction: one evaluation less, a larger graph.

    Source: Geng et al. 2025 (arXiv 2505.13447) algorithm 1.
    """

    single_pass: ClassVar[bool] = True
    forward_mode: ClassVar[bool] = True

    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time, float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
    ) -> tuple[Image | None, Image]:
        return _jvp(field, x, t, tangent, scale)


@dataclass(frozen=True)
class TwoPass(Derivative):
    """Forward-mode AD under `no_grad`: no reverse graph is kept under the JVP; the prediction is a pass of its own.

    The value that comes with the derivative has no graph.
    """

    forward_mode: ClassVar[bool] = True

    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time, float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
    ) -> tuple[Image | None, Image]:
        with torch.no_grad():
            return _jvp(field, x, t, tangent, scale)


@dataclass(frozen=True)
class CentralDifference(Derivative):
    """[F(x₊, t + ε) − F(x₋, t − ε)] / 2ε, of second order; one-sided, of first order, within ε of the ends
    of [r, t_max].

    Args:
        eps: ε in units of t. 5e-3 balances truncation against fp32 rounding; use 1e-5 in float64.
        along: "tangent" takes x± = x ± ε·tangent, which carries any velocity (guided, plug-in, own);
            "path" re-noises the same (x, ε) pair at t ± ε, right for the unguided conditional velocity only.

    Both points are evaluated in one call of twice the rows; where F draws random numbers, in two calls that draw the
    same, so that dropout masks agree. Rows must not depend on one another. The difference is taken in float64. A scale
    multiplies the quotient, which is bounded by 1/ε, and leaves the two points where they are.
    Raises: ValueError for a non-positive ε or an unknown `along`.
    Source: Wang et al. 2025 (arXiv 2509.04394), differential derivation equation; its code has ε = 0.005, "path".
    """

    eps: float = 5e-3
    along: str = "tangent"
    cites: ClassVar[tuple[str, ...]] = ("wang2025transition",)

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"CentralDifference(eps={self.eps}): the step must be positive")
        if self.along not in ("tangent", "path"):
            raise ValueError(f'CentralDifference(along={self.along!r}): expected "tangent" or "path"')

    @property
    def follows_pair(self) -> bool:
        return self.along == "path"

    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time, float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
    ) -> tuple[Image | None, Image]:
        low, high = domain
        forward = (high - t).clamp(0.0, self.eps)
        backward = (t - low).clamp(0.0, self.eps)  # no landing after the departure

        def shifted(h: Time) -> Image:
            return curve(t + h) if self.along == "path" else x + like(h, x) * tangent

        with torch.no_grad():
            times = torch.cat([t + forward, t - backward])
            after, before = _alike(field, torch.cat([shifted(forward), shifted(-backward)]), times)
            span = like(times[: len(t)].double() - times[len(t) :].double(), x)
            span = torch.where(span > 0, span, 1.0)  # t = r = t_max: no room, and no difference
            rate = (after.double() - before.double()) / span
            return None, (rate if scale is None else like(scale.double(), x) * rate).to(x.dtype)


def _alike(field: Field, x: Image, t: Time) -> tuple[Image, Image]:
    """Return F on two copies of the rows, with the same random numbers for both: in one call where F draws none."""
    compiling = (
        torch.compiler.is_compiling()
    )  # the compiled loss of a network that draws differs, and is not used
    start = None if compiling else _random_state(x.device)
    first, second = field(x, t).chunk(2)
    if start is None or all(map(torch.equal, start, _random_state(x.device))):
        return first, second
    x_1, x_2, t_1, t_2 = *x.chunk(2), *t.chunk(2)
    _set_random_state(x.device, start)
    first = field(x_1, t_1)
    end = _random_state(x.device)
    _set_random_state(x.device, start)
    second = field(x_2, t_2)
    _set_random_state(x.device, end)
    return first, second


def _random_state(device: torch.device) -> list[Tensor]:
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def time_rate(schedule: Callable[[Time], tuple[Tensor, ...]], t: Time) -> tuple[Tensor, ...]:
    """Return the exact time derivative of schedules such as (a, b)(t), each (batch,), as constants without a graph.

    Reverse mode: rows do not mix, so the gradient of a sum over rows is the derivative of each.
    """
    with torch.enable_grad():
        time = t.detach().requires_grad_()
        values = schedule(time)
        varying = [value.requires_grad for value in values]
        return tuple(
            torch.autograd.grad(value.sum(), time, retain_graph=True)[0] if varies else torch.zeros_like(t)
            for value, varies in zip(values, varying, strict=True)
        )
