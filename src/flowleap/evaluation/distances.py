"""Fréchet distance with its interval, and distances to the nearest row."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from flowleap.evaluation.moments import Moments, Statistics
from flowleap.randomness import generator

NEIGHBOR_ROWS = 2000  # real rows whose nearest other row is searched, at most
CHUNK = 512  # rows of one block of pairwise distances
CLOSE = 1e-5  # below this share of the traces their difference loses digits, and another formula is used


def statistics(rows: Tensor) -> Statistics:
    """The unbiased mean and covariance of feature rows: μ = Σ f / n, Σ = Σ (f − μ)(f − μ)ᵀ / (n − 1).

    Shapes: (n, d) -> mean (d,), covariance (d, d).
    Raises: ValueError where n ≤ d, since the covariance is then singular by construction, or rows are not finite.
    """
    moments = Moments()
    moments.add(rows)
    return moments.statistics()


def checked(stored: Statistics) -> Statistics:
    """Return statistics of other origin in float64, exactly symmetric.

    Singular covariances pass, as of pixels that never change, and the rounding of float32 files.
    Raises: ValueError for shapes that do not fit, numbers that are not finite, a covariance that is not symmetric
        or has eigenvalues clearly below 0, and for a count that is known and not above the number of features.
    """
    mean, covariance = stored.mean.double(), stored.covariance.double()
    dims = mean.numel()
    if mean.ndim != 1 or covariance.shape != (dims, dims):
        raise ValueError(
            f"mean of shape {tuple(mean.shape)} and covariance of shape {tuple(covariance.shape)}: "
            "(d,) and (d, d) are expected"
        )
    bad = int((~mean.isfinite()).sum()), int((~covariance.isfinite()).sum())
    if any(bad):
        raise ValueError(
            f"{bad[0]} numbers of the mean and {bad[1]} of the covariance are not finite: "
            "compute the statistics again"
        )
    if 0 < stored.count <= dims:
        raise ValueError(
            f"statistics of {dims} features were made from {stored.count} samples, "
            f"and need at least {dims + 1}: compute them from more"
        )
    uneven = float((covariance - covariance.T).abs().max()) / max(float(covariance.abs().max()), 1e-300)
    if uneven > 1e-5:
        raise ValueError(
            f"the covariance is not symmetric, by {uneven:.1e} of its largest entry: "
            "this is no covariance, or the file is damaged"
        )
    covariance = (covariance + covariance.T) / 2
    values = torch.linalg.eigvalsh(covariance)
    if float(values[0]) < -1e-5 * float(values[-1].abs()):
        raise ValueError(
            f"the covariance has eigenvalues from {float(values[0]):.3g} to {float(values[-1]):.3g}, and none "
            "may be below 0: this is no covariance, or the file is damaged"
        )
    return Statistics(mean, covariance, stored.count)


def frechet(first: Statistics, second: Statistics) -> float:
    """The squared Wasserstein-2 distance between the Gaussians of two sets of features.

    |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½, in float64. With Σ₁ = A Aᵀ and Σ₂ = B Bᵀ the last trace is
    the sum of the singular values of Aᵀ B = U S Wᵀ, which, unlike roots of eigenvalues, keeps its digits where a
    covariance is singular. Close to 0 the traces cancel, and |A − B W Uᵀ|², the same number, is computed instead.
    Raises: ValueError where the numbers of features differ.
    Source: Dowson and Landau, J. Multivariate Analysis 12, 1982; Heusel et al. 2017 (arXiv 1706.08500), FID.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"statistics of {len(first.mean)} features cannot be compared with {len(second.mean)} features: "
            "compute both with the same features"
        )
    shift = (first.mean - second.mean).square().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    cross = first.factor.T @ second.factor
    spread = traces - 2.0 * torch.linalg.svdvals(cross).sum()
    if float(spread) < CLOSE * float(traces):
        left, _, right = torch.linalg.svd(cross)
        spread = (first.factor - second.factor @ (left @ right).T).square().sum()
    return float(shift + spread)


