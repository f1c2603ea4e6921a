"""Weights of jump rows that depend on the progress of a run, or on the step of their target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from flowleap.interfaces import Composition, Loss
from flowleap.losses.distances import AdaptivePower, Squared
from flowleap.losses.weights import jump_rows, share_of_way, weight_in_words
from flowleap.point import Point, Regression
from flowleap.tensors import like

__all__ = ["ShortJumpsFirst", "StepQuotient"]


@dataclass(frozen=True)
class ShortJumpsFirst(Loss):
    """β m on rows r < t, β = 1 − q + q (1 − d)/(1 − E[d]), d = t − r, q = 1 − p at progress p; m on the others.

    At the start of a run short jumps weigh more and the longest ones nothing; at its end all weigh alike. The mean of β
    over jumps is 1 throughout.

    Args:
        inner: m.
        mean: E[d] of the time law, 0.233 for `SortedPair(LogitNormal(-0.4, 1))`, 1/3 for uniform pairs.

    Raises: ValueError for a mean out of (0, 1), or around a learned weight.
    Source: Kim et al. 2025 (arXiv 2511.19065), progressive weighting of the average velocity, λ = 1/E[1 − d].
    """

    inner: Loss = Squared()
    mean: float = 0.233
    horizon: ClassVar[float] = 1.0
    cites: ClassVar[tuple[str, ...]] = ("kim2025understanding",)

    def __post_init__(self) -> None:
        if not 0 < self.mean < 1:
            raise ValueError(
                f"ShortJumpsFirst(mean={self.mean}): the mean length t − r of the jumps of the time law, in (0, 1), is "
                "expected"
            )
        if self.inner.learned:
            raise ValueError(
                "ShortJumpsFirst(LearnedVariance(…)) would weigh ℓ as well: use LearnedVariance(ShortJumpsFirst(…))"
            )

    @property
    def template(self) -> dict[str, str]:
        """The weight, after that of the loss inside where that has one."""
        return {"weight": weight_in_words(self.inner, "short jumps first")}

    def refusal(self, o: Composition) -> str | None:
        if o.path.t_max > 1:
            return (
                "ShortJumpsFirst weighs by the length of jumps in [0, 1], and the times of "
                f"{type(o.path).__name__} are noise levels: use path=LinearPath(), or the loss inside it"
            )
        return None

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        value = self.inner(regression, point)
        length, early = (point.t - point.r).to(value), 1 - point.progress
        weight = 1 - early + early * (1 - length) / (1 - self.mean)
        return torch.where(jump_rows(point), weight, 1.0) * value


@dataclass(frozen=True)
class StepQuotient(Loss):
    """½ρ m(Δ/ρ) on rows r < t, ρ = (t − s)/(t − r) the share of the way that the first step is; m(Δ) on the others.

    For the average velocity Δ/ρ is, up to its sign, the difference quotient q = (X_{t→r}(x_t) − X_{s→r}(x_s))/(t − s),
    which has a limit as s → t. With m = `AdaptivePower(p, c, "mean")` the gradient is that of ⟨F, sg[w q]⟩/D,
    w = 1/(mean q² + c)^p, which does not vanish with the step.

    Args:
        inner: m.

    Source: Luo et al. 2025 (arXiv 2512.15657), solution consistency loss, and zlab-princeton/SoFlow for its weight.
    """

    inner: Loss = AdaptivePower(power=1.0, eps=1e-2, reduce="mean")
    cites: ClassVar[tuple[str, ...]] = ("luo2025soflow",)

    @property
    def template(self) -> dict[str, str]:
        """The metric and the weight, of Δ divided by the step."""
        return {
            "loss metric": "{loss metric}, Δ per step",
            "weight": weight_in_words(self.inner, "(t − s)/2(t − r)"),
        }

    @property
    def error_power(self) -> float:
        return self.inner.error_power

    def refusal(self, o: Composition) -> str | None:
        if not o.target.asks_step:
            return (
                f"StepQuotient divides by the step t → s, and that of {type(o.target).__name__} is infinitely short: "
                "use the loss inside it, or target=Consistency() with times=Split(at=0.01)"
            )
        return None

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        jumps = jump_rows(point)
        share = torch.where(jumps, share_of_way(point), 1.0)
        each = like(share, regression.prediction)
        value = self.inner(
            replace(regression, prediction=regression.prediction / each, target=regression.target / each),
            point,
        )
        return torch.where(jumps, share / 2, 1.0).to(value) * value
