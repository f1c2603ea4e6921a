"""Derivatives along the flow: dF/dt of a field F(x, t) along a tangent dx/dt, by strategies behind one interface.

    dF/dt = ∂_t F + (∇_x F) · dx/dt

| strategy          | how                                                   | order in ε | runs under fused attention |
|-------------------|-------------------------------------------------------|------------|----------------------------|
| ExactJVP          | forward-mode AD; value and derivative from one pass   | exact      | no                         |
| TwoPass           | the same without a graph; the prediction made anew    | exact      | no                         |
| CentralDifference | one evaluation of twice the rows, at t ± ε            | 2          | yes                        |
| Auto              | a difference in float32, otherwise forward-mode AD    |            |                            |

`TwoPass` can take the closed forms of `dual` in place of torch's rules; a run does where they agree on its network.
Attention backend, autocast and random state under differentiation are this file's business and nobody else's:
fused attention has no forward-mode derivative, so the math backend is forced here (torch 2.8 – 2.13).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowleap import dual
from flowleap.citations import Cited
from flowleap.tensors import Image, Time, like

__all__ = ["Auto", "CentralDifference", "Derivative", "ExactJVP", "TwoPass", "time_rate"]

Field = Callable[[Image, Time], Image]
Taken = TypeVar("Taken")
Attempt = Callable[["Derivative"], Image]


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

    @property
    @abstractmethod
    def in_words(self) -> str:
        """What it is, in a few words."""

    def settled(
        self, attempt: Attempt, kind: torch.dtype, device: torch.device, t_max: float
    ) -> tuple[Derivative, str]:
        """Return the strategy that a run takes, and which one that is and why, in words.

        Args:
            attempt: returns a derivative of the network of the run by a strategy, of the same numbers every time.
            kind, device, t_max: the type and place of its weights, under autocast as in the run, and the last time.

        Raises: ValueError where torch cannot take this derivative of this network.
        """
        found, failure = _tried(attempt, self)
        if failure is not None:
            raise ValueError(
                f"{type(self).__name__}: torch cannot differentiate this network forward in {_named(kind, device)} "
                f"({failure}): use --set target.derivative=auto, which takes a difference there, or another precision"
            ) from None
        return (
            (self, self.in_words) if found is None else self.hastened(attempt, found, rounding(kind, device))
        )

    def hastened(self, attempt: Attempt, expected: Image, error: float) -> tuple[Derivative, str]:
        """Return the fastest way to this derivative that agrees with it on the network of a run, and which, in words.

        Args:
            attempt: see `settled`. expected: what it returns for this strategy. error: the relative rounding of F.
        """
        return self, self.in_words

    @abstractmethod
    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time | float, Time | float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
        kind: torch.dtype | None = None,
        graph: bool = False,
    ) -> tuple[Image | None, Image]:
        """Return (F(x, t) or None, c dF/dt), the derivative without a graph, the value with one where `single_pass`.

        With `graph` the derivative has one too, and so has the value where there is one.

        Args:
            field: F(x, t), differentiable; landing time and label are fixed inside it. It takes the rows of `x`, or
                several copies of them one after another, see `tensors.repeated`.
            x, t, tangent: the point, its time and dx/dt; (batch, *dims), (batch,), (batch, *dims).
            domain: the first and the last time at which F is evaluated, numbers or (batch,): [r, t_max] for a time of
                departure, r the landing time.
            curve: t ↦ x_t of the same (x, ε) pair; read by `CentralDifference(along="path")` alone.
            scale: c, (batch,), which multiplies the tangents c·(dx/dt, 1) and not the derivative: where dF/dt is large
                and c small, nothing large is ever computed. None for 1.
            kind: the type that F is computed in where it is not that of x: that of the weights; read by `Auto` alone.
            graph: whether the derivative is differentiated once more, in the backward pass of a loss.
        """


@cache
def _load_rules() -> None:
    """Let torch import its forward-mode rules, once, without the deprecation warning of its own that this raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.neg, (torch.ones(1),), (torch.ones(1),))


