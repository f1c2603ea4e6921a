"""Per-sample distances and weights: (regression, point) → (batch,). All arithmetic is in fp32 or wider.

| loss            | formula, Δ = prediction − target                  | source                               |
|-----------------|---------------------------------------------------|--------------------------------------|
| Squared         | ‖Δ‖²                                              | —                                    |
| PseudoHuber     | √(‖Δ‖² + c²) − c                                  | Song and Dhariwal 2023 (iCT)         |
| AdaptivePower   | ‖Δ‖² / sg(‖Δ‖² + c)^p                             | Geng et al. 2025 (MeanFlow)          |
| LearnedVariance | e^{−ℓ} m + ℓ, m any of the above, ℓ(t, r) learned | Karras et al. 2023 (EDM2); ESC       |
| Norm            | ‖Δ‖                                               | Geng et al. 2024 (ECT)               |
| Weighted        | w(t, s) m, m any of these, w by name              | Song and Dhariwal 2023 (iCT)         |
| Perceptual      | Σ_l mean Σ_c w_lc (â_lc − b̂_lc)², of features     | Zhang et al. 2018 (LPIPS)            |
| ScoreIdentity   | w ⟨G, (D_T − x) − α G⟩, G = D_T − D_ψ             | Zhou et al. 2024 (SiD)               |
| MomentMatching  | w MMD² of the points of a group of rows           | Zhou et al. 2025 (IMM)               |
| Boundary        | rows on a boundary weighed as a set of their own  | Lee et al. 2024 (TCM)                |

`template` says the metric and the weight in words, of its fields and of what `inner` says.
`reduce` says whether ‖Δ‖² sums or averages over the dimensions of a row: c changes its meaning by a factor D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from flowleap.neighbors import neighbors
from flowleap.networks import perceptual
from flowleap.paths import Path
from flowleap.point import Point, Regression
from flowleap.tensors import Time, squared_norm

__all__ = [
    "WEIGHTS",
    "AdaptivePower",
    "Boundary",
    "LearnedVariance",
    "Loss",
    "MomentMatching",
    "Norm",
    "Perceptual",
    "PseudoHuber",
    "ScoreIdentity",
    "Squared",
    "Weighted",
]


@runtime_checkable
class Loss(Protocol):
    """A per-sample loss."""

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        """Return (batch,)."""
        ...


def _distance(regression: Regression, reduce: str) -> Tensor:
    delta = regression.prediction - regression.target
    wide = torch.promote_types(delta.dtype, torch.float32)
    return squared_norm(delta.to(wide), reduce)


@dataclass(frozen=True)
class Squared:
    """‖Δ‖², summed or averaged over the dimensions."""

    reduce: str = "mean"
    template: ClassVar[dict[str, str]] = {"loss metric": "ℓ2, {reduce}", "weight": "1"}

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        return _distance(regression, self.reduce)


@dataclass(frozen=True)
class PseudoHuber:
    """√(‖Δ‖² + c²) − c; c=None means c = 0.00054 √D with D the dimensions of a row.

    Source: Song and Dhariwal 2023 (arXiv 2310.14189), the pseudo-Huber metric and its c = 0.00054 √D.
    """

    c: float | None = None
    reduce: str = "sum"
    template: ClassVar[dict[str, str]] = {"loss metric": "pseudo-Huber, {reduce}", "weight": "1"}
    cites: ClassVar[tuple[str, ...]] = ("song2023improved",)

    def __post_init__(self) -> None:
        if self.c is not None and not self.c > 0:
            raise ValueError(f"PseudoHuber(c={self.c}): c must be positive, or None for 0.00054 √D")

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        c = 0.00054 * regression.target[0].numel() ** 0.5 if self.c is None else self.c
        return torch.sqrt(_distance(regression, self.reduce) + c**2) - c


@dataclass(frozen=True)
class Norm:
    """‖Δ‖, whose gradient has length 1 however small Δ is, and is 0 at Δ = 0.

    Source: Geng et al. 2024 (arXiv 2406.14548), the metric of easy consistency tuning with c = 0.
    """

    reduce: str = "sum"
    template: ClassVar[dict[str, str]] = {"loss metric": "‖Δ‖, {reduce}", "weight": "1"}
    cites: ClassVar[tuple[str, ...]] = ("geng2024consistency",)

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        distance = _distance(regression, self.reduce)
        apart = distance > 0
        return torch.where(apart, distance, torch.ones_like(distance)).sqrt() * apart


@dataclass(frozen=True)
class AdaptivePower:
    """‖Δ‖² / sg(‖Δ‖² + c)^p: p = 0 is the squared error, p = ½ like pseudo-Huber, p = 1 a normalized gradient.

    At p = 1 the value sits at 1 whatever the network does: watch `Regression.raw` instead.
    Source: Geng et al. 2025 (arXiv 2505.13447) section 4.3 "loss metrics", weight 1/(‖Δ‖² + c)^p.
    """

    power: float = 1.0
    eps: float = 1e-2
    reduce: str = "sum"
    template: ClassVar[dict[str, str]] = {
        "loss metric": "ℓ2, {reduce}",
        "weight": "1 / (‖Δ‖² + {eps:g})^{power:g}",
    }
    cites: ClassVar[tuple[str, ...]] = ("geng2025mean",)

    def __post_init__(self) -> None:
        if self.power < 0 or not self.eps > 0:
            raise ValueError(
                f"AdaptivePower(power={self.power}, eps={self.eps}): power ≥ 0 and eps > 0 are expected"
            )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        distance = _distance(regression, self.reduce)
        return distance / (distance.detach() + self.eps) ** self.power


@dataclass(frozen=True)
class LearnedVariance:
    """e^{−ℓ} m + ℓ: a weight the network learns, optimal at ℓ = ln E[m | t, r].

    ∂/∂ℓ = 1 − e^{−ℓ} m. Around AdaptivePower at p = 1 (m ≈ 1) it is nearly inert, ℓ* ≈ 0.

    Raises: ValueError where the network has no log-variance head.
    Source: Karras et al. 2023 (arXiv 2312.02696) eq. 21; Lin et al. 2025 (arXiv 2512.11831).
    """

    inner: Loss = Squared()
    template: ClassVar[dict[str, str]] = {"weight": "{weight}, learned e^{{−ℓ(t, r)}}"}
    cites: ClassVar[tuple[str, ...]] = ("karras2024analyzing", "lin2025design")

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        log_variance = regression.log_variance
        if log_variance is None:
            raise ValueError(
                "LearnedVariance needs a network with log_variance(t, r): build it with log_variance=True, or wrap it "
                "in networks.WithLogVariance(network)"
            )
        return torch.exp(-log_variance) * self.inner(regression, point) + log_variance


@dataclass(frozen=True)
class ScoreIdentity:
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
    reduce: str = "mean"
    cites: ClassVar[tuple[str, ...]] = ("zhou2024score",)

    def __post_init__(self) -> None:
        if self.reduce not in ("sum", "mean"):
            raise ValueError(
                f'ScoreIdentity(reduce={self.reduce!r}): expected "sum" or "mean" over the dimensions of a row'
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


def _wide(point: Point) -> tuple[Tensor, Tensor]:
    """Return (t, s) in float32 or wider."""
    wide = torch.promote_types(point.t.dtype, torch.float32)
    return point.t.to(wide), point.s.to(wide)


def _over_step(point: Point) -> Tensor:
    t, s = _wide(point)
    return 1 / (t - s)


def _over_levels(point: Point) -> Tensor:
    t, s = _wide(point)
    path = point.path
    return 1 / (path.sigma(t) / path.alpha(t) - path.sigma(s) / path.alpha(s))


def _signal_to_noise(point: Point) -> Tensor:
    t, _ = _wide(point)
    return point.path.alpha(t) / (point.path.noise_scale * point.path.sigma(t))


WEIGHTS: dict[str, Callable[[Point], Tensor]] = {
    "1/(t - s)": _over_step,
    "1/(level(t) - level(s))": _over_levels,
    "alpha/(kappa sigma)": _signal_to_noise,
}
"""Weights by the names that `Weighted` knows them by: point → (batch,); level = σ/α, which is t on `VEPath`."""
_STEPS = ("1/(t - s)", "1/(level(t) - level(s))")


@dataclass(frozen=True)
class Weighted:
    """w(t, s) m, where m is another loss and w is known by its name; a weight by the step is 1 where r = t.

    Args:
        inner: m.
        by: "1/(t - s)", "1/(level(t) - level(s))" with level = σ/α, or "alpha/(kappa sigma)", which is 1/(κ tan θ) at
            angle θ of the trigonometric path.

    Raises: ValueError for an unknown weight, or around a learned one.
    Source: Song and Dhariwal 2023 (arXiv 2310.14189) for 1/(t − s); Lu and Song 2024 (arXiv 2410.11081) for
    1/(σ_d tan θ).
    """

    inner: Loss = Squared()
    by: str = "1/(t - s)"

    def __post_init__(self) -> None:
        if self.by not in WEIGHTS:
            raise ValueError(f"Weighted(by={self.by!r}): unknown weight{neighbors(self.by, WEIGHTS)}")
        if isinstance(self.inner, LearnedVariance):
            raise ValueError(
                f'Weighted(LearnedVariance(…), by="{self.by}") would weigh ℓ as well: use '
                f'LearnedVariance(Weighted(…, by="{self.by}"))'
            )

    @property
    def cites(self) -> tuple[str, ...]:
        """The paper that the weight is from."""
        return ("song2023improved",) if self.by in _STEPS else ("lu2024simplifying",)

    @property
    def template(self) -> dict[str, str]:
        """The weight, after that of the loss inside where that has one."""
        alone = getattr(self.inner, "template", {}).get("weight", "1") == "1"
        return {"weight": "{by}" if alone else "{weight} · {by}"}

    def refusal(self, target: object) -> str | None:
        """Return why this weight means nothing for a target, or None."""
        if self.by in _STEPS and getattr(target, "template", {}).get("model type", "").startswith(
            "continuous"
        ):
            return (
                f'Weighted(by="{self.by}") is infinite for {type(target).__name__}, whose step t → s is infinitely '
                'short: use by="alpha/(kappa sigma)", or a discrete target such as Consistency()'
            )
        return None

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        value, weight = self.inner(regression, point), WEIGHTS[self.by](point)
        if self.by in _STEPS:
            jumps = torch.arange(len(point), device=point.t.device) < point.off
            weight = torch.where(jumps, weight, 1.0)
        return weight.to(value) * value


@dataclass(frozen=True)
class Perceptual:
    """LPIPS: d(a, b) = Σ_l mean_hw Σ_c w_lc (â_lc − b̂_lc)², â, b̂ feature maps of unit length over channels.

    It compares images in [−1, 1], so it needs a target that compares points, such as Consistency(space="map"). The
    weights are read when the loss is first asked for, once per device, and are no part of the value.

    Args:
        file: the weights of the network, as .safetensors, .pth (read without running code) or .npz, named as in
            torchvision or as in the files of LPIPS; None where `features` are given.
        linear: a second file with the w of LPIPS; None where `file` holds them too, "equal" for w = 1.
        net: "vgg" (VGG16 after 5 blocks) or "squeeze" (SqueezeNet 1.0 after 7, which LPIPS has no w for).
        size: images are resized to this side before, bilinearly; None for as they are.
        features: any callable from images (n, 3, height, width) to a list of feature maps, in place of a file, with
            w = 1; such a value is no plain data.

    Raises: ValueError for an unknown network, neither or both of a file and features, points in place of images, or
        tensors that are not those of the network; FileNotFoundError for a file that is not there.
    Source: Zhang et al. 2018 (arXiv 1801.03924), and its code (richzhang/PerceptualSimilarity) for the scale of the
    input and for "equal"; the resize to 224 is that of Song et al. 2023, openai/consistency_models.
    """

    file: str | None
    linear: str | None = None
    net: str = "vgg"
    size: int | None = 224
    features: Callable[[Tensor], Sequence[Tensor]] | None = field(default=None, repr=False)
    cites: ClassVar[tuple[str, ...]] = ("zhang2018unreasonable",)

    def __post_init__(self) -> None:
        if self.net not in perceptual.NETWORKS:
            raise ValueError(
                f"Perceptual(net={self.net!r}): unknown network{neighbors(self.net, perceptual.NETWORKS)}"
            )
        if (self.file is None) == (self.features is None):
            raise ValueError(
                f"Perceptual(file={self.file!r}, features={self.features!r}): give one of them, such as "
                'file="lpips_vgg.pth", the weights of a network, or a feature module of your own'
            )
        if self.size is not None and self.size < 1:
            raise ValueError(
                f"Perceptual(size={self.size}): a side in pixels is expected, or None to leave images"
            )

    @property
    def template(self) -> dict[str, str]:
        """The metric by what gives the features."""
        name = "features of a module" if self.features is not None else self.net.upper()
        return {"loss metric": f"LPIPS, {name}", "weight": "1"}

    def refusal(self, target: object) -> str | None:
        """Return why a target has no images to compare, or None."""
        if getattr(target, "space", "output") == "map":
            return None
        return (
            f"Perceptual compares images, and {type(target).__name__} compares outputs of the network: use "
            'Consistency(space="map"), or another loss'
        )

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        if regression.space != "map" or point.off < len(point):
            raise ValueError(
                "Perceptual compares images, and here are rows that compare outputs of the network (r = t, or a target "
                'of outputs): use Consistency(space="map") and times with r < t, such as NoiseGrid()'
            )
        a, b = (self._images(each) for each in (regression.prediction, regression.target))
        if self.features is not None:
            return perceptual.distance(self.features(a), self.features(b))
        assert self.file is not None
        network = perceptual.load(self.file, self.linear, self.net, a.device, a.dtype)
        if min(a.shape[-2:]) < network.least:
            raise ValueError(
                f"Perceptual(net={self.net!r}) needs images of at least {network.least} a side, and these are "
                f"{a.shape[-2]} × {a.shape[-1]}: give a size, such as 224"
            )
        return perceptual.distance(network(a), network(b), network.weights)

    def _images(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"Perceptual compares images of 1 or 3 channels, and the data has shape {tuple(x.shape[1:])}: use "
                "Squared() or PseudoHuber()"
            )
        x = x.to(torch.promote_types(x.dtype, torch.float32)).expand(-1, 3, -1, -1)
        if self.size is None or x.shape[-2:] == (self.size, self.size):
            return x
        return functional.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class MomentMatching:
    """w_out MMD²: how far the points of a group of rows are, as a set, from the points that they are held to.

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
    asks_groups: ClassVar[bool] = True
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

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        size = _group_size(point.group, len(point))
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
        squares = (first[:, :, None] - second[:, None]).square().sum(3)
        distance = squares.clamp_min(EQUAL**2).sqrt() * (scale / first.shape[2])
        exponent = distance if self.kernel == "laplace" else distance.square() / 2
        return torch.exp(-exponent).mean((1, 2))


