"""Precision, recall, density and coverage, from balls around the rows of both sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flowleap.evaluation.distances import pair

CAP = 10_000
"""The number of rows used of each set: the first ones."""
NEIGHBORS = (3, 5)  # of the balls of precision and recall, and of those of density and coverage
CHUNK = 512  # rows of one block of pairwise distances
TIE = 1e-9  # relative difference of squared distances that counts as none: the rounding of sums of any order


@dataclass(frozen=True)
class Manifold:
    """Fidelity (precision, density) and variety (recall, coverage) of samples."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(
    rows: Tensor, reference_rows: Tensor, reference_radii: Tensor | None = None, cap: int = CAP
) -> Manifold:
    """Precision, recall, density and coverage of samples x against real rows y, in one pass over the distances.

    With B_k(y) the ball around y through its k-th nearest other row of its own set:

        precision = share of x in some closed B_3(y)        density  = mean over x of #{y : x in open B_5(y)} / 5
        recall    = share of y in some closed B_3(x)        coverage = share of y with some x in open B_5(y)

    All are 1 for perfect samples, up to sampling (recall below it, coverage about 1 − 2^−5 for equal counts);
    density may be above. They depend on both counts: compare only numbers of the same ones.

    Args:
        reference_radii: `radii(reference_rows)`, to compute them once for several sets.
        cap: the number of rows used of each set, the first ones; the time is proportional to its square.

    Shapes: rows (n, d), reference_rows (m, d), reference_radii (2, m), n and m at least 6.
    Raises: ValueError for other shapes, or rows that are not finite.
    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991), k = 3; Naeem et al. 2020 (arXiv 2002.09797), k = 5.
    """
    rows, reference_rows = pair(rows[:cap], reference_rows[:cap], least=max(NEIGHBORS) + 1)
    if reference_radii is None:
        reference_radii = radii(reference_rows, cap)
    if reference_radii.shape != (len(NEIGHBORS), len(reference_rows)):
        raise ValueError(
            f"radii of shape {tuple(reference_radii.shape)} for {len(reference_rows)} reference rows: "
            "give radii(reference_rows)"
        )
    near, far = reference_radii.to(rows).square()
    own_near = radii(rows, cap)[0].square()
    near, far, own_near = near * (1.0 + TIE), far * (1.0 - TIE), own_near * (1.0 + TIE)
    inside = around = 0
    recalled = rows.new_zeros(len(reference_rows), dtype=torch.bool)
    closest = torch.full_like(far, torch.inf)
    for start, squares in _blocks(rows, reference_rows):
        inside += int((squares <= near).any(dim=1).sum())
        around += int((squares < far).sum())
        recalled |= (squares <= own_near[start : start + CHUNK, None]).any(dim=0)
        closest = torch.minimum(closest, squares.amin(dim=0))
    n, m = len(rows), len(reference_rows)
    return Manifold(
        precision=inside / n,
        recall=int(recalled.sum()) / m,
        density=around / (NEIGHBORS[1] * n),
        coverage=int((closest < far).sum()) / m,
    )


def radii(rows: Tensor, cap: int = CAP) -> Tensor:
    """The distance of every row to its third and to its fifth nearest other row, of the first `cap` rows.

    Shapes: (n, d) -> (2, min(n, cap)), n at least 6.
    Raises: ValueError for fewer rows, or rows that are not finite.
    """
    rows, _ = pair(rows[:cap], rows[:cap], least=max(NEIGHBORS) + 1)
    found = []
    for _, squares in _blocks(rows, rows):  # every row is the first of its own nearest ones, at 0
        nearest = squares.topk(max(NEIGHBORS) + 1, dim=1, largest=False).values
        found.append(nearest[:, list(NEIGHBORS)].sqrt())
    return torch.cat(found).T.contiguous()


def _blocks(rows: Tensor, reference: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances |x|² + |y|² − 2 x·y of some rows to all reference rows, with the number of the first.

    About the mean of the reference, so that a common offset costs no digits. What is left of the rounding of
    equal rows is 0.
    """
    middle = reference.mean(dim=0)
    rows, reference = rows - middle, reference - middle
    norms, reference_norms = rows.square().sum(dim=1), reference.square().sum(dim=1)
    noise = 1e-13 * float(torch.maximum(norms.max(), reference_norms.max()))
    for start in range(0, len(rows), CHUNK):
        squares = torch.addmm(reference_norms, rows[start : start + CHUNK], reference.T, alpha=-2.0)
        squares += norms[start : start + CHUNK, None]
        yield start, torch.nn.functional.threshold(squares, noise, 0.0, inplace=True)