def _jvp(
    field: Field,
    x: Image,
    t: Time,
    tangent: Image,
    scale: Time | None,
    graph: bool,
    closed_forms: bool = False,
) -> tuple[Image, Image]:
    _load_rules()
    tangent, pace = tangent.to(x.dtype), torch.ones_like(t)
    if scale is not None:
        pace = scale.to(t.dtype)
        tangent = like(pace, x).to(x.dtype) * tangent
    with sdpa_kernel(SDPBackend.MATH):
        closed_forms = closed_forms and not graph and not torch.compiler.is_compiling()
        way = dual.jvp if closed_forms else torch.func.jvp
        value, rate = way(field, (x, t), (tangent, pace))[:2]
    return value, (rate if graph else rate.detach()).to(x.dtype)


@dataclass(frozen=True)
class ExactJVP(Derivative):
    """Forward-mode AD in the pass that also makes the prediction: one evaluation less, a larger graph.

    Source: Geng et al. 2025 (arXiv 2505.13447) algorithm 1.
    """

    single_pass: ClassVar[bool] = True
    forward_mode: ClassVar[bool] = True
    in_words: ClassVar[str] = "forward-mode differentiation in the pass of the prediction"

    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time | float, Time | float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
        kind: torch.dtype | None = None,
        graph: bool = False,
    ) -> tuple[Image | None, Image]:
        return _jvp(field, x, t, tangent, scale, graph)


@dataclass(frozen=True)
class TwoPass(Derivative):
    """Forward-mode AD under `no_grad`: no reverse graph is kept under the JVP; the prediction is a pass of its own.

    The value that comes with the derivative has no graph, unless the derivative is asked for with one.

    Args:
        closed_forms: whether layers take the closed forms of `dual` in place of `torch.func.jvp`, which a compiled loss
            always takes. They do not see through kernels that torch cannot look into: a run takes them where they agree
            with torch on its network.
    """

    closed_forms: bool = False
    forward_mode: ClassVar[bool] = True
    in_words: ClassVar[str] = "forward-mode differentiation"

    def hastened(self, attempt: Attempt, expected: Image, error: float) -> tuple[Derivative, str]:
        faster = replace(self, closed_forms=True)
        found, failure = _tried(attempt, faster)
        if found is not None:
            apart = float(
                (found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
            )
            if apart <= error**0.5:
                return faster, f"{self.in_words} with closed forms of layers, {apart:.0e} from torch.func.jvp"
            failure = f"they are {apart:.0e} from torch.func.jvp"
        return self, f"{self.in_words} (warning: no closed forms of layers are taken: {failure})"

    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time | float, Time | float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
        kind: torch.dtype | None = None,
        graph: bool = False,
    ) -> tuple[Image | None, Image]:
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            return _jvp(field, x, t, tangent, scale, graph, self.closed_forms)


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

    @property
    def in_words(self) -> str:
        return f"central difference with ε = {self.eps:g}"

    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time | float, Time | float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
        kind: torch.dtype | None = None,
        graph: bool = False,
    ) -> tuple[Image | None, Image]:
        low, high = domain
        forward = (high - t).clamp(0.0, self.eps)
        backward = (t - low).clamp(0.0, self.eps)  # no landing after the departure

        def shifted(h: Time) -> Image:
            return curve(t + h) if self.along == "path" else x + like(h, x) * tangent

        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            times = torch.cat([t + forward, t - backward])
            after, before = _alike(field, torch.cat([shifted(forward), shifted(-backward)]), times)
            span = like(times[: len(t)].double() - times[len(t) :].double(), x)
            span = torch.where(span > 0, span, 1.0)  # t = r = t_max: no room, and no difference
            rate = (after.double() - before.double()) / span
            return None, (rate if scale is None else like(scale.double(), x) * rate).to(x.dtype)


