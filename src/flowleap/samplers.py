"""Samplers: from noise to images in N steps over times t_0 > t_1 > … > t_N.

| sampler | one step t → r                                                       | network evaluations (NFE) |
|---------|----------------------------------------------------------------------|---------------------------|
| chain   | x ← X_{t→r}(x)                                                       | N                         |
| gamma   | x ← X_{t→r'}(x), then noise up to r; γ = 1 re-noises, γ = 0 is chain | N                         |
| ddim    | x ← a(t, r) x + b(t, r) F(x, t, t)                                   | N                         |
| euler   | x ← x + (r − t) u(x, t, t), straight paths only                      | N                         |
| heun    | trapezoid of u at both ends, plain Euler in the last step            | 2N − 1                    |
| solver  | x ← X_{t→r}(x), two evaluations; ddim of u in the last if one is left | N evaluations, ⌈N/2⌉ steps |

Guidance at sampling (`guide(flow, w)`) doubles every count, unless the network takes it as an input. `noise` is always
standard normal; the path scales it.

What papers call them: chain is the pushforward sampler of IMM; gamma with γ = 1 is the multi-step sampling of
consistency models (CT, iCT, ECT, sCT, TCM) and the restart sampler of IMM, at any `times`; 0 < γ < 1 is that of CTM.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from flowleap.citations import Cited
from flowleap.flow_map import FlowMap
from flowleap.guidance import guide
from flowleap.parameterization import AverageVelocity
from flowleap.paths import Path
from flowleap.randomness import generator, key_of
from flowleap.tensors import Image, Label, Time, like
from flowleap.times import spaced

__all__ = ["Sampling", "chain", "ddim", "euler", "gamma", "grid", "heun", "is_grid", "noise", "solver"]


def chain(
    flow: FlowMap,
    noise: Image,
    steps: int = 1,
    times: Sequence[float] | None = None,
    label: Label = None,
) -> Image:
    """Return X_{t_{N−1}→t_N} ∘ … ∘ X_{t_0→t_1}, the chain of learned maps. NFE N."""
    x = flow.prior(noise)
    for t, r in pairwise(grid(flow.path, steps, times, flow.start)):
        x = flow(x, t, r, label)
    return x


def gamma(
    flow: FlowMap,
    noise: Image,
    steps: int = 1,
    times: Sequence[float] | None = None,
    label: Label = None,
    strength: float = 1.0,
    seed: int = 0,
) -> Image:
    """Jump past r to r', σ/α(r') = √(1 − γ²) σ/α(r), and add fresh noise κ τ ε; γ = 1 is consistency re-noising. NFE N.

    Scaled to time r, what comes from r' carries noise of level α(r) σ(r')/α(r'), so τ² = σ(r)² − (α(r) σ(r')/α(r'))².
    That is (γ σ(r))² unless r' would lie before t_min and is t_min: √(σ(r)² − σ(t_min)²) for γ = 1 on `VEPath`.

    The fresh noise ε of a row depends on the seed and on the row's own initial noise, not on who shares its batch.

    Source: Kim et al. 2023 (arXiv 2310.02279), γ-sampling, written for any path.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength}: γ in [0, 1] is expected")
    path, x = flow.path, flow.prior(noise)
    random = generators(noise, seed)
    for t, r in pairwise(grid(path, steps, times, flow.start)):
        if r <= path.t_min:
            return flow(x, t, path.t_min, label)
        below, scale, spread = renoising(path, r, strength)
        x = flow(x, t, below, label) * scale
        x = x + fresh(random, x) * spread
    return x


def renoising(path: Path, r: float, strength: float) -> tuple[float, float, float]:
    """Return where `gamma` jumps in place of r: r', the factor α(r)/α(r'), and the deviation κ τ of the fresh noise."""
    landing, kept = torch.tensor(r, dtype=torch.float64), math.sqrt(1 - strength**2)
    ratio = path.sigma(landing) / path.alpha(landing)
    below = path.time_at(ratio * kept)
    # as a share of the noise level at r
    carried = max(kept, float(path.sigma(below) / path.alpha(below) / ratio))
    spread = path.noise_scale * float(path.sigma(landing)) * math.sqrt(max(0.0, 1 - carried**2))
    return float(below), float(path.alpha(landing) / path.alpha(below)), spread


