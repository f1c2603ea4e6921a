"""Averages of the weights whose width is chosen afterwards: post-hoc EMA.

A power-function average after t updates is θ̂_γ(t) = Σ_k w_k θ_k with w_k = (k^{γ+1} − (k−1)^{γ+1}) / t^{γ+1}, which is
the running average θ̂ ← β_k θ̂ + (1 − β_k) θ_k with β_k = (1 − 1/k)^{γ+1}. Its weights scale with the length of the run,
and their standard deviation relative to it, its width, is

    σ = (γ + 1)^{1/2} (γ + 2)^{−1} (γ + 3)^{−1/2}.

Two such averages, stored now and then while training, span what other widths weigh: the weights of any profile are
approximated by a combination Σ_i x_i w^{(i)} of those stored, in the sense of least squares, A x = b with the inner
products of profiles and Σ_i x_i = 1, and the same combination of the stored averages is the average asked for.

Source: Karras et al. 2023 (arXiv 2312.02696) section 3 and appendix C; there the inner products are integrals and the
sum of x is free. Here they are sums over the updates that were made, and x adds up to one, as every profile does: what
is missing is then missing of differences between weights, not of the weights themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

WIDEST = 1 / math.sqrt(12)
"""The width of the mean of all weights (γ = 0), which no average here reaches."""


def width_of(gamma: float) -> float:
    """Return σ of a power."""
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def exponent(width: float) -> float:
    """Return the power γ > 0 of a width: the largest root of (γ + 2)² (γ + 3) = (γ + 1)/σ².

    Raises: ValueError for a width that is not in (0, `WIDEST`).
    """
    if not 0 < width < WIDEST:
        raise ValueError(
            f"width {width}: the standard deviation of an average's weights as a fraction of the run, between 0 and "
            f"{WIDEST:.3f} (the mean of all), is expected; 0.05 and 0.1 are usual"
        )
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def decay(gamma: float, updates: int) -> float:
    """Return β of the update after `updates` others; 0 at the first, so that the weights at the start do not count."""
    return float((1 - 1 / (updates + 1)) ** (gamma + 1))


def combination(stored: Sequence[tuple[int, float]], wanted: tuple[int, float]) -> tuple[np.ndarray, float]:
    """Return the weights x of stored averages in one that was not stored, and what they leave of its profile.

    Args:
        stored: (updates, γ) of each; those after `wanted` has ended take no part.
        wanted: (updates, γ) of the one asked for.

    Shapes: → (stored,), and ‖Σ x_i w^{(i)} − w‖ / ‖w‖.
    """
    usable = [place for place, (updates, _) in enumerate(stored) if updates <= wanted[0]]
    profiles = [*(stored[place] for place in usable), wanted]
    length = wanted[0]
    steps = np.arange(length + 1, dtype=np.float64) / length
    powers = {gamma: np.diff(steps ** (gamma + 1)) for _, gamma in profiles}
    sums = {
        (one, other): np.concatenate([[0.0], np.cumsum(powers[one] * powers[other])])
        for one in powers
        for other in powers
    }
    size = [(t / length) ** (gamma + 1) for t, gamma in profiles]
    inner = np.array(
        [
            [sums[g, h][min(t, s)] / (size[i] * size[j]) for j, (s, h) in enumerate(profiles)]
            for i, (t, g) in enumerate(profiles)
        ]
    )
    scale = np.sqrt(np.diag(inner))
    inner = inner / (scale[:, None] * scale)
    ones = (scale[-1] / scale[:-1])[:, None]  # what adds up to one are the weights x, not the scaled ones
    system = np.block([[inner[:-1, :-1], ones], [ones.T, np.zeros((1, 1))]])
    found = np.linalg.lstsq(system, np.append(inner[:-1, -1], 1.0), rcond=1e-13)[0][:-1]
    left = max(0.0, 1 - 2 * found @ inner[:-1, -1] + found @ inner[:-1, :-1] @ found)
    weights = np.zeros(len(stored))
    weights[usable] = found * ones[:, 0]
    return weights, math.sqrt(left)
