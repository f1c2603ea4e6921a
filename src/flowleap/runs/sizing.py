"""The plan of a run of a given time: network, batch, steps and all else that follows from data, device and pace.

Everything here is a pure function of its arguments; `planning` measures the pace and resolves the config.

| choice            | rule                                                                                          |
|-------------------|-----------------------------------------------------------------------------------------------|
| method            | `method`                                                                                      |
| network           | a transformer; for images of `LARGE` pixels or more, and for few, a U-Net if there is time    |
| patch             | the smallest with at most 64 tokens, or 256 for large images and for large networks           |
| width, depth, batch | the last of the `ladder` whose step takes about `step_target` seconds                       |
| learning rate     | 2e-3 · 64 / width of a transformer, 1e-3 · 32 / width of a U-Net, at most these 2e-3 and 1e-3 |
| average           | looks back a tenth of the run                                                                 |
| guidance          | scale 2 with labels, for the method that is chosen here                                       |
| mirrored images   | up to `MIRRORED` color images that look like their mirror images, see `symmetric`             |
| dropout           | 0.1 for fewer than `FEW` images, 0.2 for fewer than a quarter of them                         |
| samples measured  | 1,000; 10,000 on a GPU for as many images                                                     |

>>> photos = Facts("photos", "image", (3, 64, 64), rows=300, classes=None, symmetric=True)
>>> chosen = size(photos, "cpu", 1800.0, Pace(rate=5e10))
>>> chosen.kind, chosen.width, chosen.patch, chosen.batch
('DiT', 64, 4, 16)
>>> chosen = size(photos, "cuda", 3600.0, Pace(rate=2e13))
>>> chosen.kind, chosen.width, chosen.dropout, chosen.batch
('UNet', 32, 0.2, 64)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from flowleap.data import Dataset
from flowleap.data.rows import some
from flowleap.evaluation.quality_table import FEW
from flowleap.formatting import roughly
from flowleap.guidance import Guidance
from flowleap.training.config import TrainConfig

DEFAULT_SECONDS = {"cpu": 600.0, "cuda": 3600.0}
"""The length of a run where none is given, by the type of the device."""
TARGET = {"cpu": (0.15, 600.0), "cuda": (0.12, 3600.0)}
"""Seconds of a step in a run of so many seconds; they grow with the root of that, so that steps do, too."""
SHORTEST, LONGEST = 0.05, 0.5
"""Bounds of these seconds of a step."""
SLACK = 1.2
"""A step may take this much longer than its target."""
RATE = {"cpu": 1e10, "cuda": 5e12}
"""Operations/s of a device that are assumed for the first measurement; low, so that this takes little time."""
EQUIVALENTS = 5.0
"""Forward-equivalents of a step that are assumed where none was measured."""
LEAST_SECONDS, LEAST_STEPS, USUAL_STEPS = 30.0, 300, 1500
"""The shortest run that is planned, in seconds and in steps, and the steps below which a run is called short."""
LARGE = 48
"""Images from this side on are for a U-Net: a transformer has too many tokens, or patches that are too large."""
FEWEST_TOKENS, TOKENS, FINE_TOKENS, LARGEST_PATCH = 16, 64, 256, 8
SMALLEST_LEVEL, WIDE_BELOW = 8, 32
"""A U-Net halves the image down to this side; its levels of more than 32 pixels have the width of the first."""
MIRRORED = 100_000
ASYMMETRY = 0.01
"""The largest share of the difference between images and mirror images that their means explain, see `symmetric`."""
LOOKED_AT = 500
PER_CLASS = 10
"""Guidance needs at least so many images of each class on average."""
TRANSFORMERS = (  # width, depth, heads, batch, tokens
    (64, 4, 4, 64, TOKENS), (64, 4, 4, 128, TOKENS), (96, 6, 3, 128, TOKENS), (192, 6, 3, 128, TOKENS),
    (192, 6, 3, 128, FINE_TOKENS), (192, 6, 3, 256, FINE_TOKENS), (384, 12, 6, 256, FINE_TOKENS),
    (384, 12, 6, 512, FINE_TOKENS), (768, 12, 12, 256, FINE_TOKENS), (768, 12, 12, 512, FINE_TOKENS),
)  # fmt: skip
SMALL_TRANSFORMERS = tuple((64, 4, 4, batch, TOKENS) for batch in (16, 32, 64))
U_NETS = (  # width, depth, heads, batch
    (16, 1, 1, 16), (16, 1, 1, 32), (32, 1, 2, 32), (32, 2, 2, 32), (32, 2, 2, 64), (64, 2, 4, 64),
    (64, 2, 4, 128), (64, 4, 4, 128), (128, 4, 4, 128), (128, 4, 4, 256),
)  # fmt: skip
WIDEST_FOR_FEW = 32
"""The widest U-Net for few images, of some two million parameters."""


@dataclass(frozen=True)
class Facts:
    """What a plan follows from about data.

    Args:
        shape: (channels, height, width). rows: how many images. classes: their number, None without labels.
        symmetric: whether mirrored images look like the data, see `symmetric`.
    """

    name: str
    kind: Literal["image", "latents"]
    shape: tuple[int, int, int]
    rows: int
    classes: int | None
    symmetric: bool = False

    @property
    def few(self) -> bool:
        """Whether a network may memorize the images."""
        return self.rows < FEW

    @property
    def dropout(self) -> float:
        """The share of activations that a network for few images drops in training."""
        if not self.few:
            return 0.0
        return 0.2 if 4 * self.rows < FEW else 0.1

    @property
    def guided(self) -> bool:
        """Whether there are labels to guide by, with enough images of each class."""
        return (self.classes or 0) > 1 and self.rows >= PER_CLASS * (self.classes or 0)

    @property
    def flip(self) -> bool | None:
        """Whether to mirror images; None for the default of latents."""
        if self.kind == "latents":
            return None
        return self.symmetric and self.shape[0] == 3


@dataclass(frozen=True)
class Size:
    """A network with its batch.

    Args:
        kind: "DiT" or "UNet". patch: of a DiT, 0 for none. multipliers: of a UNet. dropout: see `Facts.dropout`.
        operations: of one evaluation of one image, about; a multiply-add counts as two.
    """

    kind: Literal["DiT", "UNet"]
    width: int
    depth: int
    heads: int
    batch: int
    patch: int = 0
    multipliers: tuple[int, ...] = ()
    dropout: float = 0.0
    operations: float = 0.0

    @property
    def network(self) -> dict[str, Any]:
        """The options of the network, without shape and classes."""
        options: dict[str, Any] = {
            "kind": self.kind,
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "dropout": self.dropout,
        }
        if self.kind == "DiT":
            return options | {"patch": self.patch}
        return options | {"multipliers": list(self.multipliers), "attention": [len(self.multipliers) - 1]}

    @property
    def lr(self) -> float:
        """The learning rate, which falls with the width."""
        usual, width = (2e-3, 64) if self.kind == "DiT" else (1e-3, 32)
        return usual * min(1.0, width / self.width)

    @property
    def work(self) -> float:
        """Operations of a step, about."""
        return EQUIVALENTS * self.batch * self.operations


@dataclass(frozen=True)
class Pace:
    """Seconds of a training step by its size: as measured, or by the operations of the nearest one that was measured.

    Args:
        rate: operations/s of the device where nothing was measured.
        measured: sizes with the seconds of their steps.
    """

    rate: float
    measured: tuple[tuple[Size, float], ...] = ()

    def seconds(self, size: Size) -> float:
        """Return the seconds of a step."""
        if not self.measured:
            return size.work / self.rate
        near, seconds = min(self.measured, key=lambda one: abs(math.log(one[0].work / size.work)))
        return seconds * size.work / near.work

    def knows(self, size: Size) -> bool:
        """Whether the step of a size was measured."""
        return any(size == one for one, _ in self.measured)

    def also(self, size: Size, seconds: float) -> Pace:
        """Return the pace with one more measurement."""
        return replace(self, measured=(*self.measured, (size, seconds)))


@dataclass(frozen=True)
class Plan:
    """How the time of a run is spent.

    Args:
        data: None for data whose settings do not follow from them (points, digits by their recipe).
        seconds: the whole time. given: whether it was asked for.
        step: wall seconds of a step. around: seconds before the first step and after the last.
        extra: seconds of pictures and measurements beside each second of training.
    """

    seconds: float
    given: bool
    device: str
    step: float
    around: float
    extra: float
    data: Facts | None = None

    @property
    def steps(self) -> int:
        """The steps that the time allows, in tens."""
        left = (self.seconds - self.around) / (self.step * (1 + self.extra))
        return max(0, int(left) // 10 * 10)

    @property
    def training(self) -> float:
        """The seconds of all steps."""
        return self.steps * self.step

    @property
    def needed(self) -> float:
        """The seconds that the fewest steps of a plan would take."""
        return self.around + LEAST_STEPS * self.step * (1 + self.extra)


def method() -> str:
    """Return the method of a planned run where none is named."""
    return "esc"


def facts(dataset: Dataset) -> Facts | None:
    """Return what a plan follows from; None for points."""
    if dataset.kind == "points":
        return None
    channels, height, width = dataset.shape
    return Facts(
        dataset.name,
        dataset.kind,
        (channels, height, width),
        len(dataset),
        dataset.num_classes,
        symmetric=dataset.kind == "image" and len(dataset) <= MIRRORED and looks_symmetric(dataset),
    )


def looks_symmetric(dataset: Dataset) -> bool:
    """Return whether the images of a data set look like their mirror images, by a fixed random part of them."""
    rows = dataset.chosen(min(len(dataset), LOOKED_AT))
    label = None if dataset.label is None else dataset.label[rows]
    return symmetric(some(dataset.x, rows)[:], label)


def symmetric(x: Tensor, label: Tensor | None = None) -> bool:
    """Return whether images look like their mirror images, in the mean of each class.

    d = image − mirror image has mean zero if both are equally likely. ‖mean d‖² is then about mean ‖d‖² / n; what it
    has beyond that is the asymmetry, at most `ASYMMETRY` of mean ‖d‖², averaged over classes. Digits and clothes have
    0.03 to 0.4, photographs of CIFAR-10 less than 0.005.

    Shapes: x (rows, channels, height, width), label (rows,) or None.
    """
    d = (x - x.flip(-1)).flatten(1)
    groups = [d] if label is None else [d[label == one] for one in label.unique()]
    excess = total = 0.0
    for group in groups:
        if len(group) < 2:
            continue
        mean = float(group.square().sum(1).mean())
        excess += len(group) * float(group.mean(0).square().sum()) - mean
        total += len(group) * mean
    return excess <= ASYMMETRY * total


def step_target(device: str, seconds: float) -> float:
    """Return how many seconds a step of a run of so many seconds should take.

    >>> round(step_target("cpu", 600.0), 3), round(step_target("cpu", 2400.0), 3), step_target("cpu", 1e6)
    (0.15, 0.3, 0.5)
    """
    usual, reference = TARGET[device]
    return min(LONGEST, max(SHORTEST, usual * math.sqrt(seconds / reference)))


def size(data: Facts, device: str, seconds: float, pace: Pace, among: Sequence[Size] = ()) -> Size:
    """Return the last of the ladder whose step is short enough, the first where none is.

    Args:
        among: what to choose from, where that is not all of the ladder.
    """
    most, every = (
        SLACK * step_target(device, seconds),
        [one for one in ladder(data) if one in (among or [one])],
    )
    return next((one for one in reversed(every) if pace.seconds(one) <= most), every[0])


def ladder(data: Facts) -> list[Size]:
    """Return the networks and batches that are for some data, from the smallest to what would be best.

    For few and for large images these are U-Nets, below them a small transformer for what a U-Net is too slow for.
    """
    if data.few or (data.kind == "image" and min(data.shape[1:]) >= LARGE):
        return [*transformers(data, SMALL_TRANSFORMERS), *u_nets(data)]
    return transformers(data, TRANSFORMERS) or u_nets(data)


def transformers(data: Facts, entries: Sequence[tuple[int, int, int, int, int]]) -> list[Size]:
    """Return transformers by width, depth, heads, batch and tokens, without those that no patch fits."""
    large, found = data.kind == "image" and min(data.shape[1:]) >= LARGE, []
    for width, depth, heads, batch, tokens in entries:
        side = patch(data.shape, FINE_TOKENS if large else tokens)
        if side is not None:
            found.append(transformer(data, width, depth, heads, batch, side))
    return found


def patch(shape: tuple[int, int, int], most: int) -> int | None:
    """Return the smallest patch with at most so many tokens, None where none divides the image or leaves enough tokens.

    >>> patch((1, 28, 28), 64), patch((1, 28, 28), 256), patch((4, 32, 32), 256), patch((3, 31, 31), 256)
    (4, 2, 2, None)
    """
    _, height, width = shape
    counts = {
        side: height * width // side**2
        for side in range(1, min(height, width) + 1)
        if height % side == width % side == 0
    }
    fitting = (side for side, count in counts.items() if FEWEST_TOKENS <= count <= most)
    return next((side for side in fitting if side <= LARGEST_PATCH), None)


def transformer(data: Facts, width: int, depth: int, heads: int, batch: int, patch: int) -> Size:
    """Return a transformer of a width with its operations."""
    channels, height, side = data.shape
    tokens = height * side // patch**2
    block = 12 * tokens * width**2 + 2 * tokens**2 * width + 6 * width**2
    ends = 2 * tokens * width * channels * patch**2
    return Size("DiT", width, depth, heads, batch, patch, (), data.dropout, 2.0 * (depth * block + ends))


def u_nets(data: Facts) -> list[Size]:
    """Return U-Nets with their operations, about: 3 × 3 convolutions, and four tenths of that for all else."""
    sides, most = levels(min(data.shape[1:])), WIDEST_FOR_FEW if data.few else math.inf
    multipliers = tuple(1 if not index or side > WIDE_BELOW else 2 for index, side in enumerate(sides))
    found = []
    for width, depth, heads, batch in U_NETS:
        if width <= most:
            blocks = sum((side * m * width) ** 2 for side, m in zip(sides, multipliers, strict=True))
            operations = 1.4 * 18 * blocks * (5 * depth + 3)
            found.append(Size("UNet", width, depth, heads, batch, 0, multipliers, data.dropout, operations))
    return found


def levels(side: int) -> list[int]:
    """Return the sides of the levels of a U-Net.

    >>> levels(64), levels(28), levels(8)
    ([64, 32, 16, 8], [28, 14, 7], [8, 4])
    """
    found = [side]
    while found[-1] > SMALLEST_LEVEL or len(found) < 2:
        found.append(-(-found[-1] // 2))
    return found


def average(steps: int) -> float:
    """Return the decay of an average that looks back a tenth of a run, from 100 to 10,000 steps.

    >>> average(2000), average(40_000), average(10)
    (0.995, 0.99975, 0.99)
    """
    return round(1 - 1 / min(10_000, max(100, steps // 10)), 6)


def samples(data: Facts, device: str) -> int:
    """Return how many samples the final table measures."""
    return 10_000 if device == "cuda" and data.rows >= 10_000 else 1000


def preset(data: Facts, device: str, size: Size, steps: int = USUAL_STEPS) -> dict[str, Any]:
    """Return the fields of the config of a run, by dotted paths; `network` are its options."""
    return {
        "network": size.network,
        "schedule.steps": steps,
        "schedule.warmup": 0.02,
        "schedule.decay": 0.5,
        "data.batch": size.batch,
        "data.flip": data.flip,
        "optimizer.lr": size.lr,
        "optimizer.ema": (average(steps),),
        "evaluation.num": samples(data, device),
        "parallel.precision": "bf16" if device == "cuda" else "fp32",
    }


def guidance(data: Facts) -> Guidance | None:
    """Return the guidance of a run whose method is chosen here: of scale 2 with labels."""
    return Guidance(omega=1.0, kappa=0.5) if data.guided else None


def refuse_short(plan: Plan, asked: str, what: str, busy: str = "") -> None:
    """Raise ValueError for a plan of too few steps.

    Args:
        asked: the time as it was given. what: the network and its batch in words. busy: a note on other work.
    """
    if plan.steps < LEAST_STEPS:
        smaller = (
            "smaller images (--size)" if plan.data is not None and plan.data.kind == "image" else "less data"
        )
        raise ValueError(
            f"{asked} is too short: a step of {what} takes {plan.step:.2g} s here, and {LEAST_STEPS} of them, one "
            f"evaluation and the start take about {roughly(plan.needed)}: give --minutes {minutes(plan.needed)} or "
            f"more, or take {smaller}{busy and '; ' + busy}"
        )


def minutes(seconds: float) -> int:
    """Return whole minutes that are at least as long."""
    return math.ceil(seconds / 60)


def sentences(plan: Plan, title: str, network: str, config: TrainConfig, rows: int) -> list[str]:
    """Return the plan in a few lines.

    Args:
        title: the method and its data. network: in words. config: as it was resolved. rows: of the data.
    """
    length = roughly(plan.seconds) if plan.seconds < 120 else f"{plan.seconds / 60:.3g} minutes"
    by = "" if plan.given else ", chosen here (--minutes N or --steps N for another length)"
    batch = config.data.batch
    passes = plan.steps * batch / max(1, rows)
    guided = "" if config.objective.guidance is None else "guided by labels, "
    turned = "mirrored at random, " if config.data.flip else ""
    return [
        f"{length} on {'a GPU' if plan.device == 'cuda' else 'the CPU'}{by}: {title}",
        f"{network}; {guided}{turned}learning rate {config.optimizer.lr:.2g}, average {config.optimizer.ema[0]:g}",
        f"{plan.steps:,} steps of {batch}, {passes:,.3g} passes over the data, at {plan.step:.2g} s a step: "
        f"{roughly(plan.training)} of training, {roughly(plan.seconds - plan.training)} for start, pictures and a "
        f"table of {config.evaluation.num:,} samples",
        *expectations(plan),
    ]


def expectations(plan: Plan) -> list[str]:
    """Return in words what to expect of a plan for images, and what it does about few of them."""
    data, found = plan.data, []
    if data is not None and data.few:
        found.append(
            f"fewer than {FEW:,} images can be memorized, so the network is small and drops a share of its "
            "activations; the memorization ratio in the final table tells copies (0) from new images (1)"
        )
    if data is not None and plan.steps < USUAL_STEPS:
        longer = minutes(plan.around + USUAL_STEPS * plan.step * (1 + plan.extra))
        found.append(
            f"expect shapes and colors without detail: fewer than {USUAL_STEPS:,} steps are short; --minutes {longer} "
            "has as many"
        )
    elif data is not None and plan.device == "cpu" and min(data.shape[1:]) >= WIDE_BELOW:
        found.append(
            "expect recognizable but rough images in one step, better ones in two or four; a longer run or a GPU "
            "sharpens them"
        )
    elif data is not None:
        found.append("expect recognizable images in one step, better ones in two or four")
    return found
