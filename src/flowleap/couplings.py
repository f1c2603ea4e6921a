"""How noise meets data: which ε is paired with which x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from flowleap.tensors import Image

__all__ = ["Coupling", "Independent"]


@runtime_checkable
class Coupling(Protocol):
    """A law of the noise given the data."""

    def noise(self, generator: torch.Generator, shape: tuple[int, ...]) -> Image:
        """Return standard normal noise for the global batch, `shape`, float32 on the CPU."""
        ...


@dataclass(frozen=True)
class Independent:
    """ε ~ N(0, I), independent of x."""

    def noise(self, generator: torch.Generator, shape: tuple[int, ...]) -> Image:
        return torch.randn(shape, generator=generator)
