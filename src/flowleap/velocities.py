"""Sources of the velocity v(x_t, t) in a target: the pair, the batch, the network itself, a teacher.

| velocity    | v(x_t, t)                                                | mean given x_t    | variance      |
|-------------|----------------------------------------------------------|-------------------|---------------|
| Conditional | α' x + σ' κε of the row's own (x, ε)                     | exact             | irreducible   |
| PlugIn      | posterior mean over the batch's rows of the same class   | exact as B → ∞    | smaller       |
| Head        | that of the velocity head of the network                 | the network's     | 0             |
| Own         | u_θ(x_t, t, t)                                           | the network's     | 0             |
| Teacher     | a frozen flow map's, guided or not                       | the teacher's     | 0             |
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.flow_map import FlowMap
from flowleap.guidance import guide
from flowleap.interfaces import Composition, VelocitySource
from flowleap.point import Point
from flowleap.tensors import Image, like

__all__ = ["Conditional", "Head", "Own", "PlugIn", "Teacher", "VelocitySource"]


@dataclass(frozen=True)
class Conditional(VelocitySource):
    """v = α'(t) x + σ'(t) κε, the velocity of the row's own pair.

    Source: Lipman et al. 2022 (arXiv 2210.02747) theorem 3.
    """

    cites: ClassVar[tuple[str, ...]] = ("lipman2022flow",)

    def __call__(self, point: Point, flow: FlowMap | None = None) -> Image:
        return point.path.velocity(point.x, point.noise, point.t)


@dataclass(frozen=True)
class PlugIn(VelocitySource):
    """v* = Σ_j w_ij v(x_t,i; x_j): the posterior-mean velocity if the batch were the data set.

    Written around the row's own pair, v* = v + (α' − σ'α/σ)(x̄ − x), so that it meets v exactly where the posterior
    is the row itself. Only rows of the same class, `point.label`, take part: over mixed classes the mean washes the
    label out. `point.context` takes part too: rows of the global batch that another process holds, so that the sum runs
    over the same rows however the batch is split. Memory B² + B·D (Gram form, `Path.posterior_mean`).

    Args:
        probability: the share of rows that use v*; the others keep v (`point.plug_in` says which; None means all).

    Source: Lin et al. 2025 (arXiv 2512.11831), plug-in velocity: 0.5 for B/2, 0.2 for XL/2.
    """

    probability: float = 0.5
    cites: ClassVar[tuple[str, ...]] = ("lin2025design",)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"PlugIn(probability={self.probability}): a share of the rows in [0, 1] is expected"
            )

    @property
    def averages(self) -> float:
        return self.probability

    def refusal(self, o: Composition) -> str | None:
        if not (self.probability > 0 and o.coupling.ties_noise):
            return None
        return (
            "PlugIn averages over all data that may have met the noise of a row, and "
            f"{type(o.coupling).__name__} ties each noise to one: use velocity=Conditional(), or "
            "coupling=Independent()"
        )

    def __call__(self, point: Point, flow: FlowMap | None = None) -> Image:
        path, t = point.path, point.t
        v = path.velocity(point.x, point.noise, t)
        if self.probability == 0:
            return v
        data, label = point.x, point.label
        if point.context is not None:
            data = torch.cat([data, point.context])
            label = (
                None
                if label is None or point.context_label is None
                else torch.cat([label, point.context_label])
            )
        member = None if point.label is None or label is None else point.label[:, None] == label[None, :]
        mean = path.posterior_mean(point.x_t, t, data, member)
        gain = path.d_alpha(t) - path.d_sigma(t) * path.alpha(t) / path.sigma(t).clamp_min(1e-4)
        plug_in = v + like(gain, v) * (mean - point.x)
        return plug_in if point.plug_in is None else torch.where(like(point.plug_in, v), plug_in, v)


@dataclass(frozen=True)
class Own(VelocitySource):
    """v = u_θ(x_t, t, t): the network's own instantaneous velocity.

    Source: Boffi et al. 2025 (arXiv 2505.18825), self-distillation by the tangent condition.
    """

    marginal: ClassVar[bool] = True
    own: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("boffi2025build",)

    def __call__(self, point: Point, flow: FlowMap | None = None) -> Image:
        if flow is None:
            raise ValueError("Own() is the network's velocity: call it as velocity(point, flow)")
        return _instantaneous(flow, point)

    def map(self, flow: FlowMap) -> FlowMap:
        """Return the map whose instantaneous velocity this is: that of the network."""
        return flow


@dataclass(frozen=True)
class Head(VelocitySource):
    """v = what the velocity head of the network says at (x_t, t, t), which `losses.VelocityHead` trains.

    Source: Geng et al. 2025 (arXiv 2512.02012), the auxiliary head of improved MeanFlow.
    """

    marginal: ClassVar[bool] = True
    own: ClassVar[bool] = True
    head: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("geng2025improved",)

    def __call__(self, point: Point, flow: FlowMap | None = None) -> Image:
        if flow is None:
            raise ValueError("Head() is the network's velocity: call it as velocity(point, flow)")
        label = point.network_label(flow.num_classes)
        with torch.no_grad():
            return flow.with_velocity(point.x_t, point.t, point.t, label)[1]


@dataclass(frozen=True)
class Teacher(VelocitySource):
    """v = the instantaneous velocity of a frozen flow map, v(∅) + w (v(y) − v(∅)) where it is guided.

    Args:
        flow: the teacher; None until `Objective.with_teacher` puts one in, so that a method is a plain value.
        guidance: w, for a teacher that was trained with a null label; None for none. It doubles the evaluations.

    Raises: ValueError where it is called without a teacher.
    """

    flow: FlowMap | None = field(default=None, repr=False)
    guidance: float | None = None
    marginal: ClassVar[bool] = True

    @property
    def teacher_scale(self) -> float | None:
        return self.guidance

    @property
    def needs_teacher(self) -> bool:
        return self.flow is None

    def with_teacher(self, flow: FlowMap) -> Teacher:
        return replace(self, flow=flow)

    def __call__(self, point: Point, flow: FlowMap | None = None) -> Image:
        return _instantaneous(self.map(), point)

    def map(self, flow: FlowMap | None = None) -> FlowMap:
        """Return the map whose instantaneous velocity this is: the teacher, guided or not."""
        if self.flow is None:
            raise ValueError(
                "Teacher() is the velocity of a trained map, and none is given: use objective.with_teacher(flow), or "
                "Teacher(flow)"
            )
        return guide(self.flow, self.guidance)


def _instantaneous(flow: FlowMap, point: Point) -> Tensor:
    with torch.no_grad():
        return flow.velocity(point.x_t, point.t, point.t, point.network_label(flow.num_classes))
