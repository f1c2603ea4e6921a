"""Features in which sets of samples are compared in training: maps of a classifier or encoder trained before."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from flowleap.files import read_weights
from flowleap.networks.classifier import LAYERS, Classifier, from_tensors

GRID = 4
"""The cells of a side over which a map is averaged."""


def features(file: str | None, x: Tensor) -> list[Tensor]:
    """Return sets of features of x: those of a classifier in a file, or x itself.

    Of each of its three maps come the means over all places and those over a grid of 4 × 4 (as it is where it is no
    larger).

    Shapes: x (n, *dims) → (n, features) each.
    Raises: ValueError for data of another shape than its images, FileNotFoundError for a missing file.
    """
    if file is None:
        return [x.flatten(1)]
    network, shape = load(file, x.device, x.dtype)
    if x.ndim != len(shape) + 1 or any(
        side not in (0, length) for side, length in zip(shape, x.shape[1:], strict=True)
    ):
        raise ValueError(
            f"{file} has features of images of shape {shape}, and the data has {tuple(x.shape[1:])}: train a "
            "classifier on this data (flowleap data classifier; without labels, flowleap data encoder)"
        )
    found = []
    for stage in network.maps(x):
        cells = functional.adaptive_avg_pool2d(stage, GRID) if min(stage.shape[2:]) > GRID else stage
        found += [stage.mean((2, 3)), cells.flatten(1)]
    return found


@lru_cache(maxsize=4)
def load(
    file: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Classifier, tuple[int, ...]]:
    """Return the frozen classifier of a file and the shape of its images, 0 for any length; cached by device and dtype.

    Raises: ValueError for a file without one, FileNotFoundError for a missing file.
    """
    found = read_weights(Path(file))
    lacking = [name for name in LAYERS if name not in found]
    if lacking:
        raise ValueError(
            f"{file} holds no classifier of flowleap: {lacking[0]!r} and {len(lacking) - 1} more tensors are missing; "
            "make one by: flowleap data classifier DATA --out FILE.npz, without labels flowleap data encoder"
        )
    network = from_tensors(found).to(device, dtype)
    channels = found["prep.0.weight"].shape[1]
    shape = tuple(found["image_shape"].tolist()) if "image_shape" in found else (channels, 0, 0)
    return network.to(memory_format=torch.channels_last), shape