def generators(noise: Image, seed: int = 0) -> list[torch.Generator]:
    """Return the generators of fresh noise, one for each row, which depend on the seed and the row's initial noise."""
    return [_generator_of(row, seed) for row in noise]


def fresh(random: Sequence[torch.Generator], x: Image) -> Image:
    """Return standard normal noise like x, each row by its own generator."""
    return torch.stack([torch.randn(x.shape[1:], generator=own) for own in random]).to(x)


def ddim(
    flow: FlowMap,
    noise: Image,
    steps: int = 1,
    times: Sequence[float] | None = None,
    label: Label = None,
) -> Image:
    """Step with the instantaneous output: x ← a(t, r) x + b(t, r) F(x, t, t). NFE N.

    Raises: ValueError where that would be an Euler step along a curved path.
    Source: Song et al. 2020 (arXiv 2010.02502) eq. 12 with η = 0.
    """
    refusal = flow.parameterization.euler_refusal(flow.path)
    if refusal is not None:
        raise ValueError(f"{refusal}, or samplers.heun")
    x = flow.prior(noise)
    for t, r in pairwise(grid(flow.path, steps, times, flow.start)):
        x = ddim_step(flow, x, x.new_full((len(x),), t), x.new_full((len(x),), r), label)
    return x


def ddim_step(flow: FlowMap, x: Image, t: Time, r: Time, label: Label = None) -> Image:
    """Return a(t, r) x + b(t, r) F(x, t, t), a step of `ddim`. Shapes: t, r (batch,)."""
    return flow.step(flow.output(x, t, t, label), x, t, r)


def euler(
    flow: FlowMap,
    noise: Image,
    steps: int = 1,
    times: Sequence[float] | None = None,
    label: Label = None,
) -> Image:
    """Integrate dx/dt = u(x, t, t) by Euler's method. NFE N.

    Raises: ValueError on curved paths, where Euler leaves the path even for the exact velocity.
    """
    refusal = AverageVelocity().euler_refusal(flow.path)
    if refusal is not None:
        raise ValueError(f"{refusal}: use samplers.ddim or samplers.heun")
    x = flow.prior(noise)
    for t, r in pairwise(grid(flow.path, steps, times, flow.start)):
        x = x + (r - t) * flow.velocity(x, t, label=label)
    return x


def heun(
    flow: FlowMap,
    noise: Image,
    steps: int = 1,
    times: Sequence[float] | None = None,
    label: Label = None,
) -> Image:
    """Integrate dx/dt = u(x, t, t) by Heun's method, the last step by Euler's. NFE 2N − 1.

    Source: Karras et al. 2022 (arXiv 2206.00364) algorithm 1.
    """
    x, stops = flow.prior(noise), grid(flow.path, steps, times, flow.start)
    for t, r in pairwise(stops):
        slope = flow.velocity(x, t, label=label)
        ahead = x + (r - t) * slope
        last = r == stops[-1]
        x = ahead if last else x + (r - t) * (slope + flow.velocity(ahead, r, label=label)) / 2
    return x


def solver(
    flow: FlowMap,
    noise: Image,
    steps: int = 1,
    times: Sequence[float] | None = None,
    label: Label = None,
) -> Image:
    """Return the chain of maps that take two evaluations each, such as those of `networks.MeanDirection`. NFE `steps`.

    A map goes over two of `steps` uniform steps; where these are odd the last is a DDIM step with the instantaneous
    velocity.
    Over given times every interval is a map, and their number does not count.
    """
    x, single = flow.prior(noise), times is None and steps % 2 == 1
    stops = grid(flow.path, steps, times, flow.start)
    stops = [*stops[:-1:2], stops[-1]] if times is None else stops
    for t, r in pairwise(stops[:-1] if single else stops):
        x = flow(x, t, r, label)
    if single:
        start, end = (x.new_full((len(x),), time) for time in stops[-2:])
        a, b = flow.path.transfer(start, end)
        x = like(a, x) * x + like(b, x) * flow.velocity(x, start, label=label)
    return x