@dataclass(frozen=True)
class Auto(Derivative):
    """`CentralDifference` in float32, `TwoPass` where rounding or truncation makes a difference the worse of the two.

    | F is computed in                                      | strategy          |
    |-------------------------------------------------------|-------------------|
    | float32, with ε of 10,000 roundings of t_max or more  | CentralDifference |
    | bfloat16, float16, TF32, or under their autocast      | TwoPass           |
    | float64                                               | TwoPass           |

    Where torch cannot differentiate F forward, the difference is taken in every precision, with an ε that fits it.
    """

    @property
    def in_words(self) -> str:
        return "chosen by the precision"

    def __call__(
        self,
        field: Field,
        x: Image,
        t: Time,
        tangent: Image,
        *,
        domain: tuple[Time | float, Time | float],
        curve: Callable[[Time], Image],
        scale: Time | None = None,
        kind: torch.dtype | None = None,
        graph: bool = False,
    ) -> tuple[Image | None, Image]:
        def take(strategy: Derivative) -> tuple[Image | None, Image]:
            return strategy(field, x, t, tangent, domain=domain, curve=curve, scale=scale, graph=graph)

        kind = kind or x.dtype
        last = domain[1] if isinstance(domain[1], float) else float(domain[1].max())
        strategy = self._choice(kind, x.device, last)[0]
        found, failure = _tried(take, strategy)
        if failure is not None:
            strategy = _difference(kind, x.device)
            warnings.warn(_no_forward_mode(failure, strategy), UserWarning, stacklevel=2)
        return take(strategy) if found is None else found

    def settled(
        self, attempt: Attempt, kind: torch.dtype, device: torch.device, t_max: float
    ) -> tuple[Derivative, str]:
        strategy, reason = self._choice(kind, device, t_max)
        found, failure = _tried(attempt, strategy)
        if failure is not None:
            strategy = _difference(kind, device)
            return strategy, _no_forward_mode(failure, strategy)
        words = strategy.in_words
        if found is not None:
            strategy, words = strategy.hastened(attempt, found, rounding(kind, device))
        return strategy, f"{words}: {reason}"

    def _choice(self, kind: torch.dtype, device: torch.device, t_max: float) -> tuple[Derivative, str]:
        difference, error = CentralDifference(), rounding(kind, device)
        name = _named(kind, device)
        if error < FINE:
            return TwoPass(), f"{name} is finer than the error of a difference"
        if error * max(1.0, t_max) > COARSE * difference.eps:
            return TwoPass(), f"divided by a small ε, the rounding of {name} would exceed the derivative"
        return difference, f"exact enough in {name}, and cheaper than forward-mode differentiation"


FINE, COARSE = 1e-9, 1e-4
"""`Auto` takes no difference below this rounding, nor above this multiple of ε, both relative to the last time."""


def rounding(kind: torch.dtype, device: torch.device) -> float:
    """Return the relative rounding error of a network with weights of a type here: autocast and TF32 count."""
    return 2.0**-11 if _reduced(kind, device) else torch.finfo(_under_autocast(kind, device)).eps / 2


def _under_autocast(kind: torch.dtype, device: torch.device) -> torch.dtype:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else kind


def _reduced(kind: torch.dtype, device: torch.device) -> bool:
    """Whether products of float32 are computed in a shorter type, as in TF32."""
    convolutions = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    shorter = convolutions or torch.get_float32_matmul_precision() != "highest"
    return shorter and _under_autocast(kind, device) == torch.float32


def _named(kind: torch.dtype, device: torch.device) -> str:
    return "TF32" if _reduced(kind, device) else str(_under_autocast(kind, device)).removeprefix("torch.")


def _difference(kind: torch.dtype, device: torch.device) -> CentralDifference:
    """Return a difference whose ε balances truncation against the rounding of a type."""
    error = rounding(kind, device)
    return CentralDifference(1e-5 if error < FINE else 5e-2 if error > 1e-5 else 5e-3)


def _tried(attempt: Callable[[Derivative], Taken], strategy: Derivative) -> tuple[Taken | None, str | None]:
    """Return what a strategy of forward mode gives, or why torch cannot, the first line of its error; others wait."""
    if not strategy.forward_mode:
        return None, None
    try:
        return attempt(strategy), None
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError) as error:
        return None, str(error).strip().splitlines()[0]


def _no_forward_mode(failure: str, strategy: Derivative) -> str:
    return f"{strategy.in_words}: torch cannot differentiate this network forward ({failure})"


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
