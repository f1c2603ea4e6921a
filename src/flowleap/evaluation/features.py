"""What is compared: features turn samples (n, ...) into rows (n, d); a distance is named after them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, float64

from flowleap.data import Dataset


@dataclass(frozen=True)
class Features:
    """A named map from samples to feature rows.

    Shapes: extract: (n, ...) -> (n, d), float64. `checksum` identifies fitted weights, None without any.
    """

    name: str
    extract: Callable[[Tensor], Tensor]
    checksum: str | None = None

    def __call__(self, samples: Tensor) -> Tensor:
        return self.extract(samples)


def flat(samples: Tensor) -> Tensor:
    """The values themselves, one row per sample.

    Shapes: (n, ...) -> (n, d), float64. Units: those of the data, so images count in [-1, 1].
    """
    return samples.flatten(1).to(float64)


PIXEL = Features("pixel", flat)
POINT = Features("point", flat)


def default(dataset: Dataset) -> Features:
    """The features a data set is judged by unless others are asked for: pixels, or coordinates of points."""
    return PIXEL if dataset.kind == "image" else POINT
