"""Features without labels: a network that learns which two views show the same image.

It is the network of `evaluation.classifier`, trained on one data set alone. Two views are made of each image of a
batch: random crops of another brightness and contrast, mirrored at random where images have colors. z is the normalized
output of its head, and

    −log (exp(z_i·z_j/τ) / Σ_{k≠i} exp(z_i·z_k/τ)),   j the other view of the image of i

is smallest where features are the same in all views of an image and different between images. The file and its use are
those of a classifier.

Source: Chen et al. 2020 (arXiv 2002.05709), SimCLR: this loss, crops and colors. Network, linear head, crops of seven
tenths of the side or more, and the optimizer are not theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from flowleap.data import Dataset
from flowleap.evaluation.classifier import Classifier, Task, Tick, trained
from flowleap.networks.classifier import Classifier as Network
from flowleap.randomness import generator

NAME = "contrastive/1"
OUTPUTS, TEMPERATURE, RATE, FEWEST = 32, 0.2, 0.2, 64
SMALLEST = 0.7
"""The side of the smallest crop, as a share of that of the image."""
CONTRAST, BRIGHTNESS = (0.6, 1.4), (-0.3, 0.3)
"""x → contrast x + brightness, both in these ranges."""


def fit(dataset: Dataset, seed: int = 0, tick: Tick = lambda passes: None) -> Classifier:
    """Train an encoder on images of 4 × 4 pixels or more, whose labels are not used; as `classifier.fit`.

    The accuracy is the share of views of held-out images whose nearest one, among those of up to 256 images, is the
    other view of the same image.

    Raises: ValueError for other data.
    """
    unused = torch.zeros(len(dataset), dtype=torch.long)
    return trained(
        dataset, unused, Task(NAME, OUTPUTS, paired, RATE, smoothing=0.0, fewest=FEWEST), seed, tick
    )


def paired(network: Network, x: Tensor, label: Tensor, g: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return how alike each view is to every other, and which of them is of the same image.

    Shapes: x (n, channels, height, width), label (n,), not used → (2 n, 2 n), (2 n,).
    """
    g = g or generator(0, "contrastive/examined")
    z = functional.normalize(network(torch.cat([view(x, g), view(x, g)]))[1], dim=1)
    itself = torch.eye(len(z), dtype=torch.bool)
    return (z @ z.T / TEMPERATURE).masked_fill(itself, -torch.inf), torch.arange(len(z)).roll(len(x))


def view(x: Tensor, g: torch.Generator) -> Tensor:
    """Return a random crop of each image in the size of the image, of random brightness and contrast.

    Half of the color images are mirrored. Shapes: (n, channels, height, width), kept.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), generator=g)

    side = uniform(SMALLEST, 1.0)
    right, down = (uniform(-1.0, 1.0) * (1 - side) for _ in range(2))
    mirrored = (torch.rand(len(x), generator=g) < 0.5) & (x.shape[1] == 3)
    none = torch.zeros(len(x))
    rows = [
        torch.stack([torch.where(mirrored, -side, side), none, right], 1),
        torch.stack([none, side, down], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    cut = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    contrast, brightness = (uniform(*ends).view(-1, 1, 1, 1) for ends in (CONTRAST, BRIGHTNESS))
    return (contrast * cut + brightness).clamp(-1, 1)
