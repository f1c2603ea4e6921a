"""Memory of activations: the bytes that autograd saves in a forward pass for the gradient.

Counted on this machine, on few rows of a network with few blocks, and extended to all of them: what a row adds, what a
block adds, and what is there in any case (weights in a lower precision, cast once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowleap import networks
from flowleap.networks.options import core, with_core
from flowleap.training.loss_module import autocast

FEW = 2
"""Blocks of a network that is measured where its blocks are alike, and rows that it is measured on."""


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd saves in one forward pass.

    Args:
        row: for each row. once: whatever the rows are.
        block: for each row, the largest block of the network, computed again where it is checkpointed.
    """

    row: float
    once: float
    block: float

    def at(self, rows: int) -> int:
        """Return the bytes at so many rows, with the block that is being computed again."""
        return round(self.once + rows * (self.row + self.block))


def kept(options: Mapping[str, Any], precision: str, device: torch.device) -> Kept:
    """Return the bytes that autograd saves for a network of these options, in "fp32" or "bf16"."""
    row, once = _line(lambda rows: _whole(options, rows, precision, device))
    block = 0.0
    if core(options).get("checkpointing"):
        plain = shortened(with_core(options, {**core(options), "checkpointing": False}), FEW)
        block = _line(lambda rows: max(_profile(plain, rows, precision, device)[1:]))[0]
    return Kept(row=row, once=once, block=block)


def _line(count: Callable[[int], float]) -> tuple[float, float]:
    """Return slope and height of a straight line through one row and a few."""
    first, later = count(1), count(FEW)
    slope = (later - first) / (FEW - 1)
    return slope, first - slope


def _whole(options: Mapping[str, Any], rows: int, precision: str, device: torch.device) -> float:
    """Return the bytes that a whole network keeps, from that of one block and of two where its blocks are alike."""
    if shortened(options, FEW) == dict(options):
        return sum(_profile(options, rows, precision, device))
    one, two = (sum(_profile(shortened(options, depth), rows, precision, device)) for depth in (1, 2))
    return one + (core(options)["depth"] - 1) * (two - one)


def shortened(options: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return the options of a network with at most so many blocks, where its blocks are alike; else as they are."""
    inner = core(options)
    if inner.get("kind") not in ("DiT", "MLP") or inner.get("depth", 0) <= depth:
        return dict(options)
    return with_core(options, {**inner, "depth": depth})


def _profile(options: Mapping[str, Any], rows: int, precision: str, device: torch.device) -> list[float]:
    """Return the bytes kept outside of the blocks and in each block of a network, for a prediction on so many rows."""
    with torch.random.fork_rng(devices=[]):
        network: Any = networks.build(options).to(device).train()
        given = _given(core(options), rows, device)
        with _watched(network, _blocks(network)) as found, autocast(precision, device):
            network(*given)
    return found


def shape_of(options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of a sample of a network."""
    inner = core(options)
    return tuple(inner["image"] if "image" in inner else inner["shape"])


def _given(inner: Mapping[str, Any], rows: int, device: torch.device) -> tuple[Any, ...]:
    x, t = torch.randn(rows, *shape_of(inner), device=device), torch.full((rows,), 0.7, device=device)
    label = None if inner.get("classes") is None else torch.zeros(rows, dtype=torch.int64, device=device)
    return x, t, t / 2, label


def _blocks(network: Any) -> list[nn.Module]:
    """Return the blocks of a network, inside of adapters too; those that are frozen are not counted."""
    while not hasattr(network, "blocks") and hasattr(network, "network"):
        network = network.network
    return list(getattr(network, "blocks", []))


@contextmanager
def _watched(network: nn.Module, parts: list[nn.Module]) -> Iterator[list[float]]:
    """Yield the bytes that are saved inside, first outside of the parts, then in each; a storage counts once."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    found, seen, now = [0.0] * (1 + len(parts)), set(weights), [0]

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            alive.append(tensor)  # so that no other tensor comes to lie in the same place
            found[now[0]] += storage.nbytes()
        return tensor

    def enter(index: int) -> Any:
        return lambda *_: now.__setitem__(0, index)

    alive: list[Tensor] = []
    hooks = []
    for index, part in enumerate(parts, 1):
        hooks += [part.register_forward_pre_hook(enter(index)), part.register_forward_hook(enter(0))]
    try:
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            yield found
    finally:
        for hook in hooks:
            hook.remove()
