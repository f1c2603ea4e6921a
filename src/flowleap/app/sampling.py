"""What is asked of a model in the app, and its samples."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowleap import samplers
from flowleap.export import source
from flowleap.model import Model

MOST = 64
"""Images that are made at a time, at most."""
POINTS = 1500
"""Points that are made at a time where samples are points."""
STEPS = 128
"""Sampling steps, at most."""
SEED = 2**32 - 1
"""The largest seed."""
SCALE = 8.0
"""The largest scale of guidance by two evaluations."""


@dataclass(frozen=True)
class Asked:
    """Which samples are asked for, see `Model.sample`; a class is asked for by its number.

    Raises: ValueError for more than the app makes at a time, and for what is no number.
    """

    num: Any = 16
    label: Any = "all"
    steps: Any = 1
    seed: Any = 0
    guidance: Any = None

    def __post_init__(self) -> None:
        for name, least, most in (("num", 1, MOST), ("steps", 1, STEPS), ("seed", 0, SEED)):
            object.__setattr__(self, name, whole(name, getattr(self, name), least, most))
        if self.guidance is not None:
            object.__setattr__(self, "guidance", finite("guidance", self.guidance))


def finite(name: str, value: Any) -> float:
    """Return a finite number. Raises: ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: a number is expected, not {value!r}")
    return float(value)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number in [least, most]. Raises: ValueError for anything else."""
    number = finite(name, value)
    if number != int(number) or not least <= number <= most:
        raise ValueError(f"{name}={number:g}: a whole number from {least} to {most:,} is expected")
    return int(number)


@dataclass(frozen=True)
class Knob:
    """How guidance is asked of a model: scales 1 to `largest`, `usual` by itself, and evaluations per step."""

    usual: float
    largest: float
    evaluations: int


def knob(model: Model) -> Knob | None:
    """Return how guidance is asked of a model, None for a model that does not know it."""
    about = source.guidance_of(model.run)
    if about is None or about["by"] not in ("input", "two evaluations"):
        return None
    if about["by"] == "input":
        return Knob(about["usual"], about["largest"], 1)
    return Knob(1.0, SCALE, 2)


@dataclass(frozen=True)
class Made:
    """Samples with their labels, and what it took.

    Shapes: samples (n, *shape of a sample); label (n,) int64, None without classes.
    """

    model: Model
    asked: Asked
    samples: Tensor
    label: Tensor | None
    seconds: float
    guidance: float | None
    notes: tuple[str, ...] = ()

    @property
    def nfe(self) -> int:
        """Network evaluations of one sample."""
        return self.model.objective.nfe(self.asked.steps, guidance=self.guidance)

    @property
    def names(self) -> list[str]:
        """The class of each sample by name, "" without classes."""
        if self.label is None:
            return [""] * len(self.samples)
        return [self.model.classes[number] for number in self.label.tolist()]


def make(model: Model, asked: Asked, noise: Tensor | None = None, label: Tensor | None = None) -> Made:
    """Return the samples that are asked for, from the noise of the seed or from other noise.

    A model of points makes `POINTS` of them.

    Shapes: noise (num, *shape of a latent, image or point), label (num,).
    Raises: ValueError as `Model.sample`.
    """
    known = knob(model)
    scale = None if known is None or asked.guidance is None else min(max(asked.guidance, 1.0), known.largest)
    scale = None if known is not None and known.evaluations == 2 and scale == 1 else scale
    num = POINTS if noise is None and len(model.shape) == 1 else asked.num if noise is None else len(noise)
    labels = model.labels(num, asked.label) if label is None else label
    wanted = asked.label if labels is None else labels
    begin = time.perf_counter()
    samples = model.sample(num, wanted, asked.steps, asked.seed, guidance=scale, noise=noise)
    seconds = time.perf_counter() - begin
    notes = model.objective.advice(asked.steps, None, scale)
    return Made(model, asked, samples, labels, seconds, scale, tuple(notes))


def same_noise(model: Model, asked: Asked, counts: tuple[int, ...] = (1, 2, 4, 128)) -> list[Made]:
    """Return the samples of the same noise in several numbers of steps."""
    return [make(model, replace(asked, steps=steps)) for steps in counts]


def between(first: Tensor, second: Tensor, frames: int) -> Tensor:
    """Interpolate spherically between rows of noise, from the first to the second at equal angles.

    With θ the angle between two rows, x_s = (sin((1 − s) θ) a + sin(s θ) b) / sin θ, as long as both are; rows that
    point the same way are interpolated linearly.

    Shapes: first, second (rows, *shape) → (rows, frames, *shape).
    """
    a, b = first.flatten(1).double(), second.flatten(1).double()
    theta = torch.acos(torch.cosine_similarity(a, b).clamp(-1, 1))[:, None]
    share = torch.linspace(0, 1, frames, dtype=torch.float64)[None]
    sine = theta.sin()
    flat = sine < 1e-6
    p = torch.where(flat, 1 - share, ((1 - share) * theta).sin() / sine)
    q = torch.where(flat, share, (share * theta).sin() / sine)
    mixed = p[..., None] * a[:, None] + q[..., None] * b[:, None]
    return mixed.to(first.dtype).unflatten(2, first.shape[1:])


def interpolated(model: Model, asked: Asked, other: Any, frames: Any) -> Made:
    """Return samples between those of two seeds: row i from sample i of one seed to sample i of the other.

    All samples of a row have the class of sample i. There are `asked.num` rows of `frames` samples.

    Raises: ValueError for equal seeds, and for more samples than the app makes at a time.
    """
    second = whole("second seed", other, 0, SEED)
    frames = whole("frames", frames, 2, MOST)
    if second == asked.seed:
        raise ValueError(f"both seeds are {second}: choose two different ones")
    if asked.num * frames > MOST:
        raise ValueError(f"{asked.num} rows of {frames} are more than {MOST} samples: choose fewer")
    first, last = (samplers.noise(seed, range(asked.num), model.run.shape) for seed in (asked.seed, second))
    labels = model.labels(asked.num, asked.label)
    label = None if labels is None else labels.repeat_interleave(frames)
    return make(model, asked, between(first, last, frames).flatten(0, 1), label)
