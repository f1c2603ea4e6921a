"""Optimal transport between two sets of rows: exactly in few dimensions, along random lines in many."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowleap.evaluation.distances import pair
from flowleap.randomness import generator

CAP = 2000
"""The largest number of points of each set in exact transport, which takes about a second."""
CHUNK = 64  # lines at a time


def sliced_wasserstein(rows: Tensor, reference_rows: Tensor, seed: int = 0, projections: int = 256) -> float:
    """The sliced Wasserstein-2 distance, the root of the mean of W₂² over random lines through 0.

    W₂² on a line is ∫₀¹ (Q_x(u) − Q_y(u))² du with the quantiles of both sets, exact for any two counts. A shift by
    δ is |δ|/√d away, in the mean over all lines.
    Shapes: rows (n, d), reference_rows (m, d).
    Raises: ValueError for other shapes, rows that are not finite, or no projections.
    Source: Rabin et al., Wasserstein barycenter and its application to texture mixing, SSVM 2011.
    """
    if projections < 1:
        raise ValueError(f"projections={projections}: at least 1 line is needed")
    rows, reference_rows = pair(rows, reference_rows)
    weight, first, second = _matched(len(rows), len(reference_rows), rows.device)
    total = 0.0
    for lines in directions(rows.shape[1], projections, seed).to(rows.device).split(CHUNK):
        left, right = (lines @ some.T for some in (rows, reference_rows))
        gap = left.sort(dim=1).values[:, first] - right.sort(dim=1).values[:, second]
        total += float((gap.square() @ weight).sum())
    return math.sqrt(total / projections)


def directions(dims: int, projections: int, seed: int) -> Tensor:
    """Unit vectors, uniform on the sphere.

    Shapes: (projections, dims), float64.
    """
    drawn = torch.randn(projections, dims, generator=generator(seed, "projections"), dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


def _matched(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces of (0, 1) on which the quantiles of n and of m points are both constant.

    Ends are counted in units of 1/nm, so that equal ones are equal.
    Shapes: three times (pieces,): length, index of the point of the first set, and of the second.
    """
    ends = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    start, length = ends[:-1], ends.diff()
    pieces = length.double() / (n * m), start // m, start // n
    return pieces[0].to(device), pieces[1].to(device), pieces[2].to(device)


def wasserstein2(points: Tensor, reference: Tensor, seed: int = 0, cap: int = CAP) -> float:
    """The exact Wasserstein-2 distance between two sets of points: the root of the least mean squared cost.

    Meant for two or three dimensions: two sets of n points of one law lie n^(−1/d) apart, which says little in many.
    Shapes: points (n, d), reference (m, d); of more than `cap` points, a seeded choice of `cap`.
    Raises: ValueError for other shapes or points that are not finite, RuntimeError where no optimum is found.
    Source: Bonneel et al., Displacement interpolation using Lagrangian mass transport, 2011 (POT's network simplex).
    """
    import ot

    points, reference = pair(points, reference)
    points, reference = (
        _some(every, cap, seed, name) for every, name in ((points, "points"), (reference, "reference"))
    )
    cost = ot.dist(points.cpu().numpy(), reference.cpu().numpy())
    found, log = ot.emd2([], [], cost, numItermax=10_000_000, log=True)
    if log["warning"]:
        raise RuntimeError(f"optimal transport was not solved ({log['warning']}): ask for fewer points")
    return math.sqrt(max(0.0, float(found)))


def _some(points: Tensor, cap: int, seed: int, name: str) -> Tensor:
    if len(points) <= cap:
        return points
    return points[torch.randperm(len(points), generator=generator(seed, f"transport {name}"))[:cap]]
