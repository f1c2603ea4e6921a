"""Classifier-free guidance, in training or in sampling.

    in training   ṽ = ω v + κ u(x_t, t, t | y) + (1 − ω − κ) u(x_t, t, t | ∅)     effective scale ω/(1 − κ)
    in sampling   F = F(∅) + w (F(y) − F(∅))                                      two evaluations

Labels, windows and scales of both live here. `guidance=None` ⇔ ω = 1, κ = 0 ⇔ none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.flow_map import FlowMap, Network, dtype_of
from flowleap.interfaces import Composition, TrainedGuidance
from flowleap.networks import dropout
from flowleap.point import Point
from flowleap.tensors import Image, Label, Time

__all__ = ["FinestLevel", "Guidance", "guide", "guided_output"]


@dataclass(frozen=True)
class Guidance(TrainedGuidance):
    """Guidance folded into the velocity that drives the target, on rows that keep their label and lie in the window.

    ṽ = ω v + κ u(x_t, t, t | y) + (1 − ω − κ) u(x_t, t, t | ∅), no gradient; other rows keep ṽ = v.

    Args:
        omega, kappa: ω and κ; the fixed point is guided with scale ω/(1 − κ).
        window: the times [from, to] in which rows are guided, noise levels on `VEPath`; None for all times of any path.

    Raises: ValueError for κ ≥ 1 (no fixed point) or an empty window.
    Source: Geng et al. 2025 (arXiv 2505.13447) eq. 19, with κ appendix B.1; MeanFlow-B/2 has ω = 1, κ = 0.5.
    """

    omega: float = 1.0
    kappa: float = 0.0
    window: tuple[float, float] | None = None
    guides_velocity: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean", "ho2022classifier")

    def __post_init__(self) -> None:
        if self.kappa >= 1:
            raise ValueError(f"Guidance(kappa={self.kappa}): κ < 1 is expected, the scale is ω/(1 − κ)")
        if self.window is not None and not (len(self.window) == 2 and self.window[0] < self.window[1]):
            raise ValueError(
                f"Guidance(window={self.window}): two times (from, to) with from < to are expected"
            )

    @property
    def null(self) -> float:
        """The weight 1 − ω − κ of the velocity without a label, exactly 0 where ω + κ = 1 up to rounding."""
        weight = 1 - self.omega - self.kappa
        return weight if abs(weight) > 1e-12 else 0.0

    @property
    def asks_null(self) -> bool:
        return self.null != 0

    @property
    def drives(self) -> bool:
        return self.kappa != 0 or self.asks_null

    @property
    def asks_velocity(self) -> tuple[str, str] | None:
        return ("Guidance", "velocity=Teacher(guidance=…)") if self.drives else None

    @property
    def scale(self) -> float:
        """The effective guidance scale ω/(1 − κ)."""
        return self.omega / (1 - self.kappa)

    def refusal(self, o: Composition) -> str | None:
        target = type(o.target).__name__
        if o.target.driven or not self.drives:
            return None
        return (
            f"Guidance changes the velocity of the rows r = t, and {target} takes that of its teacher for the others: "
            f"use target={target}(Teacher(guidance=…)) with guidance=None"
        )

    def rows(self, point: Point) -> Tensor:
        """Return the indices of the rows to guide; the times and masks are those of the CPU."""
        if (self.omega, self.kappa) == (1.0, 0.0):
            return torch.empty(0, dtype=torch.int64)
        low, high = (-math.inf, math.inf) if self.window is None else self.window
        inside = (point.t >= low) & (point.t <= high)
        return _kept(inside, point)

    @torch.no_grad()
    def __call__(self, flow: FlowMap, point: Point, velocity: Image, known: Image | None = None) -> Image:
        """Return ṽ, like `velocity`: the network is asked once, on `point.guided` only, and not for what is `known`."""
        rows = point.guided
        if rows is None or len(rows) == 0 or not self.drives:
            return velocity
        assert point.label is not None
        jumps = len(rows) if known is None else point.guided_jumps
        named, bare = rows[: jumps if self.kappa else 0], rows[: len(rows) if self.null else 0]
        label = torch.cat([point.label[named], _null(point.label[bare], flow.num_classes)])
        answers = _velocity(flow, point, torch.cat([named, bare]), label)
        mixed = self.omega * velocity[rows]
        if self.kappa:
            answer = answers[: len(named)]
            if known is not None:
                answer = torch.cat([answer, known[rows[jumps:] - point.num_jumps]])
            mixed = mixed + self.kappa * answer
        if self.null:
            mixed = mixed + self.null * answers[len(named) :]
        return velocity.index_copy(0, rows, mixed.to(velocity.dtype))


@dataclass(frozen=True)
class FinestLevel(TrainedGuidance):
    """Guidance of shortcut models: only jumps made of two finest steps are guided; larger jumps inherit it.

    v = u(∅) + w (u(y) − u(∅)) in both halves of the rows t − r = 2/N; `SelfConsistency` applies it.

    Args:
        scale: w; 1 is none.

    Source: the code of Frans et al. 2024 (arXiv 2410.12557), kvfrans/shortcut-models, `bootstrap_cfg`.
    """

    scale: float = 1.5
    cites: ClassVar[tuple[str, ...]] = ("frans2024one", "ho2022classifier")

    @property
    def asks_null(self) -> bool:
        return self.scale != 1

    @property
    def jump_scale(self) -> float:
        return self.scale

    @property
    def teacher_scale(self) -> float:
        return self.scale

    def refusal(self, o: Composition) -> str | None:
        if not o.target.guides_jumps:
            return (
                f"FinestLevel guides the jumps of SelfConsistency, but the target is {type(o.target).__name__}: use "
                "Guidance(omega, kappa)"
            )
        if o.times.lands != "nowhere" and not o.times.halves:
            return (
                "FinestLevel guides the jumps made of two finest steps, of which all others are made, and those of "
                f"{type(o.times).__name__} are not halved: use times=DyadicGrid(), or Guidance(omega, kappa)"
            )
        return None

    def __call__(self, flow: FlowMap, point: Point, velocity: Image, known: Image | None = None) -> Image:
        """Return the velocity as it is: the diagonal is trained without guidance."""
        return velocity

    def rows(self, point: Point) -> Tensor:
        """Return the indices of the jumps made of two finest steps."""
        inside = (point.t > point.r) & (point.t - point.r <= 2.001 * point.finest)
        return _kept(inside, point)


def _kept(inside: Tensor, point: Point) -> Tensor:
    if point.label is None:
        raise ValueError(
            "guidance in training contrasts a label with none: give the batch labels, or guidance=None"
        )
    kept = inside if point.dropped is None else inside & ~point.dropped
    return kept.nonzero().squeeze(1)


def _velocity(flow: FlowMap, point: Point, rows: Tensor, label: Tensor) -> Image:
    """Return u(x_t, t, t | label) on these rows; without rows the network is not asked."""
    if len(rows) == 0:
        return point.x_t[rows]
    with dropout.only(rows):
        return flow.velocity(point.x_t[rows], point.t[rows], label=label)


def _null(label: Tensor, num_classes: int | None) -> Tensor:
    if num_classes is None:
        raise ValueError(
            "guidance needs a network trained with labels and a null class, but this one has no `num_classes`"
        )
    return torch.full_like(label, num_classes)


@dataclass(frozen=True)
class _Guided:
    """F(∅) + w (F(y) − F(∅)) as a network: twice the evaluations."""

    network: Network = field(repr=False)
    num_classes: int | None
    scale: float

    @property
    def dtype(self) -> torch.dtype | None:
        return dtype_of(self.network)

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        if label is None:
            raise ValueError("guidance contrasts a label with none: give labels to sample with")
        both = torch.cat([label, _null(label, self.num_classes)])
        x, t, r = (torch.cat([v, v]) for v in (x, t, r))
        with dropout.only(torch.arange(len(label))):
            known, unknown = self.network(x, t, r, both).chunk(2)
        return unknown + self.scale * (known - unknown)


def guided_output(
    flow: FlowMap, scale: float, rows: Tensor, x: Image, t: Time, r: Time, label: Tensor
) -> Image:
    """Return F(x, t, r, y), and on these rows F(∅) + w (F(y) − F(∅)): one call, the null label on these rows alone.

    Shapes: rows (n,) int64; x (batch, *dims), t, r, label (batch,) → like x.
    """
    every = torch.arange(len(x), device=x.device)
    asked = torch.cat([every, rows])
    labels = torch.cat([label, _null(label[rows], flow.num_classes)])
    with dropout.only(asked):
        output, bare = flow.output(x[asked], t[asked], r[asked], labels).split([len(x), len(rows)])
    return output.index_copy(0, rows, bare + scale * (output[rows] - bare))


def guide(flow: FlowMap, scale: float | None) -> FlowMap:
    """Return the map under sampling guidance F(∅) + w (F(y) − F(∅)); w = 1 or None returns the map itself.

    Raises: ValueError for a scale that is not finite.
    Source: Ho and Salimans 2022 (arXiv 2207.12598) eq. 6, whose w is this w minus 1.
    """
    if scale is None or scale == 1.0:
        return flow
    if not math.isfinite(scale):
        raise ValueError(f"guidance={scale}: a finite scale is expected, such as 1.5; 1 or None for none")
    return replace(flow, network=_Guided(flow.network, flow.num_classes, scale))
