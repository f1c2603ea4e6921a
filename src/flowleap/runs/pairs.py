"""Pairs of noise and sample that a teacher makes for reflow; an interrupted phase is resumed."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from flowleap import processes, samplers
from flowleap.data import Dataset
from flowleap.data.batching import Shuffled
from flowleap.data.pairs import Origin, PairStore
from flowleap.evaluation import generation
from flowleap.runs.reading import Run
from flowleap.tensors import Label
from flowleap.training.config import TrainConfig
from flowleap.training.interrupt import Interruption
from flowleap.training.log import Reporter

SEED = 2_000_003
"""Of the noise of pairs; pictures, tables and online evaluation have other noise, so that none of it was trained on."""
BATCH = 250


def seed_of(config: TrainConfig) -> int:
    """Return the seed of the noise of the pairs of a run."""
    return SEED + config.seed


def store(folder: Path, config: TrainConfig, dataset: Dataset, teacher: Run) -> PairStore:
    """Open the pairs of a run, or begin them.

    Raises: ShardError for pairs of another teacher or setting, or that are cut short.
    """
    assert config.teacher.pairs is not None and config.teacher.checksum is not None
    origin = Origin(
        count=config.teacher.pairs,
        shape=dataset.shape,
        classes=teacher.num_classes,
        teacher=teacher.weights,
        checksum=config.teacher.checksum,
        steps=config.teacher.pair_steps,
        guidance=config.teacher.pair_guidance,
        seed=seed_of(config),
    )
    return PairStore(folder, origin)


def labels(origin: Origin, dataset: Dataset) -> Label:
    """Return the labels of all pairs: those of the data in shuffled passes, so that classes keep their shares.

    Shapes: (count,), int64; None without classes.
    """
    if origin.classes is None or dataset.label is None:
        return None
    return dataset.label[Shuffled().indices(None, len(dataset), origin.count, 0, origin.seed)]


def make(
    store: PairStore, config: TrainConfig, dataset: Dataset, teacher: Run, reporter: Reporter
) -> int | None:
    """Make the pairs that are missing; return the signal that interrupted it, with the shards so far stored.

    The noise of pair i is `samplers.noise(seed, i)`, and its sample is not clamped. Every process makes its share of
    each shard, and the first writes it.
    """
    if store.whole:
        return None
    origin, label = store.origin, labels(store.origin, dataset)
    with Interruption() as interruption, reporter.progress(origin.count, store.done):
        for index in store.missing():
            begin = time.perf_counter()
            wanted = origin.shards[index].rows
            share = processes.share(len(wanted))
            own = range(wanted.start + share.start, wanted.start + share.stop)
            noise = samplers.noise(origin.seed, torch.arange(wanted.start, wanted.stop), origin.shape)
            parts = [noise[:0]]
            with warnings.catch_warnings():  # which steps suit the teacher is the user's choice
                warnings.simplefilter("ignore", UserWarning)
                request = generation.Request(
                    teacher.flow,
                    teacher.objective,
                    origin.shape,
                    seed=origin.seed,
                    label=label,
                    steps=origin.steps,
                    guidance=origin.guidance,
                )
                for part, _ in request.stream(own, BATCH):
                    parts.append(part)
                    done = wanted.start + processes.count() * sum(map(len, parts))
                    reporter.advance(min(done, wanted.stop))
                    reporter.count("pairs")
            chosen = None if label is None else label[wanted.start : wanted.stop]
            made, seconds = processes.gathered(torch.cat(parts)), time.perf_counter() - begin
            processes.from_first(partial(store.add, noise, made, chosen, seconds))
            store.refresh()
            if processes.any_of(interruption()):
                break
    return max(filter(None, processes.every(interruption.signal)), default=None)


def rows(store: PairStore, dataset: Dataset) -> Dataset:
    """Return the pairs as data to train on: each row brings the noise that it was made from.

    Raises: ShardError for a store that is not whole.
    """
    noise, x, label = store.load()
    return replace(
        dataset,
        name=f"pairs of {dataset.name}",
        x=x,
        label=label,
        num_classes=None if label is None else dataset.num_classes,
        noise=noise,
        path="",
        held_out=None,
        known=None,
    )
