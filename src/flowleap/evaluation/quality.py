"""Evaluation of a trained map, or of given samples: quality and time by NFE, each row with its protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowleap import autoencoders, clock, processes, provenance, samplers
from flowleap.autoencoders import Decoder
from flowleap.data import Dataset, open_images
from flowleap.evaluation import generation, labels
from flowleap.evaluation.evaluator import Evaluator, chosen, evaluator_for, preprocessing_like
from flowleap.evaluation.features import READ
from flowleap.evaluation.numbers import Tally, enough
from flowleap.evaluation.protocol import STANDARDS, Protocol, Standard, effective_guidance
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective
from flowleap.progress import counted

STEPS = (1, 2, 4, 128)
BOUNDS = {"image": (-1.0, 1.0)}  # the range of an image file; points are measured as they are
Batches = Iterable[tuple[Tensor, Tensor | None]]


def samplings(
    flow: FlowMap, steps: Sequence[int], times: Sequence[float] | None
) -> list[tuple[int, tuple[float, ...] | None]]:
    """Return the (steps, times) to be measured: one for each number of steps, or one for given times.

    Raises: ValueError for a number of steps below 1, or times that do not fall from where the map is sampled from.
    """
    if times is not None:
        samplers.grid(flow.path, times=times, start=flow.start)
        return [(len(times) - 1, tuple(times))]
    if not steps:
        raise ValueError("no number of steps was given: name at least one, as in 1,2,4")
    for count in steps:
        if count < 1:
            raise ValueError(f"steps={count}: sampling takes at least 1 step")
    return [(count, None) for count in steps]


@dataclass
class Timer:
    """Wall time spent inside an iterator, without the time between its items; synchronizes an accelerator."""

    device: torch.device
    seconds: float = 0.0

    def around(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the batches, timing each."""
        source = iter(batches)
        while True:
            start = clock.now(self.device)
            batch = next(source, None)
            self.seconds += clock.now(self.device).since(start).wall
            if batch is None:
                return
            yield batch


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
    interval: tuple[float, float] | None = None,
    weights: str = "given",
    evaluator: Evaluator | None = None,
    standard: Standard = STANDARDS["flowleap"],
    tick: Callable[[int], None] = lambda evaluations: None,
    decoder: Decoder | None = None,
) -> list[dict[str, Any]]:
    """Return quality and time of a trained map, one row for each number of steps.

    Exactly `num` samples, images clamped to [−1, 1]; sample i has the same noise and label in every row. The
    same call twice gives the same numbers, but for `seconds` (sampling alone, first process). Samples that
    are not finite leave None in their row and a warning. In torch.distributed every process makes its share.

    Args:
        guidance, interval: as in `Objective.sample`.
        dataset: what the map was trained on: the shape of a sample, and the real data unless an evaluator is given.
        weights: the name of the weights in the protocol id.
        evaluator: by default `evaluator_for(dataset)`.
        standard: fixes the label distribution, see `evaluation.labels`, and what the evaluator must be.
        tick: called with the number of network evaluations done.
        decoder: decodes latents for an evaluator of images; by default that of the data.

    Raises: ValueError for too few samples or rows, steps below 1, times that do not fall, or samples of
        another shape than the standard or the features are made for.
    """
    planned = samplings(flow, steps, times)
    evaluator = evaluator or evaluator_for(dataset)
    enough(num, evaluator)
    decoder = decoder or decoder_for(dataset, evaluator, generation.device_of(flow))
    fitting(dataset.shape if decoder is None else decoder.shape(dataset.shape), evaluator, standard)
    asked = labels.asked(standard.labels, num, labels.names_of(dataset, flow.num_classes), evaluator, seed)
    protocol = replace(
        conditions(standard, evaluator, num, asked.law, weights),
        seed=seed,
        guidance=effective_guidance(objective, guidance, interval),
        renoise=objective.sampling.renoise,
        decoder="" if decoder is None else decoder.autoencoder.codec().name,
    )
    generation.warm_up(flow, dataset.shape, asked.label, max(1, min(batch, num)))
    request = generation.Request(
        flow,
        objective,
        dataset.shape,
        seed=seed,
        label=asked.label,
        guidance=guidance,
        interval=interval,
        bounds=BOUNDS.get(dataset.kind),
        decode=decoder,
        tick=tick,
    )
    rows = []
    for count, grid in planned:
        budget = spent(objective, count, grid, guidance)
        timer, tally = Timer(generation.device_of(flow)), Tally(evaluator)
        made = replace(request, times=grid, steps=None if grid else count).stream(processes.share(num), batch)
        for samples, label in timer.around(made):
            tally.add(samples, asked.there(label))
        numbers = tally.numbers()
        if tally.broken:
            error = generation.NotFinite(tally.broken, num)
            warnings.warn(f"nothing was measured at {count} steps: {error}", UserWarning, stacklevel=2)
        said = stated(protocol, evaluator, seen=same_rows(evaluator, dataset))
        rows.append(budget | numbers | {"seconds": timer.seconds} | said)
    return rows


