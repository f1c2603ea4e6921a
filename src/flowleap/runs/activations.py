"""Memory of activations: the peak of the loss and the backward pass of a training step, computed without numbers.

The step is that of the objective, with its targets, on fake tensors, which have shapes and types only: a machine plans
networks that it could not hold. Counted is every tensor, also those of a target without gradient, from the operation
that makes it until it is freed (`memory.Allocations`). Networks of like blocks are computed with one and with two
blocks, and extended to all of them. Workspaces inside of kernels are not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from flowleap import memory, networks
from flowleap.flow_map import FlowMap
from flowleap.networks.options import core, inside, with_core
from flowleap.objectives import Objective
from flowleap.point import ON_CPU, Batch
from flowleap.randomness import generator
from flowleap.runs.phases import needs_pairs
from flowleap.training.config import TrainConfig
from flowleap.training.loss_module import LossModule


@dataclass(frozen=True)
class Activations:
    """Bytes at the peak of a step, beside weights, optimizer and copies: row · rows + once."""

    row: float
    once: float

    def at(self, rows: int) -> int:
        """Return the bytes at so many rows."""
        return max(0, round(self.once + rows * self.row))


def activations(config: TrainConfig, rows: int, fewer: int, device: torch.device) -> Activations:
    """Return the bytes of a step of a run, from steps on `rows` rows and on `fewer`."""
    most, least = (_peak(config, count, device) for count in (rows, fewer))
    slope = (most - least) / (rows - fewer) if rows > fewer else most / rows
    return Activations(row=slope, once=most - rows * slope)


def _peak(config: TrainConfig, rows: int, device: torch.device) -> float:
    """Return the bytes at the peak of a step of the whole network."""
    if shortened(config.network, 2) == dict(config.network):
        return max(_peaks(config, rows, device))
    one, two = (
        _peaks(config.replace(network=shortened(config.network, depth)), rows, device) for depth in (1, 2)
    )
    more = core(config.network)["depth"] - 1
    return max(first + more * (second - first) for first, second in zip(one, two, strict=True))


def _peaks(config: TrainConfig, rows: int, device: torch.device) -> tuple[float, float]:
    """Return the bytes at the peak of the loss and at that of the backward pass, of the network that takes the most."""
    mode, steps = FakeTensorMode(allow_non_fake_inputs=True), config.schedule.steps

    def faked(options: Mapping[str, Any]) -> nn.Module:
        return _without_numbers(networks.build_on_meta(options), mode, device)

    def frozen(options: Mapping[str, Any]) -> nn.Module:
        return faked(options).requires_grad_(False).eval()

    objective = config.objective.for_run(steps)
    if objective.needs_run:
        objective = objective.with_teacher(objective.flow_map(frozen(inside(config.network))))
    flow = objective.flow_map(faked(config.network).train())
    own = objective.frozen.copy is None and objective.auxiliary is None
    held = flow if own else objective.flow_map(frozen(config.network))
    tasks = [(objective, flow, held)]
    if objective.auxiliary is not None:
        tasks.append((objective.auxiliary, objective.auxiliary.flow_map(faked(config.network).train()), held))
    found = [_of_task(config, *task, rows, mode, device) for task in tasks]
    loss, backward = (max(each) for each in zip(*found, strict=True))
    return loss, backward


def _of_task(
    config: TrainConfig,
    objective: Objective,
    flow: FlowMap,
    frozen: FlowMap,
    rows: int,
    mode: FakeTensorMode,
    device: torch.device,
) -> tuple[float, float]:
    """Return the bytes at the peak of one loss and of its backward pass, in the middle of a run."""
    x = torch.randn(rows, *shape_of(config.network), generator=generator(0, "activations"))
    label = None if flow.num_classes is None else torch.arange(rows) % flow.num_classes
    batch = Batch(x, label, x if needs_pairs(objective) else None)
    point = objective.draw(batch, config.schedule.steps // 2, config.seed, frozen)
    drawn = {f.name: getattr(point, f.name) for f in fields(point) if f.name not in ON_CPU}
    tensors = {name: value for name, value in drawn.items() if isinstance(value, Tensor)}
    # times, labels and masks, one number for each row, keep their values: what is computed may depend on them
    images: dict[str, Any] = {
        name: _fake(value, mode, device) for name, value in tensors.items() if value.ndim > 1
    }
    known: dict[str, Any] = {name: value.to(device) for name, value in tensors.items() if value.ndim < 2}
    network: Any = flow.network
    loss = LossModule(network, flow, frozen, objective, config.parallel.precision)
    with memory.Allocations() as found:
        found.leave_out(*network.parameters(), *network.buffers(), *images.values())
        value = loss(replace(point, **images, **known), rows)[0]
        forward, found.peak = found.peak, found.live
        value.backward()
    held = sum(image.untyped_storage().nbytes() for image in images.values())
    return held + forward, held + found.peak


def _fake(tensor: Tensor, mode: FakeTensorMode, device: torch.device) -> Tensor:
    made: Any = FakeTensor
    found: Tensor = made(mode, tensor.detach().to("meta"), device)
    return found


def _without_numbers(network: nn.Module, mode: FakeTensorMode, device: torch.device) -> nn.Module:
    """Return a network, on the meta device, with fake tensors in place of its weights and buffers."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(_fake(weight, mode, device), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _fake(buffer, mode, device)
    return network


def shortened(options: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return the options of a network with at most so many blocks, where its blocks are alike; else as they are."""
    inner = core(options)
    if inner.get("kind") not in ("DiT", "MLP") or inner.get("depth", 0) <= depth:
        return dict(options)
    return with_core(options, {**inner, "depth": depth})


def shape_of(options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of a sample of a network."""
    inner = core(options)
    return tuple(inner["image"] if "image" in inner else inner["shape"])