def grid(
    path: Path, steps: int = 1, times: Sequence[float] | None = None, start: float | None = None
) -> list[float]:
    """Return the times of N steps from t_max to t_min: `times` checked, or uniform (Karras' ρ = 7 for noise levels).

    `start` is the first time where that is not t_max. The first and the last of `times` may be rounded to five digits,
    and the last may be 0; the start and t_min take their place.

    Raises: ValueError for fewer than one step, or times that do not fall or leave the path's domain.
    """
    high, low = path.t_max if start is None else start, path.t_min
    if times is not None:
        given = [float(t) for t in times]
        stops = [high, *given[1:-1], low]
        falls = len(given) > 1 and all(t > r for t, r in pairwise(stops))
        to_data = falls and (0 <= given[-1] <= low or _rounded(given[-1], low))
        if to_data and _rounded(given[0], high):
            return stops
        lower = "" if high == path.t_max else f"; this method samples from {high:g}, not from {path.t_max:g}"
        raise ValueError(
            f"times {', '.join(f'{t:g}' for t in given)}: falling times from {high:g} (noise) to {low:g} (data) "
            f"are expected, such as {high:g},{(high + low) / 2:g},{low:g}{lower}"
        )
    if steps < 1:
        raise ValueError(f"steps={steps}: at least one step is expected")
    return spaced(high, low, steps, rho=1 if path.t_max <= 1 else 7)


def is_grid(path: Path, times: Sequence[float], start: float | None = None) -> bool:
    """Return whether given times are those that `grid` gives for as many steps, to five digits; 0 counts as t_min."""
    equal = grid(path, len(times) - 1, start=start) if len(times) > 1 else []
    return len(equal) > 0 and all(_rounded(max(t, path.t_min), e) for t, e in zip(times, equal, strict=True))


def _rounded(given: float, exact: float) -> bool:
    """Return whether a number is another one, as far as printed digits tell."""
    return math.isclose(given, exact, rel_tol=1e-5)


def noise(seed: int, indices: Sequence[int] | Tensor, shape: Sequence[int]) -> Tensor:
    """Return standard normal noise (len(indices), *shape), float32; row i depends on (seed, index i) only, bitwise."""
    own, made = torch.Generator(), torch.empty(len(indices), *shape)
    for row, i in zip(made.unbind(), indices, strict=True):
        torch.randn(row.shape, generator=own.manual_seed(key_of(seed, "sample", int(i))), out=row)
    return made


def _generator_of(row: Tensor, seed: int) -> torch.Generator:
    """Return a generator that depends on a seed and on the numbers of one row, in single precision."""
    content = row.detach().float().cpu().numpy().tobytes()
    key = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return generator(key, "gamma-sampler", seed)


