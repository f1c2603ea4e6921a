"""Sampling in batches: sample i depends on the seed and i only, not on the number of samples or the batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flowleap import clock, processes, samplers
from flowleap.flow_map import FlowMap
from flowleap.objectives import Objective

QUICK = 0.05
"""Seconds of a network call above which `pace` tries no larger batch."""
Decode = Callable[[Tensor], Tensor]
"""(n, *shape of a latent) -> images (n, channels, height, width) in [-1, 1], float32, on the CPU."""
Tick = Callable[[int], None]
"""Called with the number of network evaluations of single samples since the last call."""


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


def stream(
    flow: FlowMap,
    objective: Objective,
    shape: Sequence[int],
    rows: range,
    *,
    seed: int = 0,
    label: Tensor | None = None,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    guidance: float | None = None,
    batch: int = 250,
    bounds: tuple[float, float] | None = None,
    decode: Decode | None = None,
    tick: Tick = lambda nfe: None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the samples numbered `rows` with their labels, a batch at a time, on the CPU, in float32.

    Args:
        shape: of one sample, or of one latent where `decode` makes images of latents, see `flowleap.autoencoders`.
        bounds: what values are clamped to, as image files do.

    Shapes: label (all samples,) or None -> (≤ batch, *shape), (≤ batch,) or None.
    Raises: ValueError for a batch below 1, or times that do not lead from noise to data.
    """
    if batch < 1:
        raise ValueError(f"batches of {batch} samples: at least 1 is needed")
    device = device_of(flow)
    nfe = objective.nfe(len(times) - 1 if times else steps or 1, guidance=guidance, times=times)
    for start in range(rows.start, rows.stop, batch):
        stop = min(start + batch, rows.stop)
        noise = samplers.noise(seed, torch.arange(start, stop), tuple(shape)).to(device)
        wanted = None if label is None else label[start:stop]
        there = None if wanted is None else wanted.to(device)
        with evaluating(flow), counting(flow, nfe * (stop - start), tick):
            made = objective.sample(flow, noise, steps=steps, times=times, label=there, guidance=guidance)
        made = made.float().cpu() if decode is None else decode(made.float())
        if bounds is not None:  # what is infinite must not become an image
            made = torch.where(made.isfinite(), made.clamp(*bounds), torch.nan)
        yield made, wanted


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
    """Return exactly `num` samples, on the CPU, in float32; sample i starts from the noise of (seed, i). See `stream`.

    `shared`: every process makes its share and has all of them afterwards; all must call.

    Shapes: shape is that of one sample, label (num,) or None -> (num, *shape).
    Raises: NotFinite where samples hold NaN or infinity; ValueError for a number or batch below 1, or for
        times that do not lead from noise to data.
    """
    if num < 1:
        raise ValueError(f"num={num} samples: at least 1 is needed")
    made = stream(
        flow, objective, shape, processes.share(num) if shared else range(num), seed=seed, label=label, steps=steps,
        times=times, guidance=guidance, batch=batch, bounds=bounds, decode=decode, tick=tick,
    )  # fmt: skip
    own = [part for part, _ in made]  # none in a process without a share
    samples = torch.cat([part for parts in processes.every(own) for part in parts] if shared else own)
    broken = int((~samples.flatten(1).isfinite().all(dim=1)).sum())
    if broken:
        raise NotFinite(broken, num)
    return samples