def decoder_for(dataset: Dataset, evaluator: Evaluator, device: torch.device) -> Decoder | None:
    """Return the decoder of latents for an evaluator of images; None where none is needed.

    Raises: ValueError, OSError where the autoencoder is not known or cannot be loaded.
    """
    if dataset.kind != "latents" or evaluator.features.latents:
        return None
    if dataset.codec is None:
        raise ValueError(
            f"{evaluator.features.name} features are of images, and which autoencoder makes images of these latents is "
            "not known: name it with --vae"
        )
    return autoencoders.decoder(dataset.codec, device=device)


def evaluate_set(
    batches: Batches,
    num: int,
    evaluator: Evaluator,
    standard: Standard = STANDARDS["flowleap"],
    source: str = "given",
    law: str = "none",
    tick: Callable[[int], None] = lambda samples: None,
) -> dict[str, Any]:
    """Return the quality of given samples, as the one row of a table; `law` is that of `labels.given`.

    Shapes: batches yield samples (n, ...) and labels (n,) as the evaluator numbers its classes, or None; `num` in all.
    Raises: ValueError for too few samples, samples that are not finite, or that do not fit the features.
    """
    enough(num, evaluator)
    tally = Tally(evaluator)
    for samples, label in batches:
        fitting(tuple(samples.shape[1:]), evaluator, standard)
        tally.add(samples, label)
        tick(len(samples))
    if tally.broken:
        raise ValueError(f"{tally.broken} of {num} samples of {source} are not finite: nothing was measured")
    protocol = conditions(standard, evaluator, num, law, source)
    unknown = dict.fromkeys(("nfe", "steps", "times", "sampler", "seconds"))
    return unknown | tally.numbers() | stated(protocol, evaluator, seen=None)


