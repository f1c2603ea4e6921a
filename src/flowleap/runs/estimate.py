"""Estimate of a run: parameters, memory, floating point operations, images/s and hours.

| quantity              | how                                                                                      |
|-----------------------|------------------------------------------------------------------------------------------|
| parameters            | counted                                                                                  |
| weights, gradients    | 4 bytes a parameter, 4 for each that is trained                                          |
| optimizer             | 8 bytes for each that is trained, the two moments of Adam; 4 where Muon trains it       |
| averages, other nets  | 4 bytes a parameter of each copy: averages, target and auxiliary network, teacher |
| averages of the CPU   | 8 bytes a parameter of each, with the weights that are copied to it                      |
| activations           | the peak of a step beside all of these, see `activations`                                |
| operations of a step  | those of a forward pass (counted by torch, two for a multiply-add) times `cost`          |
| images/s              | real steps of the objective on this machine, on what of batch and network fits           |
| hours                 | operations of the whole run by the operations/s that were measured                       |

What checkpointing computes again is in the time of a step, and not in the operations, so that a share of the peak
means the same with it and without.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flowleap import clock, memory, networks, processes, threads
from flowleap.data import Dataset
from flowleap.data.batching import Shuffled
from flowleap.networks.options import core
from flowleap.randomness import RowGenerator, generator
from flowleap.runs.activations import Activations, activations, shape_of, shortened
from flowleap.runs.cost import bill, cost
from flowleap.runs.phases import PAIRS
from flowleap.runs.reading import device_of
from flowleap.runs.setup import Setup
from flowleap.training.config import TrainConfig
from flowleap.training.distributed import micro_batches
from flowleap.training.optimizer import matrices_of

SECONDS = 20.0
"""How long measuring the speed may take, once the first step is done."""
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}
"""Dense bfloat16 operations/s of GPUs, as their makers state them; a name contains the key."""
UTILIZATION = 0.35
"""The share of its peak that a GPU which was not measured is assumed to reach."""
MOST = 20
"""Steps that are timed at most."""
REDUCED = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Batches that a step is tried on, where the whole takes too long."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device that computes `rows` rows at a time, and beside it of averages that the CPU keeps, `host`."""

    rows: int
    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int
    host: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations

    @property
    def state(self) -> int:
        """Without activations."""
        return self.total - self.activations

    def divided(self, devices: int) -> float:
        """Return the bytes on each of so many devices with --shard, without activations: a share, and what is gathered.

        The loss is one unit of FSDP2, so weights and gradients of a whole network are there while it is computed.
        """
        return self.state / devices + self.weights + self.gradients


