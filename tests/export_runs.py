"""Small runs for the tests of exports: their folders, with random weights, as training leaves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowleap import networks, runs
from flowleap.data import Dataset
from flowleap.runs.reading import write_config
from flowleap.training import checkpoint

SMALL = {
    "dit": (("network.kind", "DiT"), ("network.width", "16"), ("network.depth", "2"), ("network.heads", "2")),
}

COMMAND = ("--batch", "20", "--no-eval", "--device", "cpu", "--threads", "1", "--set", "network.depth=1")
COMMAND += ("--set", "evaluation.online_share=0")
"""Options of a small `flowleap train`."""


def images(
    names: tuple[str, ...] = ("cat", "dog", "owl"), shape: tuple[int, ...] = (1, 8, 8), **changes: Any
) -> Dataset:
    """Return random images, or points or latents, of classes with these names; of none without."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(48, *shape, generator=generator) * 2 - 1
    label = torch.arange(48) % len(names) if names else None
    made = Dataset("random", rows, label, len(names) or None, classes=names)
    return replace(made, **changes)


def run_folder(
    place: Path,
    method: str = "meanflow",
    network: str = "dit-nano",
    dataset: Dataset | None = None,
    step: int | None = None,
    **options: Any,
) -> Path:
    """Write the folder of a run that has ended, or whose weights are those of an earlier step."""
    dataset = images() if dataset is None else dataset
    settings = (
        (("network.width", 16), ("network.depth", 2))
        if network == "dit-nano"
        else (("network.width", 8), ("network.depth", 1))
    )
    config = runs.configure(method, dataset, network, [*settings, *options.items()], steps=8)
    place.mkdir(parents=True)
    write_config(place, config, dataset)
    generator = torch.Generator().manual_seed(1)
    built = networks.build(config.network)
    for weight in built.parameters():
        nn.init.normal_(weight, std=0.1, generator=generator)
    for name in ("network.safetensors", "ema.safetensors"):
        last = runs.length(config) if step is None else step
        checkpoint.write_tensors(place / name, built.state_dict(), last)
    return place
