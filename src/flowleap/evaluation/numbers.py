"""The numbers measured of one set of samples, accumulated over batches: features are kept, images are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowleap import processes
from flowleap.evaluation import distances, kernel, manifold, score, transport
from flowleap.evaluation.evaluator import Evaluator, for_pairs
from flowleap.randomness import generator

CERTAIN = 10_000
"""Samples from which on a Fréchet distance has no interval beside it."""
NUMBERS = (
    "distance",
    "interval",
    "kernel_distance",
    "kernel_error",
    "score",
    "score_error",
    "precision",
    "recall",
    "density",
    "coverage",
    "sliced_wasserstein",
    "wasserstein2",
    "agreement",
    "nearest_ratio",
    "copies",
)
"""The keys of `Tally.numbers`: None where one does not apply."""


@dataclass
class Tally:
    """Feature rows, logits and label hits of the samples so far."""

    evaluator: Evaluator
    rows: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    hits: int = 0
    labeled: int = 0
    broken: int = 0

    def add(self, samples: Tensor, label: Tensor | None) -> None:
        """Take in a batch of samples; those that are not finite are only counted.

        Shapes: samples (n, ...), label (n,) or None.
        """
        bad = int((~samples.flatten(1).isfinite().all(dim=1)).sum())
        self.broken += bad
        if bad:
            return
        found = list(self.evaluator.features.stream(samples))
        logits = [part for _, part in found if part is not None]
        self.rows += [rows for rows, _ in found]
        self.logits += logits
        if label is not None and self.evaluator.classifier is not None:
            self.evaluator.check_labels(label)
            self.hits += self.evaluator.classifier.hits(samples, label, torch.cat(logits) if logits else None)
            self.labeled += len(samples)

    def numbers(self) -> dict[str, Any]:
        """Return all `NUMBERS`, over all processes; every value is None where samples were not finite.

        Raises: ValueError where the samples are not more than the features.
        """
        self.broken = int(processes.total(self.broken))
        if self.broken:
            return dict.fromkeys(NUMBERS)
        rows = processes.gathered(torch.cat(self.rows))
        labeled, hits = processes.total(self.labeled), processes.total(self.hits)
        numbers: dict[str, Any] = dict.fromkeys(NUMBERS)
        numbers |= gaussian(rows, self.evaluator) | paired(rows, self.evaluator)
        numbers["agreement"] = hits / labeled if labeled else None
        if self.logits:
            logits = processes.gathered(torch.cat(self.logits))
            logits = logits[
                torch.randperm(len(logits), generator=generator(0, "score"))
            ]  # may be sorted by class
            numbers["score"], numbers["score_error"] = score.classifier_score(logits)
        return numbers


def gaussian(rows: Tensor, evaluator: Evaluator) -> dict[str, Any]:
    """Return the Fréchet distance and, for few samples, its interval.

    Shapes: rows (n, d).
    """
    distance = distances.frechet(distances.statistics(rows), evaluator.statistics)
    few = len(rows) < CERTAIN
    interval = distances.interval(rows, evaluator.statistics) if few else None
    return {"distance": distance, "interval": None if interval is None else list(interval)}


def paired(rows: Tensor, evaluator: Evaluator) -> dict[str, Any]:
    """Return the numbers that compare all pairs of samples and real rows; none where only statistics are known.

    Shapes: rows (n, d); see `for_pairs`.
    """
    real = evaluator.paired
    if real is None:
        return {}
    rows = for_pairs(rows)
    distance, error = kernel.kernel_distance(rows, real)
    found = manifold.manifold(rows, real, evaluator.radii)
    plane = evaluator.dims == 2
    return {
        "kernel_distance": distance,
        "kernel_error": error,
        "precision": found.precision,
        "recall": found.recall,
        "density": found.density,
        "coverage": found.coverage,
        "sliced_wasserstein": transport.sliced_wasserstein(rows, real),
        "wasserstein2": transport.wasserstein2(rows, real) if plane else None,
    } | memorized(rows, evaluator)


def memorized(rows: Tensor, evaluator: Evaluator) -> dict[str, Any]:
    """Return the memorization ratio, mean distance to the nearest real row over that between real rows, and copies.

    Where training mirrors images, mirror images are real rows, too; that of a row itself is not its neighbor.
    `copies` is the share of samples that are nearer to a real row than all but 1 % of real rows are to another:
    0.01 for fresh data.
    Shapes: rows (n, d).
    """
    assert evaluator.spacing is not None
    found = torch.stack([distances.nearest(rows, real) for real in evaluator.trained]).amin(0)
    typical = float(evaluator.spacing.mean())
    close = evaluator.spacing.quantile(0.01)
    ratio = float(found.mean()) / typical if typical > 0.0 else None
    return {"nearest_ratio": ratio, "copies": float((found < close).double().mean())}


def measure(samples: Tensor, label: Tensor | None, evaluator: Evaluator) -> dict[str, Any]:
    """Return the numbers of one set of samples, see `NUMBERS`.

    Shapes: samples (n, ...), label (n,) or None.
    Raises: ValueError where n is not above the number of features, or samples do not fit the features.
    """
    tally = Tally(evaluator)
    tally.add(samples, label)
    return tally.numbers()


def enough(num: int, evaluator: Evaluator) -> None:
    """Raise ValueError where `num` samples are not more than the features, before any is made."""
    if num <= evaluator.dims:
        raise ValueError(
            f"num={num} samples are too few for a Fréchet distance over {evaluator.dims} {evaluator.features.name} "
            f"features: ask for at least {evaluator.dims + 1} (1000 is the usual protocol)"
        )
