"""Label accuracy: the share of samples that a classifier assigns to the label they were asked for with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowleap.data import Dataset
from flowleap.randomness import generator

FITTED = 1000  # rows of the seeded permutation the classifier is fitted on; four fifths of a smaller set
GAMMA: dict[str, float | str] = {"digits": 0.02}  # radial-basis width; of other data "scale", 1 / (d var)
PENALTY = 10.0
TESTED = 10_000  # rows of the rest that its accuracy is measured on, at most
SIDE, MANY = 16, 784  # images of more values than MANY are shrunk to this side first, for speed


@dataclass(frozen=True)
class Fitted:
    """A support vector classifier exp(−γ |a − b|²) fitted to part of the real data, in the units of the data.

    `score` is its accuracy on the rest of the real data (`held_out` rows), which perfect samples would reach.
    Units: of digits in [−1, 1] with γ = 0.02 and C = 10, `score` is 0.992; on the same rows the
    same γ scores 0.990 with pixels in 0..1 and 0.300 with pixels in 0..16.
    """

    classifier: Any
    score: float
    fitted: int
    held_out: int
    name: str = "SVM"

    def hits(self, samples: Tensor, label: Tensor, logits: Tensor | None = None) -> int:
        """Return the number of samples whose predicted class is their label.

        Shapes: samples (n, ...), label (n,).
        """
        assert len(samples) == len(label), "one label for each sample"
        return int((self.classifier.predict(rows(samples)) == label.cpu().numpy()).sum())


@dataclass(frozen=True)
class OfFeatures:
    """The classifier that the features are taken from; it predicts the class of the largest logit.

    `score` is its accuracy on the reference itself, which it may have been fitted on.
    """

    name: str
    score: float

    def hits(self, samples: Tensor, label: Tensor, logits: Tensor | None = None) -> int:
        """Return the number of samples whose predicted class is their label.

        Shapes: label (n,), logits (n, classes).
        """
        assert logits is not None and len(logits) == len(label), "one row of logits for each sample"
        return int((logits.argmax(dim=1) == label.cpu()).sum())


def of_features(name: str, logits: Tensor, label: Tensor) -> OfFeatures:
    """Return the classifier of the features of a name, with its accuracy on real rows.

    Shapes: logits (n, classes), label (n,).
    """
    return OfFeatures(f"{name} classifier", float((logits.argmax(dim=1) == label.cpu()).double().mean()))


def rows(samples: Tensor) -> Any:
    """Return samples as float64 rows in the units of the data; images of more than 784 values shrunk to 16 × 16.

    Shapes: (n, ...) -> (n, d), a numpy array.
    """
    if samples.ndim == 4 and math.prod(samples.shape[1:]) > MANY:
        samples = functional.interpolate(samples.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return samples.flatten(1).double().cpu().numpy()


def fit(dataset: Dataset, seed: int = 0) -> Fitted | None:
    """Return a classifier fitted to the first rows of a seeded permutation of the data.

    None where the data has no labels, or fewer than two classes. The same data and seed give the same classifier.
    """
    if dataset.label is None:
        return None
    from sklearn.svm import SVC

    order = torch.randperm(len(dataset), generator=generator(seed, "judge")).numpy()
    fitted = min(FITTED, 4 * len(order) // 5)
    label = dataset.label.cpu().numpy()
    seen, rest = order[:fitted], order[fitted : fitted + TESTED]
    if len(set(label[seen].tolist())) < 2:
        return None
    classifier = SVC(kernel="rbf", C=PENALTY, gamma=GAMMA.get(dataset.name, "scale")).fit(
        rows(dataset.x[torch.from_numpy(seen)]), label[seen]
    )
    score = float(classifier.score(rows(dataset.x[torch.from_numpy(rest)]), label[rest]))
    return Fitted(classifier, score, len(seen), len(rest))