@dataclass(frozen=True)
class Sampling(Cited):
    """How a method is meant to be sampled, and which budgets it was trained for.

    Args:
        trained: the numbers of steps its maps were trained for; None for any.
        finest: from this many steps on, step with the instantaneous output (ddim) rather than with maps; None: never.
        least: fewer steps than this are outside what the method is trained for.
        start: the time at which sampling begins, with noise of that time; None for t_max. Maps carry it,
            see `FlowMap.start`.
        renoise: γ of the γ-sampler where maps are stepped with: 0 chains them, 1 goes to the data in each step and adds
            fresh noise (consistency models), what lies between does both in part.
        evaluations: network evaluations of one map: 1, or 2 for those of a learned solver, which N steps then are half
            as many of (`solver`).

    Raises: ValueError for a γ outside [0, 1], other numbers of evaluations, or numbers of steps below 1.
    """

    trained: tuple[int, ...] | None = None
    finest: int | None = None
    least: int = 1
    start: float | None = None
    renoise: float = 0.0
    evaluations: int = 1

    def __post_init__(self) -> None:
        if self.evaluations not in (1, 2) or (self.renoise and self.evaluations == 2):
            raise ValueError(
                f"Sampling(evaluations={self.evaluations}, renoise={self.renoise}): a map takes 1 evaluation, or 2 "
                "where a solver follows one trajectory, without fresh noise (renoise=0)"
            )
        if not 0 <= self.renoise <= 1:
            raise ValueError(
                f"Sampling(renoise={self.renoise}): γ in [0, 1] is expected, 0 for a chain of maps, 1 for fresh noise"
            )
        counts = (self.least, *(() if self.finest is None else (self.finest,)), *(self.trained or ()))
        if min(counts) < 1 or self.trained == ():
            raise ValueError(
                f"Sampling(trained={self.trained}, finest={self.finest}, least={self.least}): numbers of steps from 1 "
                "up are expected"
            )

    @property
    def asks_velocity(self) -> tuple[str, str] | None:
        """What steps with the velocity of the network, r = t, and what to use instead; None: no budget does."""
        return None if self.finest is None else (f"Sampling(finest={self.finest})", "sampling=Sampling()")

    def instantaneous(self, steps: int) -> bool:
        """Return whether this budget steps with the instantaneous output."""
        return self.finest is not None and steps >= self.finest

    def renoised(self, steps: int) -> float:
        """Return γ where this budget adds fresh noise between steps, else 0."""
        return self.renoise if steps > 1 and not self.instantaneous(steps) else 0.0

    def name(self, steps: int) -> str:
        """Return what reports call the sampler of a budget: "ddim", "chain", "solver", or "gamma 1" with its γ."""
        if self.instantaneous(steps):
            return "ddim"
        if self.evaluations == 2:
            return "solver"
        return f"gamma {self.renoise:g}" if self.renoised(steps) else "chain"

    def step(self, steps: int) -> Callable[[FlowMap, Image, Time, Time, Label], Image]:
        """Return one step of the sampler of a budget, (flow, x, t, r, label) → x at r, without fresh noise.

        Shapes: t, r (batch,). A step of the learned solver goes over two of the `steps`.
        """
        return ddim_step if self.instantaneous(steps) else lambda flow, *jump: flow(*jump)

    def in_words(self) -> str:
        """Return what steps between noise and data are, such as "chain of maps; DDIM from 128 steps on"."""
        if self.finest == 1:
            return "DDIM"
        if self.evaluations == 2:
            return "chain of maps, two evaluations each"
        maps = "chain of maps"
        if self.renoise:
            maps = f"maps with fresh noise between steps (γ = {self.renoise:g})"
        return maps if self.finest is None else f"{maps}; DDIM from {self.finest} steps on"

    def advice(self, steps: int, uniform: bool = True) -> str | None:
        """Return why this budget is outside the method's training, or None."""
        if 1 <= steps < self.least:
            return (
                f"it is trained for the instantaneous velocity, which needs many steps ({self.least} or more)"
            )
        if self.trained is not None and not (uniform and steps in self.trained):
            plural = "" if self.trained == (1,) else "s"
            return f"it is trained for {', '.join(map(str, self.trained))} uniform step{plural}"
        return None

    def sample(
        self,
        flow: FlowMap,
        noise: Image,
        steps: int = 1,
        times: Sequence[float] | None = None,
        label: Label = None,
        guidance: float | None = None,
        interval: tuple[float, float] | None = None,
    ) -> Image:
        """Return images from standard normal noise, by the sampler that belongs to the budget."""
        flow = guide(flow, guidance, interval)
        if self.evaluations == 2:
            return solver(flow, noise, steps, times, label)
        steps = steps if times is None else len(times) - 1
        if self.instantaneous(steps):
            return ddim(flow, noise, steps, times, label)
        if self.renoised(steps):
            return gamma(flow, noise, steps, times, label, strength=self.renoise)
        return chain(flow, noise, steps, times, label)

    def with_base(self, base_steps: int) -> Sampling:
        """Return the sampling of a method on a dyadic grid of `base_steps` steps."""
        budgets = tuple(2**b for b in range(base_steps.bit_length()))
        return replace(self, trained=budgets, finest=base_steps)
