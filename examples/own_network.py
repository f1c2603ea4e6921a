"""Bring your own network: a small convolutional network, trained on the digits by `flowleap.train`.

    uv run python examples/own_network.py

A network is called as network(x, t, r, label) and returns a tensor of the shape of x. The run is written to
runs/own-network, samples at one and at four steps to own_network.png.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import flowleap
from flowleap import pictures

STEPS = 3000


class Convolutions(nn.Module):
    """Residual convolutions; times and label shift and scale every block.

    Args:
        image: the shape of an image, (channels, height, width). classes: their number, None without labels.
    """

    def __init__(
        self, image: tuple[int, int, int], classes: int | None = None, width: int = 48, depth: int = 4
    ) -> None:
        super().__init__()
        self.num_classes = classes  # this number is also the label of no class
        self.label = nn.Embedding((classes or 0) + 1, width)
        self.time = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Conv2d(image[0], width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.conditions = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.last = nn.Conv2d(width, image[0], 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        null = torch.full_like(t, self.num_classes or 0, dtype=torch.int64)
        times = torch.stack([t, r, t - r, t.square()], 1).to(x)
        given = self.time(times) + self.label(null if label is None else label)
        h = self.first(x)
        for block, condition in zip(self.blocks, self.conditions, strict=True):
            scale, shift = condition(given)[:, :, None, None].chunk(2, 1)
            h = h + nn.functional.silu(block(h) * (1 + scale) + shift)
        out: Tensor = self.last(nn.functional.silu(h))
        return out


def main() -> None:
    result = flowleap.train(
        "esc",
        "digits",
        network="Convolutions",
        imports=[__file__],
        steps=STEPS,
        settings={"network.width": 48},
        out="runs/own-network",
        overwrite=True,
    )
    model = flowleap.load(result.folder)
    panels = {steps: model.sample(50, steps=steps) for steps in (1, 4)}
    about = {"label": model.labels(50), "names": model.classes}
    pictures.save(pictures.figure(panels, columns=5, **about), "own_network.png")


if __name__ == "__main__":
    main()
