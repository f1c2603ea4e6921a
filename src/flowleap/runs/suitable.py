"""What is refused about the data of a run before time is spent: too few images, features of other data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowleap.data import Dataset
from flowleap.evaluation import classifier
from flowleap.evaluation.classifier import Classifier
from flowleap.networks.options import core


def check(dataset: Dataset, network: Mapping[str, Any], file: str | None) -> list[str]:
    """Return warnings about data that may not be what the settings of a run are for.

    Args:
        network: the options of the network. file: the features that the loss is taken in, None for none.

    Raises: ValueError for more classes than images, and for a loss in the features of other data; as
        `classifier.read`.
    """
    classes, rows = dataset.num_classes or 0, len(dataset)
    if classes > rows and core(network).get("classes") is not None:
        raise ValueError(
            f"{dataset.name} has {classes} classes and {rows} images, and each class needs at least one: correct the "
            "labels, or train without them, --set network.classes=none"
        )
    if file is None or Path(file).suffix != ".npz":
        return []
    return features_of(file, classifier.read(file), dataset)


def features_of(file: str, found: Classifier, dataset: Dataset) -> list[str]:
    """Return a warning where it is not certain that features were trained on the data of a run.

    Raises: ValueError where they were trained on data of another name or other classes, or are of another shape.
    """
    if any(a not in (None, b) for a, b in zip(found.shape, dataset.shape, strict=False)):
        raise ValueError(
            f"{file} has features of images of shape {found.shape}, and {dataset.name} has {dataset.shape}: "
            f"{remedy(dataset)}"
        )
    given, own = found.origin, classifier.Origin.of(dataset)
    if (found.data is not None and found.data == dataset.known) or (given and given.checksum == own.checksum):
        return []
    if given is None and None in (found.data, dataset.known):
        of = (
            "does not say which data it was trained on"
            if found.data is None
            else f"was trained on {found.data}"
        )
        return [
            f"{file} {of}, and its features should be those of the data of this run, {own}; else {remedy(dataset)}"
        ]
    if given and given.name in (None, own.name) and given.classes in (None, own.classes):
        return [f"{file} was trained on other images than those of this run: {given}, and now {own}"]
    raise ValueError(
        f"{file} was trained on {given or found.data}, and this run is on {own}: {remedy(dataset)}"
    )


def remedy(dataset: Dataset) -> str:
    """Return how features of these data are made, in words."""
    kind = "encoder" if dataset.label is None else "classifier"
    return f"train features on this data, flowleap data {kind} {dataset.address} --out FILE.npz"