def evaluate_images(
    place: Path,
    reference: str,
    standard: Standard = STANDARDS["flowleap"],
    features: str | None = None,
    num: int | None = None,
    device: str | torch.device = "cpu",
    say: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """Return the quality of a folder or a file of images, as the one row of a table.

    Args:
        reference: the name or place of what they are compared with. num: None for all of them.
        say: called with a note on what was left out.

    Raises: ValueError as `evaluate_set` and `chosen`, and for more images than there are.
    """
    source = open_images(place)
    for line in source.notes:
        say(line)
    count = len(source) if num is None else num
    if count > len(source):
        raise ValueError(f"{place} holds {len(source)} images, and {count} were asked for with --num")
    preprocessing = preprocessing_like(source.shape, reference, None)
    evaluator = chosen(standard, features, reference, None, device, preprocessing)
    with counted(f"{count} images of {place}", count) as tick:
        label = None if source.label is None else source.label[source.chosen(count)]
        found = labels.given(label, source.class_names, evaluator)
        there = found.there(label)
        parts = [None] * count if there is None else there.split(READ)
        batches = zip(source.batches(READ, count), parts, strict=False)
        return evaluate_set(batches, count, evaluator, standard, place.name, found.law, tick)


def conditions(standard: Standard, evaluator: Evaluator, num: int, law: str, weights: str) -> Protocol:
    """Return the protocol of the numbers of an evaluator."""
    return Protocol(
        standard=str(standard),
        metric=evaluator.features.frechet,
        num=num,
        reference=evaluator.described,
        features_checksum=evaluator.features.checksum,
        labels=law,
        weights=weights,
    )


def same_rows(evaluator: Evaluator, dataset: Dataset) -> bool | None:
    """Whether an evaluator compares with the data set itself; None where the rows of one of them are not known."""
    if evaluator.dataset is None or not len(dataset):
        return None
    if dataset.kind == "latents" and evaluator.dataset.kind == "image":
        return (evaluator.dataset.address, evaluator.split) == (dataset.source, dataset.split)
    part_of = evaluator.dataset.part_of
    return evaluator.dataset is dataset or dataset.checksum in (evaluator.checksum, part_of)


def fitting(shape: tuple[int, ...], evaluator: Evaluator, standard: Standard) -> None:
    """Raise ValueError where samples do not fit an evaluator or a standard, or these do not fit one another."""
    if standard.shape is not None and shape != standard.shape:
        raise ValueError(
            f"protocol {standard} is made for images of {sized(standard.shape)}, and these are {sized(shape)}: "
            "choose another protocol"
        )
    features = evaluator.features
    if standard.features not in (None, features.name):
        raise ValueError(
            f"protocol {standard} is defined with {standard.features} features, not {features.name}"
        )
    if standard.reference and evaluator.stored is None:
        raise ValueError(f"protocol {standard} compares with {standard.reference}, not with {evaluator.name}")
    if features.shape is None and evaluator.shape is not None and shape != evaluator.shape:
        raise ValueError(
            f"samples of {sized(shape)} cannot be compared with {evaluator.name}, whose are {sized(evaluator.shape)}, "
            f"by {features.name} features: compare with data of the same size, or resize the samples"
        )


def sized(shape: tuple[int, ...]) -> str:
    """Return a shape as text: 3 × 32 × 32."""
    return " × ".join(map(str, shape))


def spent(
    objective: Objective, steps: int, times: tuple[float, ...] | None, guidance: float | None
) -> dict[str, Any]:
    """Return the keys of a row about its sampling: NFE, steps, times and sampler."""
    return {
        "nfe": objective.nfe(steps, guidance=guidance, times=times),
        "steps": steps,
        "times": None if times is None else list(times),
        "sampler": objective.sampling.name(steps),
    }


def stated(protocol: Protocol, evaluator: Evaluator, seen: bool | None) -> dict[str, Any]:
    """Return the keys that all rows of one evaluation share: its conditions, and the numbers of real data.

    `seen`: whether the reference is what the map was trained on, None where that is not known.
    """
    features, classifier = evaluator.features, evaluator.classifier
    return {
        "features": features.name,
        "metric": features.frechet,
        "kernel_metric": features.kernel,
        "score_metric": "IS" if features.fid else f"score-{features.name}",
        "features_checksum": features.checksum,
        "floor": evaluator.floor,
        "judge": None if classifier is None else classifier.score,
        "judged_by": None if classifier is None else classifier.name,
        "protocol": str(protocol),
        "num": protocol.num,
        "reference": evaluator.name,
        "reference_split": evaluator.split,
        "reference_size": evaluator.size,
        "reference_seen": seen,
        "reference_mirrored": evaluator.mirrored,
        "checksum": evaluator.checksum,
        "weights": protocol.weights,
        "labels": protocol.labels,
        "guidance": protocol.guidance,
        "seed": protocol.seed,
        "commit": provenance.commit(),
        "version": provenance.version("flowleap"),
    }
