"""Point sets in the plane, of roughly unit scale, drawn anew from a seed."""

import math

import torch
from torch import Tensor

from flowleap.randomness import generator


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
