"""The embedded default: 1,797 real handwritten digits of 8 x 8 pixels, which ship with scikit-learn."""

import torch

from flowleap.data.dataset import Dataset


def load_digits() -> Dataset:
    """Handwritten digits in ten classes, grey values 0 to 16 mapped to x / 8 - 1.

    Shapes: x (1797, 1, 8, 8), label (1797,).
    Source: E. Alpaydin and C. Kaynak, UCI repository, optical recognition of handwritten digits (test set).
    """
    from sklearn import datasets

    pixels, label = datasets.load_digits(return_X_y=True)
    return Dataset(
        name="digits",
        x=torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1,
        label=torch.as_tensor(label, dtype=torch.int64),
        num_classes=10,
        license="BSD-3-Clause, as shipped in scikit-learn",
        source="UCI ML repository, optical recognition of handwritten digits (test set), as in scikit-learn",
    )