@dataclass(frozen=True)
class Speed:
    """Measured speed: images/s of a step on `rows` rows and `share` of the operations of the network.

    `flops` are operations/s. `peak` is the share of the peak of the device, where that is known. On a CPU all of it is
    by processor time, so that other work on the machine does not count; `load` is by how much the wall time was longer.
    """

    device: str
    rows: int
    share: float
    steps: int
    measured: float
    images: float
    flops: float
    peak: float | None
    load: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """Parameters, memory, operations and time of a run.

    Args:
        parameters: all; trained: those that are trained.
        memory: on one device that computes its share of the batch, or of it what `per_device` allows.
        activation_row, activation_once: bytes that a row adds, and that are there in any case.
        forward: operations of a forward pass of one image; step: those of a training step, per image of the batch.
        equivalents: forward-equivalents of a step, see `cost`.
        images: of all phases; total: operations of the run.
        speed: None where it was not measured; hours: of the run at that speed.
    """

    parameters: int
    trained: int
    memory: Memory
    activation_row: float
    activation_once: float
    forward: float
    equivalents: float
    step: float
    images: int
    total: float
    speed: Speed | None
    hours: float | None

    def rows_within(self, limit: float) -> int:
        """Return the most rows at a time that a device with so many bytes takes; 0 where not even its state fits."""
        room = limit - self.memory.state - self.activation_once
        return max(0, int(room / self.activation_row)) if self.activation_row else 0

    def hours_on(self, peak: float) -> float:
        """Return the hours on one device with this peak, at the share of it that is assumed."""
        return self.total / (UTILIZATION * peak) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def estimate(config: TrainConfig, rows: int, *, seconds: float = SECONDS, speed: bool = True) -> Estimate:
    """Return the estimate of a run on a data set of so many rows.

    Args:
        seconds: how long measuring the speed may take. speed: whether to measure it.
    """
    with torch.device("meta"):
        network: Any = networks.build(config.network)
    every = sum(weight.numel() for weight in network.parameters())
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    by_muon = 0 if config.optimizer.muon is None else sum(weight.numel() for weight in matrices_of(network))
    (copies, others), on_cpu = _copies(config), _averages_on_cpu(config)
    micro_batches(
        config.objective, config.data.batch, config.parallel.per_device, config.parallel.accumulate
    )  # refuses what cannot be split
    at_once = rows_at_once(config, processes.count())
    parts = -(-config.data.batch // (processes.count() * at_once))
    fewer = max((n for n in REDUCED if n < at_once and _takes(config, n)), default=at_once)
    kept = activations(config, at_once, fewer, device_of(config.parallel.device))
    if parts == 1:  # the gradients of a network come when its activations go
        kept = replace(kept, once=kept.once - 4 * trained)
    held = Memory(
        rows=at_once,
        weights=4 * every * (1 + others),
        gradients=4 * trained * (1 + others),
        optimizer=8 * trained * (1 + others) - 4 * by_muon,
        copies=4 * every * (copies - on_cpu),
        host=8 * every * on_cpu,
        activations=kept.at(at_once),
    )
    forward, equivalents = forward_flops(config.network), cost(config)
    bills = bill(config, max(1, rows))
    total = forward * sum(one.forward_equivalents for one in bills)
    found = measure(config, seconds, kept) if speed else None
    return Estimate(
        parameters=every,
        trained=trained,
        memory=held,
        activation_row=kept.row,
        activation_once=kept.once,
        forward=forward,
        equivalents=equivalents,
        step=forward * equivalents,
        images=sum(one.images for one in bills if one.phase != PAIRS),
        total=total,
        speed=found,
        hours=None if found is None else total / found.flops / 3600,
    )


def rows_at_once(config: TrainConfig, devices: int) -> int:
    """Return the rows that each of so many devices computes at a time: its share, or what of it the settings allow."""
    share = -(-config.data.batch // devices)
    parts = max(config.parallel.accumulate, -(-share // (config.parallel.per_device or share)))
    return -(-share // parts)


def forward_flops(options: Mapping[str, Any]) -> float:
    """Return the operations of one evaluation of one image, two for a multiply-add; nothing is computed.

    What adapters and a log-variance head compute with times is not counted.
    """
    inner, shape = core(options), shape_of(options)
    counter = FlopCounterMode(display=False)
    with FakeTensorMode(), torch.no_grad():
        network = networks.build({**inner, "log_variance": False}).eval().requires_grad_(False)
        x, t = torch.empty(1, *shape), torch.empty(1)
        with counter, sdpa_kernel(SDPBackend.MATH):
            network(x, t, t, None)
    return float(counter.get_total_flops())


def _copies(config: TrainConfig) -> tuple[int, int]:
    """Return how many copies of the weights a run holds that are not trained, and how many auxiliary networks."""
    objective = config.objective
    held = len(config.optimizer.ema) + len(config.optimizer.widths) + (objective.frozen.copy is not None)
    return held + objective.needs_teacher, int(objective.auxiliary is not None)


def _averages_on_cpu(config: TrainConfig) -> int:
    """Return how many of the copies are averages that the CPU keeps."""
    each = len(config.optimizer.ema) + len(config.optimizer.widths)
    return each if config.parallel.averages_device == "cpu" else 0


def measure(config: TrainConfig, seconds: float = SECONDS, activations: Activations | None = None) -> Speed:
    """Return images/s of real steps of a run, on what of its batch and its blocks fits into time and memory.

    The first step is on few rows and two blocks; the whole network follows where it fits, then more rows, as long as a
    step takes less than a tenth of the time. The operations/s of the last give the images/s of the whole.

    Args:
        activations: what the network keeps, which bounds the rows; None for no bound.
    """
    device = device_of(config.parallel.device)
    sizes = [rows for rows in REDUCED if rows < config.data.batch and _takes(config, rows)] + [
        config.data.batch
    ]
    whole, small = forward_flops(config.network) * cost(config), shortened(config.network, 2)
    bench = _Bench(replace(config, network=small), sizes[0])
    taken = bench.first()
    if _fits(config, device) and taken * whole * bench.rows / bench.flops <= 0.2 * seconds:
        bench = _Bench(config, sizes[0])
        taken = bench.first()
        most = _most(activations, device)
        while larger := [
            n
            for n in sizes
            if bench.rows < n <= 8 * bench.rows and n <= most and taken * n <= 0.1 * seconds * bench.rows
        ]:
            bench = _Bench(config, larger[-1])
            taken = bench.first()
    limit = threads.most()
    with threads.limited(threads.known(config.parallel.threads, limit) or bench.setup.fastest_threads(limit)):
        end = time.perf_counter() + 0.4 * seconds
        spans = bench.setup.timed(
            bench.middle, lambda spans: len(spans) == MOST or time.perf_counter() >= end
        )
        name = _name(device)
    step = statistics.median(span.work for span in spans)
    rate, peak = bench.flops / step, _peak(device)
    return Speed(
        device=name,
        rows=bench.rows,
        share=bench.flops / bench.rows / whole,
        steps=len(spans),
        measured=bench.rows / step,
        images=rate / whole,
        flops=rate,
        peak=None if peak is None else rate / peak,
        load=clock.load(spans),
    )


class _Bench:
    """A training on random data, timed in the middle of the run, past the horizons of most schedules."""

    def __init__(self, config: TrainConfig, rows: int) -> None:
        objective = replace(
            config.objective, batching=Shuffled()
        )  # the random rows fill no groups of a class
        config = config.replace(objective=objective, batch=rows, per_device=None, accumulate=1, flip=None)
        self.rows, self.middle = rows, config.schedule.steps // 2
        self.flops = forward_flops(config.network) * cost(config) * rows
        with torch.device("meta"):
            classes: Any = networks.build(config.network).num_classes
        shape = shape_of(config.network)
        x = torch.randn(rows, *shape, generator=generator(0, "estimate")) / 2
        label = None if classes is None else torch.arange(rows) % min(8, classes)
        kind: Any = "points" if len(shape) == 1 else "image"
        self.setup = Setup(
            config, Dataset("random", x, label, classes, kind=kind), steps=config.schedule.steps
        )

    def first(self) -> float:
        """Return the seconds of a step, after one that is not counted."""
        return self.setup.timed(self.middle, lambda spans: len(spans) == 2)[-1].work


def _takes(config: TrainConfig, rows: int) -> bool:
    """Whether an objective takes batches of so many rows."""
    objective = config.objective
    try:
        objective.times.on(objective.path).draw(RowGenerator(0, "times", total=rows), 1.0)
    except ValueError:
        return False
    return rows % objective.group == 0


def _most(activations: Activations | None, device: torch.device) -> float:
    """Return the most rows whose activations fit comfortably into the memory that is free."""
    if activations is None or not activations.row:
        return math.inf
    return 0.5 * memory.free(device) / activations.row


def _fits(config: TrainConfig, device: torch.device) -> bool:
    """Whether weights, gradients, moments and copies of the whole network fit comfortably into this machine."""
    with torch.device("meta"):
        count = sum(weight.numel() for weight in networks.build(config.network).parameters())
    copies, others = _copies(config)
    needed = 4 * count * (4 * (1 + others) + copies)
    return needed < 0.5 * memory.free(device)


def _peak(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAKS.items() if key in name), None)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}"
