"""Built-in data sets: the handwritten digits of scikit-learn, and point sets drawn from a seed."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowleap.data.dataset import Dataset
from flowleap.randomness import generator


def digits() -> Dataset:
    """Handwritten digits of 8 × 8 pixels in ten classes, grey values 0 to 16 mapped to x / 8 − 1.

    Shapes: x (1797, 1, 8, 8), label (1797,).
    Source: E. Alpaydin and C. Kaynak, UCI repository, optical recognition of handwritten digits (test set).
    """
    table = torch.from_numpy(_digits())
    return Dataset(
        name="digits",
        x=table[:, :64].float().view(-1, 1, 8, 8) / 8 - 1,
        label=table[:, 64].contiguous(),
        num_classes=10,
        license="BSD-3-Clause, as shipped in scikit-learn",
        source="UCI ML repository, optical recognition of handwritten digits (test set), as in scikit-learn",
    )


def _digits() -> np.ndarray:
    """Return pixels and label of every digit, (1797, 65) int64, from the file that scikit-learn has.

    Its function would first import the package, which takes seconds; it is called where the file has moved.
    """
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",", dtype=np.int64)
    from sklearn import datasets

    pixels, label = datasets.load_digits(return_X_y=True)
    return np.column_stack([pixels, label]).astype(np.int64)


def two_moons(n: int = 10_000, seed: int = 0) -> Tensor:
    """Two interleaved half circles with Gaussian noise of standard deviation 0.05.

    Shapes: → (n, 2), centered.
    """
    g = generator(seed, "data/two_moons")
    angle = math.pi * torch.rand(n, generator=g)
    side = 1.0 - 2.0 * torch.randint(2, (n,), generator=g)
    arc = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1) * side[:, None]
    return arc + 0.05 * torch.randn(n, 2, generator=g)


def eight_gaussians(n: int = 10_000, seed: int = 0) -> Tensor:
    """Eight Gaussians of standard deviation 0.1, evenly spaced on a circle of radius √2.

    Shapes: → (n, 2).
    """
    g = generator(seed, "data/eight_gaussians")
    angle = math.pi / 4 * torch.randint(8, (n,), generator=g)
    center = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return center + 0.1 * torch.randn(n, 2, generator=g)


def checkerboard(n: int = 10_000, seed: int = 0) -> Tensor:
    """Uniform on the eight dark fields of a 4 x 4 board over [-2, 2]².

    Shapes: → (n, 2).
    """
    g = generator(seed, "data/checkerboard")
    column = torch.randint(4, (n,), generator=g)
    row = 2 * torch.randint(2, (n,), generator=g) + column % 2
    return torch.stack([column, row], dim=1) + torch.rand(n, 2, generator=g) - 2


POINTS = {"two-moons": two_moons, "eight-gaussians": eight_gaussians, "checkerboard": checkerboard}


def points(name: str, seed: int) -> Dataset:
    """10,000 points of one of `POINTS`."""
    return Dataset(name, POINTS[name](seed=seed), kind="points", license="CC0", source="drawn from a seed")
