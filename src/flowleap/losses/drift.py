"""Losses between laws: each generated sample moves along a field that vanishes where both laws are the same.

| field    | V at a generated x, y the data, x′ other generated samples                | method                |
|----------|---------------------------------------------------------------------------|-----------------------|
| Energy   | mean of unit vectors to y, less mean of unit vectors to x′                | energy distance, TBSM |
| Sinkhorn | barycentric projection onto y, less that onto x′, of transport plans      | W-Flow                |
| Kernel   | pull of y times weight of x′, less pull of x′ times weight of y           | drifting              |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.citations import Cited
from flowleap.interfaces import Composition, Loss
from flowleap.networks import encoder
from flowleap.point import Point, Regression

__all__ = ["Drift", "Energy", "Field", "Kernel", "Sinkhorn"]

LEAST = 1e-6
"""The least distance that is divided by, in units of the mean distance of the data."""


class Field(Cited, ABC):
    """V(x), where the generated points of a group should move for their law to come nearer to that of the data.

    Shapes: x (groups, M, d) generated, y (groups, N, d) data → (groups, M, d).
    """

    least: ClassVar[int] = 2
    """The smallest group that it can be computed of."""

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return V, without a graph."""


@dataclass(frozen=True)
class Energy(Field):
    """V(x_i) = mean_j (y_j − x_i)/‖y_j − x_i‖ − mean_{j≠i} (x_j − x_i)/‖x_j − x_i‖.

    It is −M/2 times the gradient of the squared energy distance 2 E‖x − y‖ − E‖x − x′‖ − E‖y − y′‖, estimated without
    bias; that distance is 0 for equal laws alone, and has no width to be chosen.

    Source: Bellemare et al. 2017 (arXiv 1705.10743), which trains generators by this distance of Székely.
    """

    cites: ClassVar[tuple[str, ...]] = ("bellemare2017cramer",)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        pull = _unit_weights(x, y) / y.shape[1]
        push = _unit_weights(x, x) / max(1, x.shape[1] - 1)
        return _towards(pull, x, y) - _towards(push, x, x)


@dataclass(frozen=True)
class Sinkhorn(Field):
    """V(x) = T_{q→p}(x) − T_{q→q′}(x), T(x_i) = Σ_j P_ij y_j / Σ_j P_ij, P an entropic transport plan.

    P is Sinkhorn's after some iterations for the cost ½‖x − y‖², with ε a share of the mean cost; q′ is a second set of
    generated samples: each half of a group is transported onto the other.

    Args:
        blur: ε as a share of the mean cost. iterations: of both scalings.

    Raises: ValueError for numbers out of range.
    Source: W-Flow, arXiv 2605.11755; Cuturi 2013 (arXiv 1306.0895) for the iterations.
    """

    blur: float = 0.05
    iterations: int = 10
    least: ClassVar[int] = 4
    cites: ClassVar[tuple[str, ...]] = ("han2026one",)

    def __post_init__(self) -> None:
        if not self.blur > 0 or self.iterations < 1:
            raise ValueError(
                f"Sinkhorn(blur={self.blur}, iterations={self.iterations}): a positive share of the mean cost and one "
                "iteration or more are expected"
            )

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        half = x.shape[1] // 2
        first, second = x[:, :half], x[:, half:]
        own = torch.cat([self.transported(first, second), self.transported(second, first)], dim=1)
        return self.transported(x, y) - own

    def transported(self, x: Tensor, y: Tensor) -> Tensor:
        """Return T(x): (groups, M, d), (groups, N, d) → (groups, M, d)."""
        cost = _distances(x, y).square() / 2
        log_kernel = -cost / (self.blur * cost.mean((1, 2), keepdim=True)).clamp_min(LEAST)
        rows = torch.zeros_like(log_kernel[:, :, :1])
        for _ in range(self.iterations):
            columns = -torch.logsumexp(log_kernel + rows, dim=1, keepdim=True)
            rows = -torch.logsumexp(log_kernel + columns, dim=2, keepdim=True)
        return torch.softmax(log_kernel + columns, dim=2) @ y