def interval(
    rows: Tensor, reference: Statistics, seed: int = 0, replicates: int = 200, level: float = 0.95
) -> tuple[float, float]:
    """Return a bootstrap interval d ± z s of the Fréchet distance d of samples.

    Rows are drawn again with replacement, w_i / n being the share of row i, and s is the standard deviation of

        d' = Σ w_i q(f_i − μ) / n + const,   q(y) = yᵀ(1 − T) y + 2 (μ − μ_r)·y,   T the optimal map of Σ to Σ_r

    which is the distance of the drawn set to first order in w. The interval is centered at d, not at the mean of the
    d': distances of one sample count share a bias, about d_n − d_∞, which drawing again would add once more. For the
    same reason the distances of the drawn sets themselves spread twice too far near the floor of d; to first order s
    is right far from it, and √2 too large at the floor.

    Shapes: rows (n, d). The same rows and seed give the same interval; it ends at 0 below.
    Raises: ValueError where n ≤ d, rows are not finite, or fewer than 2 replicates or another level than in (0, 1).
    Source: Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7, 1979.
    """
    if replicates < 2 or not 0.0 < level < 1.0:
        raise ValueError(
            f"{replicates} replicates at level {level}: at least 2, and a level between 0 and 1, are expected"
        )
    own, size = statistics(rows), len(rows)
    distance = frechet(own, reference)
    draws = torch.randint(size, (replicates, size), generator=generator(seed, "bootstrap"))
    weight = torch.stack([draw.bincount(minlength=size) for draw in draws]).double()
    reach = NormalDist().inv_cdf((1.0 + level) / 2.0)
    reach *= float((weight @ _influence(rows.cpu().double(), own, reference) / size).std())
    return max(0.0, distance - reach), distance + reach


def _influence(rows: Tensor, own: Statistics, reference: Statistics) -> Tensor:
    """The first-order share q of every row in the distance of all rows to the reference.

    With Σ_r = B Bᵀ and Bᵀ Σ B = W S² Wᵀ the optimal map is T = B W S⁻¹ Wᵀ Bᵀ; directions without samples add nothing.
    Shapes: (n, d) -> (n,).
    """
    centered = rows - own.mean
    seen = centered @ reference.factor
    values, vectors = torch.linalg.eigh(seen.T @ seen / (len(rows) - 1))
    inverse = torch.where(values > 1e-13 * values[-1], values, torch.inf).rsqrt()
    curved = centered.square().sum(dim=1) - (seen @ vectors).square() @ inverse
    return curved + 2.0 * centered @ (own.mean - reference.mean)


def halves(rows: Tensor, order: Tensor) -> float:
    """Return the Fréchet distance between two halves of one set, the floor of meaningful differences.

    Shapes: rows (n, d), order (n,), a permutation. Raises: ValueError where half the set is too small.
    """
    middle = len(rows) // 2
    return frechet(statistics(rows[order[:middle]]), statistics(rows[order[middle:]]))


def pair(rows: Tensor, reference: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Return two sets of rows in float64, checked.

    Shapes: rows (n, d), reference (m, d).
    Raises: ValueError for other shapes, fewer than `least` rows, or rows that are not finite.
    """
    if rows.ndim != 2 or reference.ndim != 2 or rows.shape[1] != reference.shape[1]:
        raise ValueError(
            f"rows of shape {tuple(rows.shape)} and reference rows of shape {tuple(reference.shape)}: "
            "(n, d) and (m, d) of the same features are expected"
        )
    for name, some in (("rows", rows), ("reference rows", reference)):
        if len(some) < least:
            raise ValueError(f"{len(some)} {name} are too few: at least {least} are needed")
        bad = int((~some.isfinite().all(dim=1)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(some)} {name} are not finite: look at the samples they are made from"
            )
    return rows.double(), reference.to(rows.device).double()


def nearest(rows: Tensor, reference: Tensor, own: Tensor | None = None) -> Tensor:
    """Return the Euclidean distance of every row to its nearest reference row other than own[i].

    Shapes: rows (n, d), reference (m, d), own (n,) or None -> (n,).
    """
    found = []
    for start in range(0, len(rows), CHUNK):
        stop = min(start + CHUNK, len(rows))
        distance = torch.cdist(rows[start:stop], reference)
        if own is not None:
            distance[torch.arange(stop - start), own[start:stop]] = torch.inf
        found.append(distance.min(dim=1).values)
    return torch.cat(found)


def spacing(references: Sequence[Tensor], order: Tensor) -> Tensor:
    """Return the distance of real rows to the nearest row of other data, for the first rows of a permutation.

    Args:
        references: the real rows, and the same rows seen in other ways, such as mirrored.

    Shapes: references (m, d) each, order (m,) -> (≤ `NEIGHBOR_ROWS`,), each against the whole sets.
    """
    chosen = order[:NEIGHBOR_ROWS]
    rows = references[0][chosen]
    return torch.stack([nearest(rows, other, own=chosen) for other in references]).amin(0)
