"""Which way a derivative of a network is taken in a run, found by taking it once on a few rows."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch

from flowleap.derivatives import Derivative
from flowleap.flow_map import FlowMap, dtype_of
from flowleap.randomness import generator
from flowleap.tensors import Image, Label, Time

__all__ = ["settled"]


class Taken(Protocol):
    """A derivative of a map, taken by a strategy: (strategy, flow, x, t, r, label, along) → like x."""

    def __call__(
        self,
        derivative: Derivative,
        flow: FlowMap,
        x: Image,
        t: Time,
        r: Time,
        label: Label,
        along: Image,
        /,
    ) -> Image: ...


def settled(derivative: Derivative, flow: FlowMap, x: Image, take: Taken) -> tuple[Derivative, str]:
    """Return the strategy that a run takes for this derivative, and which one that is and why, in words.

    Args:
        flow: the map to be trained, under autocast as it is in the run. x: a few rows that it takes.
        take: takes the derivative of a map at (x, t, r) by a strategy, `along` a direction of x where it has one.

    Raises: ValueError where the network does not allow what the strategy asks for.
    """
    t, landing = (torch.full_like(x.flatten(1)[:, 0], share * flow.path.t_max) for share in (0.5, 0.25))
    label = None if flow.num_classes is None else torch.zeros(len(x), dtype=torch.int64, device=x.device)
    x, along = torch.randn(2, *x.shape, generator=generator(0, "practice")).to(x)
    disturbed = cache(flow.disturbed)

    def attempt(strategy: Derivative) -> Image:
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            return take(strategy, disturbed(), x, t, landing, label, along)

    kind = dtype_of(flow.network) or x.dtype
    return derivative.settled(attempt, kind, x.device, flow.path.t_max)
