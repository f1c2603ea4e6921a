"""Weights of a loss: learned, functions of time, by rows on a boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flowleap.interfaces import Composition, Loss
from flowleap.losses.distances import Squared
from flowleap.point import Point, Regression
from flowleap.suggest import suggest

__all__ = ["WEIGHTS", "Boundary", "LearnedCauchy", "LearnedVariance", "Weighted"]


@dataclass(frozen=True)
class LearnedVariance(Loss):
    """e^{−ℓ} m + ℓ: a weight the network learns, optimal at ℓ = ln E[m | t, r], or at ln E[m | t].

    ∂/∂ℓ = 1 − e^{−ℓ} m. Around AdaptivePower at p = 1 (m ≈ 1) it is nearly inert, ℓ* ≈ 0.

    Args:
        inner: m.
        of: the times that ℓ is a function of. "t, r": both. "t": the time of departure alone, as in the published code
            of ESC; the head of the network is then asked at (t, t) on every row.

    Raises: ValueError for other times, or where the network has no log-variance head.
    Source: Karras et al. 2023 (arXiv 2312.02696) eq. 21; Lin et al. 2025 (arXiv 2512.11831).
    """

    inner: Loss = Squared()
    of: Literal["t, r", "t"] = "t, r"
    template: ClassVar[dict[str, str]] = {"weight": "{weight}, learned e^{{−ℓ({of})}}"}
    cites: ClassVar[tuple[str, ...]] = ("karras2024analyzing", "lin2025design")

    @property
    def learned(self) -> str:
        return self.of

    def __post_init__(self) -> None:
        if self.of not in ("t, r", "t"):
            raise ValueError(f'LearnedVariance(of={self.of!r}): expected "t, r" or "t"')

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        log_variance = _learned(self, regression)
        return torch.exp(-log_variance) * self.inner(regression, point) + log_variance


@dataclass(frozen=True)
class LearnedCauchy(Loss):
    """ln(e^{−ℓ} m + c) + ℓ = ln(m + c e^ℓ): the gradient of m is divided by m + c e^ℓ, so that outliers weigh little.

    ∂/∂ℓ = c e^ℓ/(m + c e^ℓ) is positive: ℓ only falls, ever more slowly, from c beside m towards ln m alone.

    Args:
        inner: m.
        eps: c.
        of: the times that ℓ is a function of, as of `LearnedVariance`.

    Raises: ValueError for a c that is not positive, other times, or where the network has no log-variance head.
    Source: Lee et al. 2025 (arXiv 2510.24474), and its code (kyungmnlee/dmf): c = 0.01, m the mean squared error.
    """

    inner: Loss = Squared()
    eps: float = 0.01
    of: Literal["t, r", "t"] = "t, r"
    template: ClassVar[dict[str, str]] = {"weight": "{weight}, 1/(m + {eps:g} e^ℓ), ℓ({of}) learned"}
    cites: ClassVar[tuple[str, ...]] = ("lee2025decoupled",)

    def __post_init__(self) -> None:
        if self.of not in ("t, r", "t"):
            raise ValueError(f'LearnedCauchy(of={self.of!r}): expected "t, r" or "t"')
        if not self.eps > 0:
            raise ValueError(f"LearnedCauchy(eps={self.eps}): a positive number is expected, such as 0.01")

    @property
    def learned(self) -> str:
        return self.of

    @property
    def error_power(self) -> float:
        return 1.0

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        log_variance = _learned(self, regression)
        return torch.log(self.inner(regression, point) + self.eps * torch.exp(log_variance))


def _learned(loss: Loss, regression: Regression) -> Tensor:
    """Return ℓ of the network.

    Raises: ValueError where it has none.
    """
    if regression.log_variance is None:
        raise ValueError(
            f"{type(loss).__name__} needs a network with log_variance(t, r): build it with log_variance=True, or wrap "
            "it in networks.WithLogVariance(network)"
        )
    return regression.log_variance


def _wide(point: Point) -> tuple[Tensor, Tensor]:
    """Return (t, s) in float32 or wider."""
    wide = torch.promote_types(point.t.dtype, torch.float32)
    return point.t.to(wide), point.s.to(wide)


def _inverse(step: Tensor) -> Tensor:
    """Return 1/step, and 1 where there is none: rows whose t was raised to s, which have no error to weigh."""
    return torch.where(step > 0, 1 / step, 1.0)


def _over_step(point: Point) -> Tensor:
    t, s = _wide(point)
    return _inverse(t - s)


def _over_levels(point: Point) -> Tensor:
    t, s = _wide(point)
    path = point.path
    return _inverse(path.sigma(t) / path.alpha(t) - path.sigma(s) / path.alpha(s))


def share_of_way(point: Point) -> Tensor:
    """Return (t − s)/(t − r) of each row, (batch,) in float32 or wider; 1 where the step has no length."""
    t, s = _wide(point)
    step, way = t - s, t - point.r.to(t)
    return torch.where(step > 0, step / torch.where(way > 0, way, 1.0), 1.0)


def jump_rows(point: Point) -> Tensor:
    """Return which rows have r < t, (batch,)."""
    return torch.arange(len(point), device=point.t.device) < point.num_jumps


def weight_in_words(inner: Loss, name: str) -> str:
    """Return a template of a weight, after that of the loss inside where that has one."""
    return name if inner.template.get("weight", "1") == "1" else f"{{weight}} · {name}"


LEAST = 1e-4
"""The smallest ratio of signal to noise that weighs a row."""


def _signal_to_noise(point: Point) -> Tensor:
    t, _ = _wide(point)
    ratio = point.path.alpha(t) / (point.path.noise_scale * point.path.sigma(t))
    return ratio.clamp_min(
        LEAST
    )  # at full noise it is 0, or less by rounding, and a learned weight would run away


def _equilibrium(point: Point) -> Tensor:
    t, r = point.t, point.r
    length = (t - r).to(torch.promote_types(t.dtype, torch.float32))
    return 1 / ((1 + length / 2) * torch.sqrt(1 + length.square()))


def _tangents(point: Point) -> Tensor:
    t, _ = _wide(point)
    return torch.rsqrt(torch.tan(t) - torch.tan(point.r.to(t)) + 1)


def _min_snr(point: Point) -> Tensor:
    t, _ = _wide(point)
    path = point.path
    signal, noise = path.alpha(t).square(), (path.noise_scale * path.sigma(t)).square()
    return torch.minimum(signal, 5 * noise) / (signal + noise)


TANGENTS = "1/sqrt(tan(t) - tan(r) + 1)"
WEIGHTS: dict[str, Callable[[Point], Tensor]] = {
    "1/(t - s)": _over_step,
    "1/(level(t) - level(s))": _over_levels,
    "(t - s)/(t - r)": share_of_way,
    "alpha/(kappa sigma)": _signal_to_noise,
    "min(SNR, 5)/(SNR + 1)": _min_snr,
    "temporal equilibrium": _equilibrium,
    TANGENTS: _tangents,
}
"""Weights by the names that `Weighted` knows them by: point → (batch,); level = σ/α, which is t on `VEPath`."""


_STEPS = ("1/(t - s)", "1/(level(t) - level(s))", "(t - s)/(t - r)")
"""Weights by the step t → s, of the rows r < t alone."""
_DIAGONAL = ("min(SNR, 5)/(SNR + 1)",)
"""Weights of the rows r = t alone."""
_PAPERS = {
    "alpha/(kappa sigma)": ("lu2024simplifying",),
    "(t - s)/(t - r)": ("zhang2025alphaflow",),
    "min(SNR, 5)/(SNR + 1)": ("hang2023efficient",),
    "temporal equilibrium": ("tu2026temporal",),
    TANGENTS: ("wang2025transition",),
}


@dataclass(frozen=True)
class Weighted(Loss):
    """w m, where m is another loss and the weight w of a row is known by its name.

    | by                        | w                                      | rows  | published for           |
    |---------------------------|----------------------------------------|-------|-------------------------|
    | "1/(t - s)"               | 1/(t − s)                              | r < t | iCT, ECT                |
    | "1/(level(t) - level(s))" | the same in levels σ/α                 | r < t |                         |
    | "(t - s)/(t - r)"         | the share of the way that the step is  | r < t | α-Flow                  |
    | "alpha/(kappa sigma)"     | 1/(κ tan θ) at angle θ of `TrigPath`   | all   | sCT                     |
    | "min(SNR, 5)/(SNR + 1)"   | SNR = α²/(κσ)²                         | r = t | v-prediction, min-SNR   |
    | "temporal equilibrium"    | 1/((1 + d/2) √(1 + d²)), d = t − r     | all   | TEMF                    |
    | "1/sqrt(tan(t) - tan(r) + 1)" | as it says, for times in [0, 1]    | all   | TiM, with σ_d = 1       |

    Rows that a weight is not for have w = 1.

    Raises: ValueError for an unknown weight, or around a learned one.
    Source: Song and Dhariwal 2023 (arXiv 2310.14189) for 1/(t − s); Lu and Song 2024 (arXiv 2410.11081) for
    1/(σ_d tan θ); Zhang et al. 2025 (arXiv 2510.20771) for (t − s)/(t − r); Hang et al. 2023 (arXiv 2303.09556),
    min-SNR for velocities with γ = 5; Tu et al. 2026 (CVPR) for the temporal equilibrium; Wang et al. 2025
    (arXiv 2509.04394) for the tangents, and its code.
    """

    inner: Loss = Squared()
    by: str = "1/(t - s)"

    def __post_init__(self) -> None:
        if self.by not in WEIGHTS:
            raise ValueError(f"Weighted(by={self.by!r}): unknown weight{suggest(self.by, WEIGHTS)}")
        if self.inner.learned:
            raise ValueError(
                f'Weighted(LearnedVariance(…), by="{self.by}") would weigh ℓ as well: use '
                f'LearnedVariance(Weighted(…, by="{self.by}"))'
            )

    @property
    def cites(self) -> tuple[str, ...]:
        """The paper that the weight is from."""
        return _PAPERS.get(self.by, ("song2023improved",))

    @property
    def template(self) -> dict[str, str]:
        """The weight, after that of the loss inside where that has one."""
        return {
            "weight": weight_in_words(self.inner, "{by}" + (" where r = t" if self.by in _DIAGONAL else ""))
        }

    @property
    def horizon(self) -> float | None:
        return self.inner.horizon

    def refusal(self, o: Composition) -> str | None:
        if self.by in _STEPS and not o.target.asks_step:
            return (
                f'Weighted(by="{self.by}") weighs by the step t → s, and that of {type(o.target).__name__} is '
                'infinitely short: use by="alpha/(kappa sigma)", or a discrete target such as Consistency()'
            )
        if self.by == TANGENTS and o.path.t_max > 1:
            return (
                f'Weighted(by="{self.by}") takes tangents of times in [0, 1], and those of {type(o.path).__name__} are '
                'noise levels: use by="temporal equilibrium", or the loss inside it'
            )
        return None

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        value, weight = self.inner(regression, point), WEIGHTS[self.by](point)
        if self.by in _STEPS:
            weight = torch.where(jump_rows(point), weight, 1.0)
        elif self.by in _DIAGONAL:
            weight = torch.where(jump_rows(point), 1.0, weight)
        return weight.to(value) * value


@dataclass(frozen=True)
class Boundary(Loss):
    """w_b · the mean of a loss over the rows on a boundary + its mean over the others, as weights of the rows.

    A share p of the rows is at t = boundary; those have weight w_b/p and the others 1/(1 − p), so that the mean over
    rows is that sum, also where a batch is spread over processes.

    Args:
        inner: the loss of a row.
        boundary, share: the time and p, those of the time law.
        weight: w_b.

    Raises: ValueError for a weight that is not positive, or a share out of (0, 1).
    Source: Lee et al. 2024 (arXiv 2410.14895) and the code of NVlabs/FastGen: w_b = 0.1, a quarter of the rows.
    """

    inner: Loss = Squared()
    boundary: float = 1.0
    share: float = 0.25
    weight: float = 0.1
    template: ClassVar[dict[str, str]] = {
        "weight": "{weight}; rows at t = {boundary:g} as a set of their own"
    }
    cites: ClassVar[tuple[str, ...]] = ("lee2024truncated",)

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"Boundary(weight={self.weight}): a positive weight is expected")
        if not 0 < self.share < 1:
            raise ValueError(f"Boundary(share={self.share}): a share of the rows in (0, 1) is expected")

    def refusal(self, o: Composition) -> str | None:
        if self.boundary != o.times.boundary:
            found = "none" if o.times.boundary is None else f"{o.times.boundary:g}"
            return (
                f"Boundary(boundary={self.boundary:g}) weighs the rows on the boundary of the times, which is {found}: "
                "give both the same"
            )
        if self.share != o.times.boundary_share:
            return (
                f"Boundary(share={self.share:g}) counts on that share of the rows on the boundary, which "
                f"{type(o.times).__name__} has {o.times.boundary_share}: give both the same"
            )
        return None

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        here = (point.t - self.boundary).abs() <= 1e-6 * self.boundary
        loss = self.inner(regression, point)
        return torch.where(here, self.weight / self.share * loss, 1 / (1 - self.share) * loss)
