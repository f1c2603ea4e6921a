"""The numbers of one set of samples, gathered while the samples stream past: no image is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowleap import processes
from flowleap.evaluation import distances, kernel, manifold, score, transport
from flowleap.evaluation.rulers import PAIRS, Reference
from flowleap.randomness import generator

__all__ = ["CERTAIN", "NUMBERS", "Tally", "enough", "measure"]

CERTAIN = 10_000
"""From so many samples up no interval is given beside a Fréchet distance."""
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
"""What is measured of every set of samples, None where it does not apply."""


@dataclass
class Tally:
    """Feature rows, logits and agreement of the samples seen so far."""

    ruler: Reference
    rows: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    hits: int = 0
    judged: int = 0
    broken: int = 0

    def add(self, samples: Tensor, label: Tensor | None) -> None:
        """Take in a batch of samples; those that are not finite are only counted.

        Shapes: samples (n, ...), label (n,) or None.
        """
        bad = int((~samples.flatten(1).isfinite().all(dim=1)).sum())
        self.broken += bad
        if bad:
            return
        found = list(self.ruler.features.stream(samples))
        logits = [part for _, part in found if part is not None]
        self.rows += [rows for rows, _ in found]
        self.logits += logits
        if label is not None and self.ruler.judge is not None:
            self.ruler.check_labels(label)
            self.hits += self.ruler.judge.hits(samples, label, torch.cat(logits) if logits else None)
            self.judged += len(samples)

    def numbers(self) -> dict[str, Any]:
        """Return all `NUMBERS`, over all processes; every value is None where samples were not finite.

        Raises: ValueError where the samples are not more than the features.
        """
        self.broken = int(processes.total(self.broken))
        if self.broken:
            return dict.fromkeys(NUMBERS)
        rows = processes.gathered(torch.cat(self.rows))
        judged, hits = processes.total(self.judged), processes.total(self.hits)
        numbers: dict[str, Any] = dict.fromkeys(NUMBERS)
        numbers |= gaussian(rows, self.ruler) | paired(rows, self.ruler)
        numbers["agreement"] = hits / judged if judged else None
        if self.logits:
            logits = shuffled(processes.gathered(torch.cat(self.logits)), "score")
            numbers["score"], numbers["score_error"] = score.classifier_score(logits)
        return numbers


def gaussian(rows: Tensor, ruler: Reference) -> dict[str, Any]:
    """Return the Fréchet distance and, for few samples, its interval.

    Shapes: rows (n, d).
    """
    distance = distances.frechet(distances.statistics(rows), ruler.statistics)
    few = len(rows) < CERTAIN
    interval = distances.interval(rows, ruler.statistics) if few else None
    return {"distance": distance, "interval": None if interval is None else list(interval)}


def paired(rows: Tensor, ruler: Reference) -> dict[str, Any]:
    """Return what compares samples with real rows one by one; nothing where only statistics are known.

    Shapes: rows (n, d); at most `PAIRS` of them are used, a fixed random part.
    """
    real = ruler.paired
    if real is None:
        return {}
    rows = rows if len(rows) <= PAIRS else shuffled(rows, "pairs")[:PAIRS]
    distance, error = kernel.kernel_distance(rows, real)
    found = manifold.manifold(rows, real, ruler.radii)
    plane = ruler.dims == 2
    return {
        "kernel_distance": distance,
        "kernel_error": error,
        "precision": found.precision,
        "recall": found.recall,
        "density": found.density,
        "coverage": found.coverage,
        "sliced_wasserstein": transport.sliced_wasserstein(rows, real),
        "wasserstein2": transport.wasserstein2(rows, real) if plane else None,
    } | memorized(rows, ruler)


def memorized(rows: Tensor, ruler: Reference) -> dict[str, Any]:
    """Return how near samples are to real rows, all of them searched, in units of what real rows are to others.

    `copies` is the share of samples that are nearer to a real row than all but 1 % of real rows are to another:
    0.01 for fresh data.
    Shapes: rows (n, d).
    """
    assert ruler.rows is not None and ruler.spacing is not None
    found, typical = distances.nearest(rows, ruler.rows), float(ruler.spacing.mean())
    close = ruler.spacing.quantile(0.01)
    ratio = float(found.mean()) / typical if typical > 0.0 else None
    return {"nearest_ratio": ratio, "copies": float((found < close).double().mean())}


def shuffled(rows: Tensor, stream: str) -> Tensor:
    """Return rows in a fixed random order: images in a folder may be sorted by class.

    Shapes: (n, ...) -> (n, ...).
    """
    return rows[torch.randperm(len(rows), generator=generator(0, stream))]


def measure(samples: Tensor, label: Tensor | None, ruler: Reference) -> dict[str, Any]:
    """Return the numbers of one set of samples, see `NUMBERS`.

    Shapes: samples (n, ...), label (n,) or None.
    Raises: ValueError where n is not above the number of features, or samples do not fit the features.
    """
    tally = Tally(ruler)
    tally.add(samples, label)
    return tally.numbers()


def enough(num: int, ruler: Reference) -> None:
    """Refuse too few samples before any is made.

    Raises: ValueError where `num` does not exceed the number of features.
    """
    if num <= ruler.dims:
        raise ValueError(
            f"num={num} samples are too few for a Fréchet distance over {ruler.dims} {ruler.features.name} "
            f"features: ask for at least {ruler.dims + 1} (1000 is the usual protocol)"
        )
