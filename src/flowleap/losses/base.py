"""What a loss is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from flowleap.point import Point, Regression

__all__ = ["Loss"]


@runtime_checkable
class Loss(Protocol):
    """A per-sample loss."""

    def __call__(self, regression: Regression, point: Point) -> Tensor:
        """Return (batch,)."""
        ...
