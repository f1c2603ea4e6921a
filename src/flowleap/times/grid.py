"""Grids of times, and draws from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowleap.interfaces import TimeLaw
from flowleap.randomness import RowGenerator
from flowleap.tensors import Time

__all__ = ["below", "binomial", "cells", "check_base", "check_count", "reach", "spaced", "stage"]


def spaced(high: float, low: float, steps: int, rho: float | None = None) -> list[float]:
    """Return the times of N steps from `high` to `low`, t_i^{1/ρ} equally far from one another.

    ρ is 1, equal steps, for times up to 1, and 7 for noise levels, where it is not given.

    >>> spaced(1.0, 0.0, 4)
    [1.0, 0.75, 0.5, 0.25, 0.0]

    Source: Karras et al. 2022 (arXiv 2206.00364) eq. 5.
    """
    rho = (1 if high <= 1 else 7) if rho is None else rho
    first, last = high ** (1 / rho), low ** (1 / rho)
    return [high, *((first + (last - first) * i / steps) ** rho for i in range(1, steps)), low]


def stage(progress: float, stages: int) -> int:
    """Return the stage, 0 … stages − 1, of a run cut into equal parts: step k of K is in stage ⌊stages · k/K⌋.

    >>> [stage(k / 10, 7) for k in range(10)]
    [0, 0, 1, 2, 2, 3, 4, 4, 5, 6]
    """
    return min(
        stages - 1, math.floor(stages * progress + 1e-9)
    )  # k/K as a float may fall short of a whole stage


def below(generator: RowGenerator, most: Tensor) -> Tensor:
    """Return whole numbers, that of each row uniform on {0, …, most}."""
    return (generator.uniform() * (most + 1)).to(torch.int64)


def cells(generator: RowGenerator, count: int) -> tuple[Time, Time]:
    """Return the upper and lower ends of one of `count` equal cells of [0, 1] for each row, drawn uniformly."""
    cell = generator.integers(count)
    return (cell + 1) / count, cell / count


def binomial(generator: RowGenerator, share: float) -> int:
    """Return of how many rows of the global batch, each with this probability, something is true.

    The number is drawn by the inverse of its distribution function, one for all rows.
    """
    n = generator.total
    if share in (0.0, 1.0):
        return round(share * n)
    k = torch.arange(n + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    reached = torch.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share)).cumsum(0)
    return min(n, int((reached <= generator.common() * reached[-1]).sum()))


def check_base(law: TimeLaw, n: int) -> None:
    if n < 2 or n & (n - 1):
        lower = 2 ** max(1, n.bit_length() - 1) if n > 0 else 2
        raise ValueError(
            f"{type(law).__name__}(base_steps={n}): jumps halve down to one base step, so a power of two is expected "
            f"(such as {lower} or {2 * lower})"
        )


def check_count(law: TimeLaw, n: int) -> None:
    if n < 1:
        raise ValueError(f"{type(law).__name__}(base_steps={n}): at least one step is expected")


def reach(*supports: tuple[float, float]) -> tuple[float, float]:
    """Return the smallest interval that holds all of these.

    >>> reach((0.0, 1.0), (0.5, 80.0))
    (0.0, 80.0)
    """
    return min(low for low, _ in supports), max(high for _, high in supports)
