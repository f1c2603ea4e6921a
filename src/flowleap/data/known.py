"""Published data sets, recognized by their pixels in any file format."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from flowleap.data.dataset import Dataset
from flowleap.data.rows import levels_of


@dataclass(frozen=True)
class Known:
    """A published data set.

    Args:
        shape: of one image, (channels, height, width).
        splits: number of images and SHA-256 of the uint8 pixels, in the published order, channels last.
        classes: the published names, empty if numbers are the names.
    """

    name: str
    shape: tuple[int, int, int]
    splits: dict[str, tuple[int, str]]
    license: str
    source: str
    classes: tuple[str, ...] = ()


KNOWN: tuple[Known, ...] = (
    Known(
        "mnist",
        (1, 28, 28),
        {
            "train": (60_000, "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"),
            "test": (10_000, "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"),
        },
        "CC BY-SA 3.0, as commonly stated",
        "Y. LeCun, C. Cortes and C. Burges, the MNIST database of handwritten digits",
    ),
    Known(
        "fashion-mnist",
        (1, 28, 28),
        {
            "train": (60_000, "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"),
            "test": (10_000, "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"),
        },
        "MIT, Copyright 2017 Zalando SE",
        "H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST (arXiv 1708.07747)",
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    Known(
        "cifar10-jpeg75",
        (3, 32, 32),
        {
            "train": (50_000, "86f5d04cec053f2b10c1307c973faf9deb6acf3a28611026681133b8abc68790"),
            "test": (10_000, "5fce8f6a84d7de12f276662376ce80f5f19c236502ddae2e16c3f187c0386c13"),
        },
        "none stated",
        "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; as JPEG of quality 75, lossy",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
)


def recognized(dataset: Dataset) -> Dataset:
    """Give a data set that is a whole split of one of `KNOWN` its published name, license, source and class names.

    Others are returned unchanged; pixels are read only if shape and number of images fit. Class names that are not
    numbers are kept.
    """
    candidates = [
        (known, split, checksum)
        for known in KNOWN
        for split, (size, checksum) in known.splits.items()
        if dataset.kind == "image" and (size, *known.shape) == tuple(dataset.x.shape)
    ]
    found = pixels(dataset) if candidates else ""
    for known, split, checksum in candidates:
        if checksum == found:
            numbers = tuple(str(number) for number in range(len(known.classes)))
            return replace(
                dataset,
                classes=known.classes if dataset.class_names == numbers else dataset.classes,
                name=known.name,
                known=known.name,
                split=split,
                license=known.license,
                source=known.source,
            )
    return dataset


def pixels(dataset: Dataset) -> str:
    """The SHA-256 of the images as uint8, channels last."""
    digest = hashlib.sha256()
    for part in dataset.x.split(1000):
        digest.update(levels_of(part).permute(0, 2, 3, 1).contiguous().numpy().data)
    return digest.hexdigest()
