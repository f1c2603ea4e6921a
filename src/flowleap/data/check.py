"""Refuse data that would spoil a run."""

import torch
from torch import Tensor

from flowleap.data.dataset import Dataset


def check(dataset: Dataset) -> Dataset:
    """Return the data set as it is, if it is fit to train on.

    Raises: ValueError for an empty set, NaN or infinity, images outside [-1, 1], labels that do not fit.
    """
    name, x, label, classes = dataset.name, dataset.x, dataset.label, dataset.num_classes
    if not len(x):
        raise ValueError(f"data set {name!r} is empty")
    if isinstance(x, Tensor):  # what is stored as 8 bits lies in [-1, 1]
        _check_values(name, x, dataset.kind)
    if (label is None) != (classes is None):
        raise ValueError(f"data set {name!r} needs both labels and their number of classes, or neither")
    if label is not None and classes is not None:
        if label.shape != (len(x),) or label.dtype != torch.int64:
            raise ValueError(f"labels are int64 of shape ({len(x)},); got {label.dtype} {tuple(label.shape)}")
        outside = (label < 0) | (label >= classes)
        if outside.any():
            row = int(outside.int().argmax())
            raise ValueError(f"labels of {name!r} lie in 0 to {classes - 1}; row {row} has {int(label[row])}")
        if dataset.classes and len(set(dataset.classes)) != classes:
            raise ValueError(
                f"data set {name!r} has {classes} classes and {len(set(dataset.classes))} different names for them "
                f"({', '.join(dataset.classes[:5])}, …): give each class a name, or none"
            )
    return dataset


def _check_values(name: str, x: Tensor, kind: str) -> None:
    if not x.is_floating_point():
        raise ValueError(f"data set {name!r} holds {x.dtype}; convert it to float32, images to [-1, 1]")
    bad = torch.cat([~part.flatten(1).isfinite().all(dim=1) for part in x.split(1000)])
    if bad.any():
        raise ValueError(
            f"data set {name!r} holds NaN or infinity in {int(bad.sum())} of {len(x)} rows, the first is row "
            f"{int(bad.int().argmax())}; remove or repair them"
        )
    low, high = (float(edge) for edge in x.aminmax())
    if kind == "image" and not -1 <= low <= high <= 1:
        raise ValueError(f"images lie in [-1, 1], but those of {name!r} in [{low:g}, {high:g}]; rescale them")
