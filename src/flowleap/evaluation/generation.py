"""Sampling in batches: sample i depends on the seed and i only, not on the number of samples or the batch size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from flowleap import clock, memory, processes, samplers
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective

QUICK = 0.05
"""Seconds of a network call above which `pace` tries no larger batch."""
Decode = Callable[[Tensor], Tensor]
"""(n, *shape of a latent) -> images (n, channels, height, width) in [-1, 1], float32, on the CPU."""
Tick = Callable[[int], None]
"""Called with the number of network evaluations of single samples since the last call."""
Batch = tuple[Tensor, Tensor | None]
"""Samples and their labels, None without classes."""
Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = {"cpu": 250}
"""The most rows at a time where memory decides, by kind of device: larger batches are not faster on a CPU."""
MOST_ON_GPU = 1024


class NotFinite(ValueError):
    """Some samples hold NaN or infinity."""

    def __init__(self, broken: int, num: int) -> None:
        super().__init__(
            f"{broken} of {num} samples are not finite: the network diverged (train it with a lower learning "
            "rate, or resume from an earlier checkpoint), or these steps do not suit it"
        )


def cycle(num: int, num_classes: int | None) -> Tensor | None:
    """Return labels 0, 1, …, classes − 1, 0, 1, …: every class equally often. None without classes.

    Shapes: (num,), int64.
    """
    return None if num_classes is None else torch.arange(num) % num_classes


def shares(num: int, counts: Sequence[int]) -> list[int]:
    """Return how many of `num` samples each class has in proportion to `counts`, by largest remainders.

    >>> shares(10, [900, 100]), shares(10, [1, 1, 1])
    ([9, 1], [4, 3, 3])
    """
    total = sum(counts)
    whole = [num * count // total for count in counts]
    first = sorted(range(len(counts)), key=lambda index: -(num * counts[index] % total))
    for index in first[: num - sum(whole)]:
        whole[index] += 1
    return whole


def proportional(num: int, counts: Sequence[int]) -> Tensor:
    """Return labels in proportion to `counts`, each class spread evenly; `cycle` where all counts are equal.

    Label k of the n of a class stands at (k + ½)/n, and the labels are sorted by that. Shapes: (num,), int64.
    """
    share = torch.tensor(shares(num, counts))
    label = torch.arange(len(counts)).repeat_interleave(share)
    place = torch.cat([torch.arange(many) for many in share.tolist()])
    return label[((place + 0.5).double() / share[label]).argsort(stable=True)]


def device_of(flow: FlowMap) -> torch.device:
    """Return the device of the network of a flow map; the CPU for a network without parameters."""
    parameters = flow.network.parameters() if isinstance(flow.network, nn.Module) else iter(())
    first = next(iter(parameters), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def evaluating(flow: FlowMap) -> Iterator[None]:
    """Put the network of a flow map into evaluation mode without gradients, and restore its mode afterwards."""
    network = flow.network if isinstance(flow.network, nn.Module) else nn.Identity()
    before = network.training
    try:
        network.eval()
        with torch.no_grad():
            yield
    finally:
        network.train(before)


def warm_up(flow: FlowMap, shape: Sequence[int], label: Tensor | None, rows: int) -> None:
    """Call the network once, so that the cost of a first call is not counted as sampling."""
    device = device_of(flow)
    x = torch.zeros(rows, *shape, device=device)
    t = torch.full((rows,), flow.path.t_max, device=device)
    with evaluating(flow):
        flow.output(x, t, t, None if label is None else label[:rows].to(device))


def pace(flow: FlowMap, shape: Sequence[int], rows: int) -> float:
    """Return the seconds of one network evaluation of one sample, in batches of at most `rows`.

    Larger batches are tried as long as a call is quick. Units: seconds of processor time on a CPU, so that other work
    on the machine does not count; of wall time on an accelerator.
    """
    device, label = device_of(flow), cycle(rows, flow.num_classes)
    size = 0
    while True:
        size = min(rows, max(4, 8 * size))
        warm_up(flow, shape, label, size)
        begin = clock.now(device)
        warm_up(flow, shape, label, size)
        taken = clock.now(device).since(begin).work
        if size == rows or taken > QUICK:
            return taken / size


@contextmanager
def counting(flow: FlowMap, total: int, tick: Tick) -> Iterator[None]:
    """Call `tick` with the network evaluations of single samples as they are done, `total` of them in all."""
    done = 0

    def after(network: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal done
        more = min(len(made), total - done)
        done += more
        tick(more)

    module = flow.network if isinstance(flow.network, nn.Module) else nn.Identity()
    handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
    tick(total - done)


@dataclass(frozen=True)
class Request:
    """Which samples are asked for, and how they are made; sample i starts from the noise of (seed, i).

    Args:
        shape: of one sample, or of one latent where `decode` makes images of latents, see `flowleap.autoencoders`.
        label: of all samples, (all samples,) int64, None for none.
        steps, times, guidance, interval: as in `Objective.sample`.
        bounds: what values are clamped to, as image files do.
        tick: called with the network evaluations that are done.
        noise: of all samples, (all samples, *shape) standard normal, in place of that of the seed.

    Raises: ValueError for times that do not lead from noise to data, or an interval that the network is not told.
    """

    flow: FlowMap
    objective: Objective
    shape: Sequence[int]
    seed: int = 0
    label: Tensor | None = None
    steps: int | None = None
    times: Sequence[float] | None = None
    guidance: float | None = None
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None
    decode: Decode | None = None
    tick: Tick = lambda nfe: None
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        self.objective.check_interval(self.interval)

    @property
    def device(self) -> torch.device:
        return device_of(self.flow)

    @property
    def nfe(self) -> int:
        """Network evaluations of one sample."""
        steps = len(self.times) - 1 if self.times else self.steps or 1
        return self.objective.nfe(steps, guidance=self.guidance, times=self.times)

    def labels(self, rows: range) -> Tensor | None:
        """Return the labels of some samples, (rows,), None without."""
        return None if self.label is None else self.label[rows.start : rows.stop]

    def sample(self, rows: range) -> Tensor:
        """Return the samples of these numbers as the network makes them, (rows, *shape), on its device, no gradient."""
        own = self.noise
        noise = samplers.noise(self.seed, rows, tuple(self.shape)) if own is None else own[list(rows)]
        noise, label = noise.to(self.device), self.labels(rows)
        there = None if label is None else label.to(self.device)
        with evaluating(self.flow), counting(self.flow, self.nfe * len(rows), self.tick):
            return self.objective.sample(
                self.flow,
                noise,
                self.steps,
                self.times,
                there,
                guidance=self.guidance,
                interval=self.interval,
            )

    def finished(self, made: Tensor) -> Tensor:
        """Return samples of the network decoded and clamped, float32, on the CPU; what is infinite becomes NaN."""
        made = made.float().cpu() if self.decode is None else self.decode(made.float())
        if self.bounds is None:
            return made
        return torch.where(made.isfinite(), made.clamp(*self.bounds), torch.nan)

    def rows_at_once(self) -> int:
        """Return how many samples are made at a time where memory decides: at most 250, 1,024 on a GPU.

        Fewer where they would take more than half of the free memory (`memory.fitting`).
        """
        most = MOST.get(self.device.type, MOST_ON_GPU)

        def trial(rows: int) -> None:
            self.finished(quiet.sample(range(rows)))

        few = None if self.label is None else self.label[:1].expand(memory.TRIAL)
        quiet = replace(self, label=few, tick=lambda nfe: None, steps=1, times=None)
        with warnings.catch_warnings():  # advice on steps is given with the samples
            warnings.simplefilter("ignore", UserWarning)
            return memory.fitting(trial, self.device, most)

    def stream(self, rows: range, batch: int | memory.Rows = 250) -> Iterator[Batch]:
        """Yield the samples numbered `rows` with their labels, a batch at a time, on the CPU, in float32.

        Where the memory of a GPU is exhausted the batch is halved.

        Shapes: (≤ batch, *shape), (≤ batch,) or None.
        Raises: ValueError for a batch below 1.
        """
        size = batch if isinstance(batch, memory.Rows) else memory.Rows(batch)
        for part, made in size.computed(rows, lambda part: (part, self.sample(part))):
            yield self.finished(made), self.labels(part)


def overlapped(compute: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield compute(item) in order, as `map` does, but in a thread, while the next item is made and the last is used.

    At most three items are there at a time.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for item in items:
            computing = thread.submit(compute, item)
            if waiting is not None:
                yield waiting.result()
            waiting = computing
        if waiting is not None:
            yield waiting.result()


class Aside:
    """Finishes samples of a request, on a GPU in a CUDA stream of its own beside the one that makes the next samples.

    aside(aside.queued(made)) is request.finished(made); the second call belongs into a thread, see `overlapped`.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.stream = torch.cuda.Stream(request.device) if request.device.type == "cuda" else None

    def queued(self, made: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Return samples with the event at which their device has made them."""
        return made, None if self.stream is None else torch.cuda.current_stream(made.device).record_event()

    def __call__(self, item: tuple[Tensor, torch.cuda.Event | None]) -> Tensor:
        made, ready = item
        with torch.cuda.stream(self.stream):
            if self.stream is not None and ready is not None:
                self.stream.wait_event(ready)
                made.record_stream(self.stream)
            return self.request.finished(made)


def generate(
    flow: FlowMap,
    objective: Objective,
    shape: Sequence[int],
    num: int,
    *,
    seed: int = 0,
    label: Tensor | None = None,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    guidance: float | None = None,
    batch: int = 250,
    bounds: tuple[float, float] | None = None,
    decode: Decode | None = None,
    shared: bool = False,
    tick: Tick = lambda nfe: None,
) -> Tensor:
    """Return exactly `num` samples, on the CPU, in float32; sample i starts from the noise of (seed, i). See `Request`.

    `shared`: see `gathered`.

    Shapes: shape is that of one sample, label (num,) or None -> (num, *shape).
    Raises: NotFinite where samples hold NaN or infinity; ValueError for a number or batch below 1, or for
        times that do not lead from noise to data.
    """
    request = Request(
        flow, objective, shape, seed=seed, label=label, steps=steps, times=times, guidance=guidance, bounds=bounds,
        decode=decode, tick=tick,
    )  # fmt: skip
    return gathered(request, num, batch, shared=shared)


def gathered(request: Request, num: int, batch: int = 250, *, shared: bool = False) -> Tensor:
    """Return exactly `num` samples of a request, on the CPU, in float32.

    `shared`: every process makes its share and has all of them afterwards; all must call.

    Shapes: (num, *shape). Raises: as `generate`.
    """
    if num < 1:
        raise ValueError(f"num={num} samples: at least 1 is needed")
    rows = processes.share(num) if shared else range(num)
    own = [part for part, _ in request.stream(rows, batch)]  # none in a process without a share
    samples = torch.cat([part for parts in processes.every(own) for part in parts] if shared else own)
    broken = int((~samples.flatten(1).isfinite().all(dim=1)).sum())
    if broken:
        raise NotFinite(broken, num)
    return samples
