"""Maximum mean discrepancy between groups of rows. IMM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowleap.interfaces import Composition, Loss
from flowleap.paths import Path
from flowleap.point import Point, Regression
from flowleap.tensors import Time

__all__ = ["MomentMatching"]


@dataclass(frozen=True)
class MomentMatching(Loss):
    """w_out MMD²: the squared maximum mean discrepancy between the predictions of a group of rows and their targets.

    MMD² = mean_ij k(y_i, y_j) + mean_ij k(ŷ_i, ŷ_j) − 2 mean_ij k(y_i, ŷ_j),  k(a, b) = exp(−w ‖a − b‖ / D)
    w = 1/(σ_d |b(t, r)|),  w_out = ½ sigmoid(shift − λ) (−dλ/dt) α^power / (α² + σ²),  λ = 2 ln(α/σ), at t
    over all pairs of the M rows of a group (`point.group`), a row with itself as well; D is the dimensions of a row and
    b the coefficient of the velocity in a step of the path, r − t on the linear one. Each row of a group is given the
    value of the group, so that the mean over rows is the mean over groups. Its gradient is 0 between equal points.

    It vanishes where both sets have the same moments, so what it pins is a law: each point may be another. A group of
    one row compares two points, 2 − 2 k(y, ŷ), which is consistency training with a bounded distance.

    Args:
        kernel: "laplace"; "rbf" is exp(−½ (w ‖a − b‖ / D)²), which is blind to small distances.
        power: the exponent of α in the weight: 1, or 2 for less weight on noise.
        shift: the log-SNR above which, towards the data, the weight falls off.
        sigma_data: σ_d, the standard deviation of the data.

    Raises: ValueError for an unknown kernel, or numbers out of range.
    Source: Zhou et al. 2025 (arXiv 2503.07565), the grouped V-statistic, its Laplace kernel and its weight; power 2 and
    shift 4 for latents, 1 and 5 for CIFAR-10. With network output σ_d F on the linear path w is its 1/|c_out|. The
    weight is computed as σ (ασ' − σα') α^(power − 1) / ((σ² + α² e^−shift)(α² + σ²)), the same without a singularity.
    """

    kernel: str = "laplace"
    power: int = 2
    shift: float = 4.0
    sigma_data: float = 0.5
    template: ClassVar[dict[str, str]] = {
        "loss metric": "MMD² of groups, {kernel} kernel",
        "weight": "½ sigmoid({shift:g} − λ) (−dλ/dt) α^{power} / (α² + σ²)",
    }
    cites: ClassVar[tuple[str, ...]] = ("zhou2025inductive",)

    def __post_init__(self) -> None:
        if self.kernel not in ("laplace", "rbf"):
            raise ValueError(f'MomentMatching(kernel={self.kernel!r}): expected "laplace" or "rbf"')
        if self.power < 1 or not self.sigma_data > 0:
            raise ValueError(
                f"MomentMatching(power={self.power}, sigma_data={self.sigma_data}): a power of 1 or more and a "
                "positive standard deviation are expected"
            )

    def refusal(self, o: Composition) -> str | None:
        if o.times.group is None:
            return (
                f"MomentMatching compares groups of rows that share their times, and {type(o.times).__name__} makes "
                "none: use times=Particles()"
            )
        if o.target.space != "map":
            return (
                f"MomentMatching compares points, and {type(o.target).__name__} gives network outputs: use "
                'target=Consistency(space="map")'
            )
        return None

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        size = point.group_size
        wide = torch.promote_types(regression.prediction.dtype, torch.float32)
        ours, theirs = (
            each.flatten(1).to(wide).unflatten(0, (-1, size))
            for each in (regression.prediction, regression.target)
        )
        t, r = (time.double()[::size] for time in (point.t, point.r))
        scale = self.scale(point.path, t, r).to(wide)[:, None, None]
        within = self._similarity(ours, ours, scale) + self._similarity(theirs, theirs, scale)
        gap = within - 2 * self._similarity(ours, theirs, scale)
        return (self.weight(point.path, t).to(wide) * gap).repeat_interleave(size)

    def scale(self, path: Path, t: Time, r: Time) -> Tensor:
        """Return w, the inverse width of the kernel, (batch,)."""
        return 1 / (self.sigma_data * path.transfer(t, r)[1].abs())

    def weight(self, path: Path, t: Time) -> Tensor:
        """Return w_out, (batch,)."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        turn = alpha * path.d_sigma(t) - sigma * path.d_alpha(t)
        near = sigma.square() + alpha.square() * math.exp(-self.shift)
        return sigma * turn * alpha ** (self.power - 1) / (near * (alpha.square() + sigma.square()))

    def _similarity(self, first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
        """Return the mean of k over all pairs of each group: (groups, M, D) twice → (groups,)."""
        distance: Tensor = _Distance.apply(first, second)
        distance = distance * (scale / first.shape[2])
        exponent = distance if self.kernel == "laplace" else distance.square() / 2
        return torch.exp(-exponent).mean((1, 2))


EQUAL = 1e-8
"""Points nearer to one another than this are equal, and no gradient runs between them."""


class _Distance(torch.autograd.Function):
    """d_ij = ‖a_i − b_j‖, at least `EQUAL`, without a tensor of M × M × D, such as the backward of `cdist` has on CUDA.

    The gradients Σ_j w_ij (a_i − b_j) and Σ_i w_ij (b_j − a_i), w = grad/d, are matrix products, in float64, for points
    may be near to one another.

    Shapes: a, b (groups, M, D) → (groups, M, M).
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(EQUAL)
        ctx.save_for_backward(a, b, distance)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b, distance, slope = (each.double() for each in (*ctx.saved_tensors, gradient))
        weight = slope / distance * (distance > EQUAL)
        back = weight.transpose(1, 2)
        found = weight.sum(2, keepdim=True) * a - weight @ b, back.sum(2, keepdim=True) * b - back @ a
        return found[0].to(gradient.dtype), found[1].to(gradient.dtype)
