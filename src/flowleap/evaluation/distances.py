"""Distances between samples and a reference: between fitted Gaussians, and to the nearest training row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOR_ROWS = 2000  # real rows whose own nearest neighbor is looked up; the whole set where it is smaller
CHUNK = 512  # rows of one block of pairwise distances


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of feature rows, in float64.

    Shapes: mean (d,), covariance (d, d); `count` rows went into them.
    """

    mean: Tensor
    covariance: Tensor
    count: int


def statistics(rows: Tensor) -> Statistics:
    """The unbiased mean and covariance of feature rows: μ = Σ f / n, Σ = Σ (f − μ)(f − μ)ᵀ / (n − 1).

    Shapes: (n, d) -> mean (d,), covariance (d, d).
    Raises: ValueError where n ≤ d, since the covariance is then singular by construction.
    """
    count, dims = rows.shape
    if count <= dims:
        raise ValueError(
            f"the covariance of {dims} features needs more than {dims} samples, got {count}: "
            f"ask for at least {dims + 1} (1000 is the usual protocol)"
        )
    rows = rows.double()
    mean = rows.mean(dim=0)
    centered = rows - mean
    return Statistics(mean, centered.T @ centered / (count - 1), count)


def symmetric_root(matrix: Tensor) -> Tensor:
    """The symmetric root V √Λ Vᵀ of a positive semi-definite matrix; eigenvalues below 0 are rounding.

    Shapes: (d, d) -> (d, d).
    """
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T


def frechet(first: Statistics, second: Statistics) -> float:
    """The squared Wasserstein-2 distance between the Gaussians of two sets of features.

    |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½, in float64; every root is of a symmetric matrix.
    Raises: ValueError where the numbers of features differ.
    Source: Dowson and Landau, J. Multivariate Analysis 12, 1982; Heusel et al. 2017 (arXiv 1706.08500), FID.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"statistics of {len(first.mean)} features cannot be compared with {len(second.mean)} features: "
            "compute both with the same features"
        )
    root = symmetric_root(first.covariance)
    cross = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0.0).sqrt().sum()
    spread = first.covariance.trace() + second.covariance.trace() - 2.0 * cross
    return max(0.0, float((first.mean - second.mean).square().sum() + spread))


def halves(rows: Tensor, order: Tensor) -> float:
    """The Fréchet distance between two halves of one set: the floor below which differences mean nothing.

    Shapes: rows (n, d), order (n,), a permutation. Raises: ValueError where half the set is too small.
    """
    middle = len(rows) // 2
    return frechet(statistics(rows[order[:middle]]), statistics(rows[order[middle:]]))


def nearest(rows: Tensor, reference: Tensor, own: Tensor | None = None) -> Tensor:
    """The Euclidean distance of every row to its nearest reference row; row i ignores reference row own[i].

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


def neighbor_distance(reference: Tensor, order: Tensor) -> float:
    """The mean distance of real rows to their nearest other real row, over the first rows of a permutation.

    Shapes: reference (m, d), order (m,). At most `NEIGHBOR_ROWS` rows are looked up, against the whole set.
    """
    chosen = order[:NEIGHBOR_ROWS]
    return float(nearest(reference[chosen], reference, own=chosen).mean())


def nearest_ratio(rows: Tensor, reference: Tensor, real: float) -> float | None:
    """How far samples lie from the training set, in units of the real data's own nearest-neighbor distance.

    mean min_j |f_i − r_j| / real: about 1 for fresh data, below 0.8 a smell of memorizing. None for real = 0.
    Shapes: rows (n, d), reference (m, d).
    """
    return float(nearest(rows, reference).mean()) / real if real > 0.0 else None
