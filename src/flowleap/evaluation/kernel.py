"""The kernel distance: a maximum mean discrepancy over all pairs of rows, with its standard error."""

from __future__ import annotations

import torch
from torch import Tensor

from flowleap.evaluation.distances import pair

CHUNK = 512  # rows of one block of kernel values


def kernel_distance(rows: Tensor, reference_rows: Tensor) -> tuple[float, float]:
    """The unbiased squared maximum mean discrepancy with the kernel k(x, y) = (x·y/d + 1)³, and its standard error.

        Σ_{i≠j} k(x_i, x_j) / n(n − 1) + Σ_{i≠j} k(y_i, y_j) / m(m − 1) − 2 Σ_{i,j} k(x_i, y_j) / nm

    All pairs are used once, in float64; subsets drawn at random have this mean, and add their own noise. Samples of
    the law of the reference have mean 0, so that a number may be below 0. The error is the jackknife's over the
    rows of both sets, for which the sums of every row are enough. It is right to first order; where both laws are
    the same, nothing is left of that order, and the error is too large, by up to √2.

    Shapes: rows (n, d), reference_rows (m, d), n and m at least 3.
    Raises: ValueError for other shapes or rows that are not finite.
    Source: Bińkowski et al. 2018 (arXiv 1801.01401), the Kernel Inception Distance.
    """
    rows, reference_rows = pair(rows, reference_rows, least=3)
    n, m = len(rows), len(reference_rows)
    within, within_reference = _within(rows), _within(reference_rows)
    between, between_reference = _between(rows, reference_rows)
    own, other, cross = within.sum(), within_reference.sum(), between.sum()

    def distance(own: Tensor, n: int, other: Tensor, m: int, cross: Tensor) -> Tensor:
        return own / (n * (n - 1)) + other / (m * (m - 1)) - 2.0 * cross / (n * m)

    # Every row is in two of the ordered pairs of its own set.
    without = distance(own - 2.0 * within, n - 1, other, m, cross - between)
    without_reference = distance(own, n, other - 2.0 * within_reference, m - 1, cross - between_reference)
    variance = _jackknife(without) + _jackknife(without_reference)
    return float(distance(own, n, other, m, cross)), float(variance.sqrt())


def _jackknife(without: Tensor) -> Tensor:
    """The variance of a number, from its values without each row in turn."""
    return (len(without) - 1) * without.var(correction=0)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return torch.addmm(first.new_ones(1), first, second.T, alpha=1.0 / first.shape[1]).pow_(3)


def _within(rows: Tensor) -> Tensor:
    """Σ_{j≠i} k(x_i, x_j) for every row; every pair is computed once.

    Shapes: (n, d) -> (n,).
    """
    sums = rows.new_zeros(len(rows))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        values = _kernel(chunk, rows[start:]).fill_diagonal_(0.0)
        sums[start : start + CHUNK] += values.sum(dim=1)
        sums[start + CHUNK :] += values[:, CHUNK:].sum(dim=0)
    return sums


def _between(rows: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_j k(x_i, y_j) for every row, and Σ_i k(x_i, y_j) for every reference row.

    Shapes: (n, d), (m, d) -> (n,), (m,).
    """
    sums, columns = [], rows.new_zeros(len(reference))
    for chunk in rows.split(CHUNK):
        values = _kernel(chunk, reference)
        sums.append(values.sum(dim=1))
        columns += values.sum(dim=0)
    return torch.cat(sums), columns
