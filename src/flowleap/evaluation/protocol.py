"""The ruler: which numbers are measured under which stated conditions, so that like is compared with like."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from flowleap.data import Dataset
from flowleap.evaluation import agreement, distances, features, generation
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.randomness import generator

VERSION = 1
STEPS = (1, 2, 4, 128)
BOUNDS = {"image": (-1.0, 1.0)}  # what an image file can hold; points are measured as they are
NUMBERS = ("distance", "agreement", "nearest_ratio")


@dataclass(frozen=True)
class Protocol:
    """All a number depends on besides the network, its method and its steps; `str` is the protocol id."""

    features: str
    num: int
    reference: str
    size: int
    checksum: str
    weights: str = "given"
    seed: int = 0
    labels: str = "none"
    guidance: str = "none"
    distance: str = "frechet"
    version: int = VERSION

    def __str__(self) -> str:
        return (
            f"{self.features}-{self.distance}/v{self.version};n={self.num};ref={self.reference}:{self.size};"
            f"weights={self.weights};seed={self.seed};labels={self.labels};guidance={self.guidance};"
            f"sha256={self.checksum}"
        )


def effective_guidance(objective: Objective, sampling: float | None) -> str:
    """The guidance behind samples: "none", "1.5 sampled", or the scale ω/(1 − κ) of training, "2 trained"."""
    trained = None if objective.guidance is None else objective.guidance.scale
    scales = {"trained": trained, "sampled": sampling}
    parts = [f"{scale:g} {where}" for where, scale in scales.items() if scale is not None and scale != 1.0]
    return " + ".join(parts) or "none"


@dataclass(frozen=True)
class Reference:
    """The real data as a ruler: its features, their statistics, a judge of its classes, its own distances.

    Whatever is costly is computed when it is first asked for, and once.
    """

    dataset: Dataset
    features: features.Features

    @cached_property
    def rows(self) -> Tensor:
        """Feature rows of the whole data set, (n, d), float64."""
        return self.features(self.dataset.x)

    @cached_property
    def statistics(self) -> distances.Statistics:
        return distances.statistics(self.rows)

    @cached_property
    def judge(self) -> agreement.Judge | None:
        return agreement.fit(self.dataset)

    @cached_property
    def neighbor_distance(self) -> float:
        """Mean distance of real rows to their nearest other real row."""
        return distances.neighbor_distance(self.rows, self._order("neighbors"))

    @cached_property
    def floor(self) -> float:
        """The distance between two halves of the real data."""
        return distances.halves(self.rows, self._order("halves"))

    @cached_property
    def checksum(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the data and its labels."""
        digest = hashlib.sha256(self.dataset.x.contiguous().cpu().numpy().tobytes())
        if self.dataset.label is not None:
            digest.update(self.dataset.label.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    def _order(self, stream: str) -> Tensor:
        return torch.randperm(len(self.dataset), generator=generator(0, stream))


def reference(dataset: Dataset, kind: features.Features | None = None) -> Reference:
    """The ruler a data set makes, with its default features unless others are given.

    Raises: ValueError where the data has too few rows for a covariance of these features.
    """
    ruler = Reference(dataset, kind or features.default(dataset))
    ruler.statistics  # noqa: B018 - too small a data set is refused here, before anything is sampled
    return ruler


def measure(samples: Tensor, label: Tensor | None, ruler: Reference) -> dict[str, float | None]:
    """The numbers of one set of samples: Fréchet distance, class agreement, nearest-training-sample ratio.

    Shapes: samples (n, ...), label (n,) or None. Raises: ValueError where n is not above the features.
    """
    rows, judge = ruler.features(samples), ruler.judge
    return {
        "distance": distances.frechet(distances.statistics(rows), ruler.statistics),
        "agreement": None if judge is None or label is None else judge(samples, label),
        "nearest_ratio": distances.nearest_ratio(rows, ruler.rows, ruler.neighbor_distance),
    }


def plan(steps: Sequence[int], times: Sequence[float] | None) -> list[tuple[int, tuple[float, ...] | None]]:
    """The samplings to be measured, as (steps, times): one for every number of steps, or one for given times.

    Raises: ValueError for a number of steps below 1, or fewer than two times.
    """
    if times is not None:
        if len(times) < 2:
            raise ValueError(f"times={tuple(times)}: give at least a start and an end, as in 1,0")
        return [(len(times) - 1, tuple(times))]
    if not steps:
        raise ValueError("no number of steps was given: name at least one, as in 1,2,4")
    for count in steps:
        if count < 1:
            raise ValueError(f"steps={count}: sampling takes at least 1 step")
    return [(count, None) for count in steps]


def synchronize(device: torch.device) -> None:
    """Wait for an accelerator, so that seconds are seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def evaluate(
    flow: FlowMap,
    objective: Objective,
    dataset: Dataset,
    steps: Sequence[int] = STEPS,
    num: int = 1000,
    seed: int = 0,
    batch: int = 250,
    times: Sequence[float] | None = None,
    guidance: float | None = None,
    weights: str = "given",
    ruler: Reference | None = None,
) -> list[dict[str, Any]]:
    """Quality and time of a trained map against the whole data set, one row for each number of steps.

    Exactly `num` samples, labels cycling through the classes, images clamped to [−1, 1]; sample i has the
    same noise in every row. The same call twice gives the same numbers, but for `seconds` (sampling alone).
    Samples that are not finite leave None in their row and a warning. `weights` names the weights in the
    protocol id; a `ruler` made by `reference` saves fitting it again.
    Raises: ValueError for too few samples or rows, steps below 1, or times that do not fall.
    """
    planned = plan(steps, times)
    ruler = ruler or reference(dataset)
    enough(num, ruler)
    label = generation.cycle(num, flow.num_classes)
    protocol = Protocol(
        features=ruler.features.name,
        num=num,
        reference=dataset.name,
        size=len(dataset),
        checksum=ruler.checksum,
        weights=weights,
        seed=seed,
        labels="none" if label is None else "cycle",
        guidance=effective_guidance(objective, guidance),
    )
    make = partial(
        generation.generate,
        flow,
        objective,
        dataset.shape,
        num,
        seed=seed,
        label=label,
        guidance=guidance,
        batch=batch,
        bounds=BOUNDS.get(dataset.kind),
    )
    generation.warm_up(flow, dataset.shape, label, max(1, min(batch, num)))
    rows = []
    for count, grid in planned:
        samples, seconds = timed(make, generation.device_of(flow), count, grid)
        numbers = dict.fromkeys(NUMBERS) if samples is None else measure(samples, label, ruler)
        budget = spent(objective, count, grid, guidance) | {"guidance": protocol.guidance}
        rows.append(budget | stated(protocol, ruler) | numbers | {"seconds": seconds})
    return rows


def spent(
    objective: Objective, steps: int, times: tuple[float, ...] | None, guidance: float | None
) -> dict[str, Any]:
    """What a row says of its sampling: network evaluations, steps, times and sampler."""
    return {
        "nfe": objective.nfe(steps, guidance=guidance),
        "steps": steps,
        "times": None if times is None else list(times),
        "sampler": "ddim" if objective.sampling.instantaneous(steps) else "chain",
    }


def enough(num: int, ruler: Reference) -> None:
    """Refuse too few samples before any is made.

    Raises: ValueError where `num` does not exceed the number of features.
    """
    dims = ruler.rows.shape[1]
    if num <= dims:
        raise ValueError(
            f"num={num} samples are too few for a Fréchet distance over {dims} {ruler.features.name} "
            f"features: ask for at least {dims + 1} (1000 is the usual protocol)"
        )


def timed(
    make: Callable[..., Tensor], device: torch.device, steps: int, times: tuple[float, ...] | None
) -> tuple[Tensor | None, float]:
    """The samples of one row and the seconds they took; None and a warning where some are not finite."""
    synchronize(device)
    start = time.perf_counter()
    try:
        samples = make(steps=steps) if times is None else make(times=times)
    except generation.NotFinite as error:
        warnings.warn(f"nothing was measured at {steps} steps: {error}", UserWarning, stacklevel=3)
        return None, time.perf_counter() - start
    synchronize(device)
    return samples, time.perf_counter() - start


def stated(protocol: Protocol, ruler: Reference) -> dict[str, Any]:
    """What every row of one evaluation states: the protocol, and what real data would score by it."""
    return {
        "features": protocol.features,
        "protocol": str(protocol),
        "num": protocol.num,
        "floor": ruler.floor,
        "judge": None if ruler.judge is None else ruler.judge.score,
    }
