"""Types of images, times and labels, and the broadcasting of one number per row over an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor

__all__ = [
    "UNGUIDED",
    "Image",
    "Label",
    "Time",
    "classes_of",
    "guided_label",
    "like",
    "null_label",
    "on_its_way",
    "onto",
    "repeated",
    "squared_norm",
]

Image = Tensor
"""(batch, *dims), floating point: images (batch, channels, height, width) or points (batch, dims)."""
Time = Tensor
"""(batch,), floating point. t = 0 is data, t = 1 is noise (σ itself on the variance-exploding path)."""
Label = Tensor | None
"""(batch,), int64, or None where there are no classes. The null class is `network.num_classes`.

A network that takes guidance as an input is also given (batch, 4), see `guided_label`.
"""
UNGUIDED = (1.0, 0.0, 1.0)
"""The guidance of a row without any: the scale, and the interval of times in which it is guided."""


def guided_label(label: Tensor, guidance: Tensor) -> Tensor:
    """Return labels with the guidance that a network is given as an input: class, scale ω, first and last guided time.

    Shapes: label (batch,), guidance (batch, 3) floating point → (batch, 4), as `guidance`.
    """
    return torch.cat([label[:, None].to(guidance.dtype), guidance], dim=1)


def classes_of(label: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the classes, (batch,), of labels, and their guidance, (batch, 3), None for plain labels."""
    return (label, None) if label.ndim == 1 else (label[:, 0].long(), label[:, 1:])


def null_label(label: Tensor, num_classes: int) -> Tensor:
    """Return as many labels of the same kind that name the null class, without guidance."""
    if label.ndim == 1:
        return torch.full_like(label, num_classes)
    return torch.stack([torch.full_like(label[:, 0], value) for value in (num_classes, *UNGUIDED)], dim=1)


def like(t: Time, x: Image) -> Tensor:
    """Reshape per-row numbers so that they broadcast over the rows of `x`.

    Shapes: t (batch,), x (batch, *dims) → (batch, 1, …, 1).
    """
    return t.reshape(-1, *[1] * (x.ndim - 1))


@overload
def repeated(rows: Tensor, x: Image) -> Tensor: ...
@overload
def repeated(rows: Label, x: Image) -> Label: ...
def repeated(rows: Label, x: Image) -> Label:
    """Return copies of per-row numbers, one after another, for an `x` that holds as many copies of the rows.

    Shapes: rows (batch, …) or None, x (copies · batch, *dims) → (copies · batch, …) or None.
    """
    if rows is None or len(rows) == len(x):
        return rows
    return rows.repeat(len(x) // len(rows), *[1] * (rows.ndim - 1))


def squared_norm(x: Image, reduce: str = "sum") -> Tensor:
    """Return Σ_d x_d² ("sum") or its mean over the dimensions ("mean") of each row, (batch,)."""
    if reduce not in ("sum", "mean"):
        raise ValueError(f'reduce={reduce!r}: expected "sum" or "mean" over the dimensions of a row')
    squares = x.flatten(1).square()
    return squares.sum(1) if reduce == "sum" else squares.mean(1)


def onto(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; to an accelerator the CPU copies it from pinned memory and waits for nothing."""
    if tensor.device.type == "cpu" and device.type != "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def on_its_way(tensor: Tensor) -> Callable[[], Tensor]:
    """Start a copy of a tensor to the CPU, and return a function that waits until it is there and returns it."""
    if tensor.device.type != "cuda":
        copy = tensor.to("cpu", copy=True, non_blocking=True)
        return lambda: copy
    copy, done = tensor.to("cpu", non_blocking=True), torch.cuda.Event()
    done.record()

    def arrived() -> Tensor:
        done.synchronize()
        return copy

    return arrived
