"""The loss of score identity distillation (SiD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flowleap.interfaces import Composition, Loss
from flowleap.point import Point, Regression

__all__ = ["ScoreIdentity"]


@dataclass(frozen=True)
class ScoreIdentity(Loss):
    """w ⟨G, (D_T − x_g) − α G⟩, G = D_T − D_ψ, w = 1/sg(mean |x_g − D_T|): the squared gap of two scores, debiased.

    x_g is the sample that the student made, D_T and D_ψ what the target and the prediction say it was before noise.
    Where D_ψ is exact, E⟨G, D_T − x_g⟩ = E‖G‖², and without w the loss is (1 − α) E‖G‖² in value; what counts is its
    gradient, D_ψ held. With α > 1 that widens a law which is much wider than the teacher's already: begin with a
    narrower one, such as one step of the teacher.

    Args:
        alpha: α; 0 is the estimate of the gap by the identity alone.
        reduce: whether ⟨·, ·⟩ sums or averages over the dimensions.

    Raises: ValueError for a target that makes no sample.
    Source: Zhou et al. 2024 (arXiv 2404.04057) and its code, mingyuanzhou/SiD: α = 1.2, mean |x_g − D_T| ≥ 1e-5.
    """

    alpha: float = 1.2
    reduce: Literal["sum", "mean"] = "mean"
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    def __post_init__(self) -> None:
        if self.reduce not in ("sum", "mean"):
            raise ValueError(
                f'ScoreIdentity(reduce={self.reduce!r}): expected "sum" or "mean" over the dimensions of a row'
            )

    def refusal(self, o: Composition) -> str | None:
        if o.target.makes_samples:
            return None
        return (
            f"ScoreIdentity judges a sample by two scores, and {type(o.target).__name__} makes none: use "
            "target=ScoreGap(), or another loss such as Squared()"
        )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        if regression.sample is None:
            raise ValueError(
                "ScoreIdentity judges a sample by two scores, and the target makes none: use target=ScoreGap()"
            )
        wide = torch.promote_types(regression.target.dtype, torch.float32)
        real, fake, sample = (
            each.flatten(1).to(wide) for each in (regression.target, regression.prediction, regression.sample)
        )
        gap = real - fake
        product = gap * ((real - sample) - self.alpha * gap)
        weight = 1 / (sample - real).detach().abs().mean(1).clamp_min(1e-5)
        return weight * (product.sum(1) if self.reduce == "sum" else product.mean(1))