EQUAL = 1e-8
"""Points nearer to one another than this are equal, and no gradient runs between them."""


def _group_size(group: Tensor | None, rows: int) -> int:
    """Return how many rows make a group; those of a group are neighbors, and all groups are alike.

    Raises: ValueError where they are not.
    """
    if group is None:
        return 1
    group = group.cpu()
    count = group.unique_consecutive(return_counts=True)[1]
    size = int(count[0])
    if rows != len(group) or bool((count != size).any()) or len(group.unique()) != len(count):
        raise ValueError(
            f"groups of {count.tolist()} rows of {rows}: groups of neighboring rows, all of the same number, are "
            "expected"
        )
    return size


@dataclass(frozen=True)
class Boundary:
    """w_b · the mean of a loss over the rows on a boundary + its mean over the others, as weights of the rows.

    Of B rows, N of them at t = boundary, those have weight w_b B/N and the others B/(B − N), so that the mean over rows
    is that sum. Where a batch holds one kind only, the weight of that kind alone is w_b or 1.

    Args:
        inner: the loss of a row.
        boundary: the time, that of the time law.
        weight: w_b.

    Raises: ValueError for a weight that is not positive.
    Source: Lee et al. 2024 (arXiv 2410.14895) and the code of NVlabs/FastGen: w_b = 0.1, a quarter of the rows.
    """

    inner: Loss = Squared()
    boundary: float = 1.0
    weight: float = 0.1
    template: ClassVar[dict[str, str]] = {
        "weight": "{weight}; rows at t = {boundary:g} as a set of their own"
    }
    cites: ClassVar[tuple[str, ...]] = ("lee2024truncated",)

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"Boundary(weight={self.weight}): a positive weight is expected")

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        here = (point.t - self.boundary).abs() <= 1e-6 * self.boundary
        share = here.to(point.t.dtype).mean()
        weight = torch.where(here, self.weight / share, 1 / (1 - share))
        return weight * self.inner(regression, point)
