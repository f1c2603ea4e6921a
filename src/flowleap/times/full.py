"""Jumps from noise to data, in groups that are compared as sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flowleap.interfaces import Draw, TimeLaw
from flowleap.randomness import RowGenerator

__all__ = ["NoiseToData"]


@dataclass(frozen=True)
class NoiseToData(TimeLaw):
    """t = 1 and s = r = 0 on every row: one step from noise to data, which sampling in one step makes.

    Args:
        group: how many neighboring rows are compared as a set; it must divide the batch.

    Raises: ValueError for an empty group.
    """

    group: int = 16
    has_stop: ClassVar[bool] = False
    only_full_jumps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ValueError(f"NoiseToData(group={self.group}): at least one row in each group is expected")

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, 1.0

    def draw(self, generator: RowGenerator, progress: float) -> Draw:
        t = torch.ones(len(generator))
        return Draw(t, torch.zeros_like(t), torch.zeros_like(t), generator.total)