@dataclass(frozen=True)
class Kernel(Field):
    """V(x_i) = Σ_j A⁺_ij (Σ_k A⁻_ik) y_j − Σ_k A⁻_ik (Σ_j A⁺_ij) x_k: pulled by the data, pushed by other samples.

    A = √(softmax over rows · softmax over columns) of −‖·‖/R over data and other samples together, a sample itself
    left out. The fields of several temperatures R, in units of the mean distance, are each divided by their root mean
    square and added.

    Raises: ValueError for temperatures that are not positive.
    Source: drifting models, arXiv 2602.04770, with R = 0.02, 0.05, 0.2.
    """

    temperatures: tuple[float, ...] = (0.02, 0.05, 0.2)
    cites: ClassVar[tuple[str, ...]] = ("deng2026drifting",)

    def __post_init__(self) -> None:
        if not self.temperatures or not min(self.temperatures) > 0:
            raise ValueError(
                f"Kernel(temperatures={self.temperatures}): one positive number or more are expected"
            )

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        apart = torch.cat([_distances(x, y), _distances(x, x).masked_fill(own, torch.inf)], dim=2)
        scale = apart[:, :, : y.shape[1]].mean((1, 2), keepdim=True).clamp_min(LEAST)
        total = torch.zeros_like(x)
        for temperature in self.temperatures:
            field = self._at(-apart / (temperature * scale), x, y)
            total = total + field / field.square().mean((1, 2), keepdim=True).sqrt().clamp_min(LEAST)
        return total

    def _at(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the field of one temperature."""
        affinity = (torch.softmax(logits, dim=2) * torch.softmax(logits, dim=1)).sqrt()
        pull, push = affinity.split([y.shape[1], x.shape[1]], dim=2)
        pulled, pushed = pull @ y, push @ x
        return pulled * push.sum(2, keepdim=True) - pushed * pull.sum(2, keepdim=True)


@dataclass(frozen=True)
class Drift(Loss):
    """½‖φ(x) − sg(φ(x) + V)‖², x what the student made of noise, V the field from there to the data of its group.

    φ are one or more sets of features, each in units of the mean distance of the data of the group; the loss is their
    mean, its value ½‖V‖² and its gradient −V ∂φ/∂x. It is 0 where both laws are the same, up to the noise of finite
    sets.

    Args:
        field: V.
        features: the file of a classifier (`flowleap data classifier`) or, for images without labels, of an encoder
            (`flowleap data encoder`), trained on the data of the run, whose maps are φ: means over all places and over
            a grid of 4 × 4 of each of its three stages. None: φ(x) = x, for points and other small data.

    Raises: ValueError for groups that are too small, or a file that holds no classifier.
    Source: the loss of drifting models, arXiv 2602.04770, for any field.
    """

    field: Field = Energy()
    features: str | None = None
    compares_sets: ClassVar[bool] = True
    template: ClassVar[dict[str, str]] = {"loss metric": "field between laws", "weight": "1"}

    @property
    def encoder(self) -> str | None:
        return self.features

    @property
    def cites(self) -> tuple[str, ...]:
        """The paper of the loss; that of the field is the field's."""
        return ("deng2026drifting",)

    def refusal(self, o: Composition) -> str | None:
        name = type(self.field).__name__
        if o.times.group is None or o.times.group < self.field.least:
            return (
                f"Drift({name}()) compares groups of {self.field.least} rows or more, and {type(o.times).__name__} "
                f"makes groups of {o.times.group or 1}: use times=NoiseToData(group=16)"
            )
        if o.target.space != "map":
            return (
                f"Drift compares samples with data, and {type(o.target).__name__} gives outputs of the network: use "
                "target=DataLaw()"
            )
        return None

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        size = point.group_size
        made, real = regression.prediction, regression.target
        wide = torch.promote_types(made.dtype, torch.float32)
        ours = encoder.features(self.features, made.to(wide))
        with torch.no_grad():
            theirs = encoder.features(self.features, real.to(wide))
        found = [
            self.of(a.unflatten(0, (-1, size)), b.unflatten(0, (-1, size)))
            for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(found).mean(0).flatten()

    def of(self, made: Tensor, real: Tensor) -> Tensor:
        """Return ½‖V‖² with the gradient −V, in units of the mean distance of the data of each group.

        Shapes: made (groups, M, d), real (groups, N, d) → (groups, M).
        """
        with torch.no_grad():
            pairs = real.shape[1] * max(1, real.shape[1] - 1)
            unit = (_distances(real, real).sum((1, 2), keepdim=True) / pairs).clamp_min(LEAST)
            goal = made / unit + self.field(made.detach() / unit, real / unit)
        return (made / unit - goal).square().sum(2) / 2


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ‖a_i − b_j‖: (groups, M, d), (groups, N, d) → (groups, M, N)."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _unit_weights(a: Tensor, b: Tensor) -> Tensor:
    """Return 1/‖a_i − b_j‖, and 0 where both are the same point."""
    apart = _distances(a, b)
    return torch.where(apart > LEAST, 1 / apart.clamp_min(LEAST), 0.0)


def _towards(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return Σ_j w_ij (y_j − x_i): (groups, M, N), (groups, M, d), (groups, N, d) → (groups, M, d)."""
    return weight @ y - weight.sum(2, keepdim=True) * x
