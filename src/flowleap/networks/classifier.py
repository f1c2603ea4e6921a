"""A small convolutional classifier of small images, whose stages give features.

    a₀ = ↓l1(prep(x)),  a = a₀ + r1(a₀),  b = ↓l2(a),  c₀ = ↓l3(b),  c = c₀ + r3(c₀)

A 3 × 3 convolution, batch norm and ReLU each; ↓ halves the sides by maximum as long as they are 4 or more.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, cat, nn
from torch.nn import functional

BLOCKS = ("prep", "l1", "r1.0", "r1.1", "l2", "l3", "r3.0", "r3.1")
PARTS = ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var")
LAYERS = (*(f"{block}.{part}" for block in BLOCKS for part in PARTS), "head.weight", "head.bias")
"""The names of its tensors in a file."""


class Classifier(nn.Module):
    """The network: 14 · width features and a logit for each class.

    Shapes: (n, channels, height, width) -> (n, 14 · width), (n, classes).
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.prep, self.l1 = convolution(channels, width), convolution(width, 2 * width)
        self.r1 = nn.Sequential(convolution(2 * width, 2 * width), convolution(2 * width, 2 * width))
        self.l2, self.l3 = convolution(2 * width, 4 * width), convolution(4 * width, 8 * width)
        self.r3 = nn.Sequential(convolution(8 * width, 8 * width), convolution(8 * width, 8 * width))
        self.head = nn.Linear(8 * width, classes)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the feature maps of the three stages, of 2, 4 and 8 · width channels."""
        a = halved(self.l1(self.prep(x)))
        a = a + self.r1(a)
        b = halved(self.l2(a))
        c = halved(self.l3(b))
        return a, b, c + self.r3(c)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = [stage.mean((2, 3)) for stage in self.maps(x)]
        return cat(pooled, 1), self.head(pooled[2])


def convolution(channels: int, width: int) -> nn.Sequential:
    """A 3 × 3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def halved(x: Tensor) -> Tensor:
    """Return the maximum over 2 × 2 pixels where there are at least 4 × 4."""
    return functional.max_pool2d(x, 2) if min(x.shape[2:]) >= 4 else x


def from_tensors(found: Mapping[str, Tensor]) -> Classifier:
    """Return the frozen classifier that tensors named as `LAYERS` make up; others are ignored.

    Raises: KeyError, IndexError or RuntimeError for tensors that make up none.
    """
    width, channels = found["prep.0.weight"].shape[:2]
    network = Classifier(channels, width, len(found["head.bias"]))
    missing, _ = network.load_state_dict({name: found[name].float() for name in LAYERS}, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return network.eval().requires_grad_(False)
