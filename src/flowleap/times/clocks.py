"""Clocks: which time of a path a noise level is, so that a law of noise levels σ serves paths on [0, 1] as well.

| clock         | t                | path       |
|---------------|------------------|------------|
| levels        | σ                | VEPath     |
| trigonometric | (2/π) arctan σ   | TrigPath   |
| linear        | σ/(1 + σ)        | LinearPath |

σ is the ratio σ(t)/α(t) of the path at that time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowleap.paths import LinearPath, Path, TrigPath, VEPath
from flowleap.tensors import Time

__all__ = ["check_clock", "clock_refusal", "times_of"]

CLOCKS: dict[str, type[Path]] = {"levels": VEPath, "trigonometric": TrigPath, "linear": LinearPath}


def check_clock(law: object, clock: str) -> None:
    """Refuse a clock that is unknown.

    Raises: ValueError.
    """
    if clock not in CLOCKS:
        known = ", ".join(f'"{name}"' for name in CLOCKS)
        raise ValueError(f"{type(law).__name__}(clock={clock!r}): expected one of {known}")


def times_of(levels: Tensor, clock: str) -> Time:
    """Return the times at which σ/α is each of these noise levels, like `levels`."""
    if clock == "trigonometric":
        return torch.atan(levels) * (2 / math.pi)
    return levels / (1 + levels) if clock == "linear" else levels


def clock_refusal(law: object, clock: str, path: Path) -> str | None:
    """Return why the times of a law are not those of a path, or None."""
    if isinstance(path, CLOCKS[clock]):
        return None
    fitting = next((name for name, kind in CLOCKS.items() if isinstance(path, kind)), None)
    way = f'use clock="{fitting}"' if fitting else f"use {CLOCKS[clock].__name__}()"
    return (
        f'{type(law).__name__}(clock="{clock}") gives the times that noise levels have on {CLOCKS[clock].__name__}, '
        f"and the path is {type(path).__name__}: {way}"
    )
