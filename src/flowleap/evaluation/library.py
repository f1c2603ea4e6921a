"""Features by their names."""

from __future__ import annotations

from pathlib import Path

import torch

from flowleap.data import Dataset
from flowleap.evaluation import adapters, classifier, inception
from flowleap.evaluation.features import (
    LATENT,
    PIXEL,
    PIXEL2,
    PIXEL4,
    PIXEL8,
    PIXEL16,
    POINT,
    SHRUNK,
    Features,
    default,
)
from flowleap.suggest import suggest

PLAIN = {
    known.name: known for known in (PIXEL, PIXEL16, PIXEL8, PIXEL4, PIXEL2, POINT, LATENT, *SHRUNK.values())
}
NAMES: tuple[str, ...] = (
    "auto",
    *PLAIN,
    *classifier.SHIPPED,
    "inception",
    *(f"inception:{resize}" for resize in inception.RESIZES),
    "timm:MODEL",
)


def named(text: str, dataset: Dataset | None = None, device: torch.device | str | None = None) -> Features:
    """Return the features of a name: pixel and latent, both also shrunk (pixel16, 8, 4, 2), point, the shipped
    classifiers digits, mnist, fashion-mnist and cifar10-jpeg75, inception (as adm) and
    inception:adm|pytorch-fid|clean|edm, timm:MODEL, or the path of a saved classifier (.npz).

    "auto": the shipped classifier of a published data set that was recognized (`Dataset.known`), else the default.

    Raises: ValueError for an unknown name, with similar ones, and as the features themselves do.
    """
    if text.lower().endswith(".npz"):
        return classifier.load(Path(text), device)
    kind, _, rest = text.partition(":")
    if kind.lower() == "timm" and rest:
        return adapters.timm_features(rest, device=device)
    name = text.lower().replace("_", "-")
    if name == "auto":
        if dataset is None:
            raise ValueError("features auto follow from a data set, and there is none: name them")
        if dataset.known in classifier.SHIPPED:
            return classifier.load(str(dataset.known), device)
        return default(dataset)
    if name in PLAIN:
        return PLAIN[name]
    if name in classifier.SHIPPED:
        return classifier.load(name, device)
    if name == "inception" or name in NAMES:
        return inception.load(name.partition(":")[2] or "adm", device=device)
    raise ValueError(f"unknown features {text!r}{suggest(name, NAMES)}, or the .npz of a classifier")
