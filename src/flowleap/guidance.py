"""Classifier-free guidance, in training or in sampling.

    in training   ṽ = ω v + κ u(x_t, t, t | y) + (1 − ω − κ) u(x_t, t, t | ∅)     effective scale ω/(1 − κ)
    as an input   ṽ = v + (1 − 1/w) (u(x_t, t, t | y, w) − u(x_t, t, t | ∅))      scale w, told to the network
    in sampling   F = F(∅) + w (F(y) − F(∅))                                      two evaluations

Labels, windows and scales of both live here. `guidance=None` ⇔ ω = 1, κ = 0 ⇔ none.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.flow_map import FlowMap, Network, dtype_of
from flowleap.interfaces import Composition, TrainedGuidance
from flowleap.networks import dropout
from flowleap.point import Point
from flowleap.randomness import RowGenerator
from flowleap.schedules import Schedule, horizon, limits, value_at
from flowleap.tensors import UNGUIDED, Image, Label, Time, guided_label, like, null_label

__all__ = ["FinestLevel", "Guidance", "GuidanceInput", "guide", "guided_output"]

Weight = float | Tensor
"""A weight of a mixture: one number, or one for each row, (rows,)."""


@dataclass(frozen=True)
class _Mixed(TrainedGuidance):
    """ṽ = ω v + κ u(x_t, t, t | y) + (1 − ω − κ) u(x_t, t, t | ∅), no gradient; other rows keep ṽ = v."""

    guides_velocity: ClassVar[bool] = True

    @abstractmethod
    def weights(self, point: Point) -> tuple[Weight, Weight, Weight]:
        """Return ω, κ and 1 − ω − κ of the guided rows; a number that is 0 leaves its term out."""

    def refusal(self, o: Composition) -> str | None:
        target, name = type(o.target).__name__, type(self).__name__
        if not self.drives:
            return None
        if o.coupling.ties_noise and o.times.lands != "nowhere" and o.target.regresses_pairs(o.times):
            pairs = type(o.coupling).__name__
            return (
                f"{name} guides the straight velocity of the rows r < t, whose pairs of {pairs} are samples that are "
                f"guided or not already: use coupling={pairs}(guidance=…) with guidance=None"
            )
        if o.target.driven:
            return None
        if o.loss.compares_sets:
            return (
                f"{name} changes a velocity, and {target} has none, since it compares samples with data: use "
                "guidance=None"
            )
        return (
            f"{name} changes the velocity of the rows r = t, and {target} takes that of its teacher for the others: "
            f"use target={target}(Teacher(guidance=…)) with guidance=None"
        )

    @torch.no_grad()
    def __call__(self, flow: FlowMap, point: Point, velocity: Image, known: Image | None = None) -> Image:
        """Return ṽ, like `velocity`: the network is asked once, on `point.guided` only, and not for what is `known`."""
        rows = point.guided
        if rows is None or len(rows) == 0 or not self.drives:
            return velocity
        label = point.network_label(flow.num_classes)
        assert label is not None
        omega, kappa, null = (_like(weight, velocity) for weight in self.weights(point))
        jumps = len(rows) if known is None else point.guided_jumps
        named = rows[: jumps if _counts(kappa) else 0]
        bare = rows[: len(rows) if _counts(null) else 0]
        asked = torch.cat([label[named], _null(label[bare], flow.num_classes)])
        answers = _velocity(flow, point, torch.cat([named, bare]), asked, self.head)
        mixed = omega * velocity[rows]
        if _counts(kappa):
            answer = answers[: len(named)]
            if known is not None:
                answer = torch.cat([answer, known[rows[jumps:] - point.num_jumps]])
            mixed = mixed + kappa * answer
        if _counts(null):
            mixed = mixed + null * answers[len(named) :]
        return velocity.index_copy(0, rows, mixed.to(velocity.dtype))


def _counts(weight: Weight) -> bool:
    """Return whether a term is asked for at all: always where each row has its own weight."""
    return isinstance(weight, Tensor) or weight != 0


def _like(weight: Weight, x: Image) -> Weight:
    return like(weight, x) if isinstance(weight, Tensor) else weight


@dataclass(frozen=True)
class Guidance(_Mixed):
    """Guidance folded into the velocity that drives the target, on rows that keep their label and lie in the window.

    ṽ = m (ω v + κ u(x_t, t, t | y) + (1 − ω − κ) u(x_t, t, t | ∅)) + (1 − m) u(x_t, t, t | y), no gradient; other rows
    keep ṽ = v.

    Args:
        omega, kappa: ω and κ; the fixed point is guided with scale ω/(1 − κ), whatever m is.
        window: the times [from, to] in which rows are guided, noise levels on `VEPath`; None for all times of any path.
        mix: m, a number or a schedule; 1 for no mixing. A smaller m has the same fixed point, and m times the noise of
            the pair.

    Raises: ValueError for κ ≥ 1 (no fixed point), an empty window, or an m out of (0, 1].
    Source: Geng et al. 2025 (arXiv 2505.13447) eq. 19, with κ appendix B.1; MeanFlow-B/2 has ω = 1, κ = 0.5.
    Mixing with the prediction: Luo et al. 2025 (arXiv 2512.15657), m = 0.25; Tu et al. 2026 (CVPR), m from 0.3 to 0.1.
    """

    omega: float = 1.0
    kappa: float = 0.0
    window: tuple[float, float] | None = None
    mix: float | Schedule = 1.0
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean", "ho2022classifier")

    def __post_init__(self) -> None:
        low, high = limits(self.mix)
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"Guidance(mix={self.mix}): a weight of the guided velocity in (0, 1] is expected, 1 for no mixing"
            )
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
        return self.kappa != 0 or self.asks_null or self.mix != 1

    @property
    def horizon(self) -> float | None:
        return horizon(self.mix)

    @property
    def asks_velocity(self) -> tuple[str, str] | None:
        return ("Guidance", "velocity=Teacher(guidance=…)") if self.drives else None

    @property
    def scale(self) -> float:
        """The effective guidance scale ω/(1 − κ)."""
        return self.omega / (1 - self.kappa)

    def weights(self, point: Point) -> tuple[Weight, Weight, Weight]:
        mix = value_at(self.mix, point.progress)
        return mix * self.omega, 1 - mix + mix * self.kappa, mix * self.null

    def rows(self, point: Point) -> Tensor:
        """Return the indices of the rows to guide; the times and masks are those of the CPU."""
        if (self.omega, self.kappa, self.mix) == (1.0, 0.0, 1.0):
            return torch.empty(0, dtype=torch.int64)
        low, high = (-math.inf, math.inf) if self.window is None else self.window
        inside = (point.t >= low) & (point.t <= high)
        return _kept(inside, point)


@dataclass(frozen=True)
class GuidanceInput(_Mixed):
    """Guidance whose scale w, and interval of times, each row draws and the network is told: a knob for sampling.

    ṽ = v + (1 − 1/w) (u(x_t, t, t | y, w) − u(x_t, t, t | ∅, 1)) on rows that keep their label and have t in their
    interval, no gradient; other rows keep ṽ = v. The fixed point of a row is the flow that is guided with its own scale
    v(∅) + w (v(y) − v(∅)) inside its own interval, and not outside. Rows without a label are told w = 1.
    The network is given both with the label (`tensors.guided_label`), r < t or not, and sampling asks for any of them
    in single evaluations: `objective.sample(…, guidance=3, interval=(0.2, 0.8))`.

    Args:
        largest: w lies in [1, largest].
        power: β ≥ 0 of its density, proportional to w^−β; 1 draws log w uniformly, more favors small scales.
        interval: whether intervals are drawn, from U(0, ½) to U(½, 1); False guides all times, on any path.
        usual: the scale of samples where none is asked for.
        by_head: whether u is that of a velocity head of the network, see `losses.VelocityHead`, as published.

    Raises: ValueError for scales below 1, or a negative power.
    Source: Geng et al. 2025 (arXiv 2512.02012), the flexible guidance of improved MeanFlow, and its code
    (Lyy-iiis/imeanflow): [1, 8], β = 1. There rows r = t are guided at all times; here they draw intervals as well.
    """

    largest: float = 8.0
    power: float = 1.0
    interval: bool = True
    usual: float = 2.0
    by_head: bool = False
    is_input: ClassVar[bool] = True
    drives: ClassVar[bool] = True
    asks_null: ClassVar[bool] = True
    asks_velocity: ClassVar[tuple[str, str] | None] = ("GuidanceInput", "guidance=None")
    cites: ClassVar[tuple[str, ...]] = ("geng2025improved", "ho2022classifier")

    def __post_init__(self) -> None:
        if not (1 < self.largest < math.inf and 1 <= self.usual <= self.largest and self.power >= 0):
            raise ValueError(
                f"GuidanceInput(largest={self.largest}, usual={self.usual}, power={self.power}): 1 < largest, a usual "
                "scale in [1, largest] and a power from 0 up are expected"
            )

    @property
    def scale(self) -> float:
        return self.usual

    @property
    def intervals(self) -> bool:
        return self.interval

    @property
    def head(self) -> bool:
        return self.by_head

    def refusal(self, o: Composition) -> str | None:
        if o.velocity.marginal or o.frozen.holds_teacher or o.coupling.ties_noise:
            return (
                f"{o.name}: GuidanceInput trains flows of many scales, and a teacher, or noise tied to its samples, "
                "belongs to one of them: use Guidance(omega, kappa), or that of the teacher, Teacher(guidance=…)"
            )
        if self.by_head and not any(loss.velocity_head for loss in o.loss.chain()):
            return (
                "GuidanceInput(by_head=True) asks a velocity head that nothing trains: use "
                "loss=VelocityHead(AdaptivePower()), or by_head=False"
            )
        if self.interval and o.path.t_max > 1:
            return (
                f"GuidanceInput draws intervals in [0, 1], and the times of {type(o.path).__name__} are noise levels: "
                "use GuidanceInput(interval=False)"
            )
        return super().refusal(o)

    def sampling_advice(self, scale: float) -> str | None:
        if 1 <= scale <= self.largest:
            return None
        return f"guidance of scale {scale:g} lies outside of the scales of training, 1 to {self.largest:g}"

    def draw(self, generator: RowGenerator) -> Tensor:
        """Return the scale and the interval of each row, (rows, 3) float32; (0, 1) where none is drawn."""
        share, first, last = generator.uniform(3).unbind(1)
        rest = 1 - self.power
        if abs(rest) < 1e-9:
            scale = (share * math.log(self.largest)).exp()
        else:
            scale = (1 + share * (self.largest**rest - 1)) ** (1 / rest)
        scale = scale.clamp(1.0, self.largest)
        if not self.interval:
            first, last = torch.zeros_like(first), torch.ones_like(last)
        else:
            first, last = first / 2, (1 + last) / 2
        return torch.stack([scale, first, last], dim=1).float()

    def rows(self, point: Point) -> Tensor:
        """Return the indices of the rows to guide; times, masks and guidance are those of the CPU."""
        if point.guidance is None:
            return _kept(torch.zeros(len(point), dtype=torch.bool), point)
        scale, first, last = point.guidance.unbind(1)
        inside = scale != 1
        if self.interval:
            inside &= (point.t >= first) & (point.t <= last)
        return _kept(inside, point)

    def weights(self, point: Point) -> tuple[Weight, Weight, Weight]:
        assert point.guidance is not None and point.guided is not None
        kappa = 1 - 1 / point.guidance[point.guided, 0]
        return 1.0, kappa, -kappa


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


def _velocity(flow: FlowMap, point: Point, rows: Tensor, label: Tensor, head: bool) -> Image:
    """Return u(x_t, t, t | label), or that of the velocity head, on these rows; without rows no network is asked."""
    if len(rows) == 0:
        return point.x_t[rows]
    x, t = point.x_t[rows], point.t[rows]
    with dropout.only(rows):
        return flow.with_velocity(x, t, t, label)[1] if head else flow.velocity(x, t, label=label)


def _null(label: Tensor, num_classes: int | None) -> Tensor:
    if num_classes is None:
        raise ValueError(
            "guidance needs a network trained with labels and a null class, but this one has no `num_classes`"
        )
    return null_label(label, num_classes)


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
        with dropout.only(torch.arange(label.shape[0])):
            known, unknown = self.network(x, t, r, both).unflatten(0, (2, -1)).unbind()
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


@dataclass(frozen=True)
class _Told:
    """A network that is told the same guidance on every row: as many evaluations as without."""

    network: Network = field(repr=False)
    guidance: tuple[float, float, float]
    num_classes: int | None
    guidance_input: ClassVar[bool] = True

    @property
    def dtype(self) -> torch.dtype | None:
        return dtype_of(self.network)

    def __call__(self, x: Image, t: Time, r: Time, label: Label) -> Image:
        if label is None:
            raise ValueError("guidance contrasts a label with none: give labels to sample with")
        told = [torch.full_like(t, value) for value in self.guidance]
        return self.network(x, t, r, guided_label(label, torch.stack(told, dim=1)))


def guide(flow: FlowMap, scale: float | None, interval: Sequence[float] | None = None) -> FlowMap:
    """Return the map under sampling guidance; a scale of 1 or None returns the map itself.

    A map whose network takes guidance as an input is told scale and interval, which costs nothing; another one answers
    F(∅) + w (F(y) − F(∅)), which doubles the evaluations.

    Args:
        scale: w. interval: the first and the last time that are guided, None for all; only for a network that is told.

    Raises: ValueError for a scale that is not finite, or an interval that is none or cannot be told.
    Source: Ho and Salimans 2022 (arXiv 2207.12598) eq. 6, whose w is this w minus 1.
    """
    if interval is not None:
        _check_interval(flow, interval)
    if scale is None or scale == 1.0:
        return flow
    if not math.isfinite(scale):
        raise ValueError(f"guidance={scale}: a finite scale is expected, such as 1.5; 1 or None for none")
    if not flow.guidance_input:
        return replace(flow, network=_Guided(flow.network, flow.num_classes, scale))
    if scale <= 0:
        raise ValueError(
            f"guidance={scale}: a network that is told the scale takes positive ones, such as 1.5"
        )
    first, last = UNGUIDED[1:] if interval is None else interval
    return replace(
        flow, network=_Told(flow.network, (float(scale), float(first), float(last)), flow.num_classes)
    )


def _check_interval(flow: FlowMap, interval: Sequence[float]) -> None:
    if not flow.guidance_input:
        raise ValueError(
            f"guidance in the interval {tuple(interval)}: this network was not trained with guidance as an input "
            "(guidance=GuidanceInput()), leave the interval out"
        )
    if not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
        raise ValueError(
            f"guidance in the interval {tuple(interval)}: two times 0 ≤ from < to ≤ 1 are expected, such as 0.2, 0.8"
        )
