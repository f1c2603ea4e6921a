"""Every method learns: on one fixed point, with a fixed frozen copy, its error falls by 30 % and more in 20 steps.

Nothing is drawn anew, so that an error that does not fall is a target without a way to it, a graph that is cut, or a
weight that hides what matters. What falls is

- the loss, where its value is an error;
- the raw error ‖prediction − target‖² where it is not: a power of 1 divides the error by itself, a learned weight adds
  its own logarithm, and a row normalized by its tangent says how far the target is, not how good the map;
- where there is an auxiliary network, its own error; of the main network its loss with the auxiliary network as it
  stands, which has no lower bound, so that this says no more than that its gradient leads down.

How far weights must move differs by orders of magnitude: a step of 1/128 to a neighbor asks for little. One of three
learning rates has to do. Methods come from `methods.names()`, so that a new one is held to this without a line here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from flowleap import Batch, FlowMap, Objective, methods, networks
from flowleap.couplings import StoredPairs
from flowleap.derivatives import CentralDifference, ExactJVP
from flowleap.losses import AdaptivePower, Drift, Energy, Kernel, LearnedCauchy, LearnedVariance, Loss
from flowleap.objectives import LearnedSolver, Refreshed
from flowleap.point import Point
from flowleap.times import Truncation

ROWS, DIMS, CLASSES = 64, 8, 3
UPDATES, FALL = 20, 0.3
RUN, STEP = 1000, 500
DERIVATIVES = {"exact": ExactJVP(), "difference": CentralDifference()}
RATES = (1e-2, 3e-3, 1e-3, 1e-4)


def cases() -> list[tuple[str, str]]:
    """Every method; where its target takes a derivative, with each way of taking it."""
    found = []
    for name in methods.names():
        differentiated = "derivative" in {f.name for f in fields(methods.get(name).target)}
        found += [(name, way) for way in (DERIVATIVES if differentiated else ["none"])]
    return found


def a_network(seed: int, labels: bool, objective: Objective, spread: float = 0.05) -> nn.Module:
    """An MLP whose outputs are not all zero; with a larger spread it says more, as a teacher does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = networks.MLP(
            DIMS, classes=CLASSES if labels else None, width=64, depth=2, log_variance=True
        )
        for name, weight in network.named_parameters():
            if name == "final_layer.weight":
                nn.init.normal_(weight, std=spread)
    return networks.NoiseTime(network) if objective.path.t_max > 1 else network


def data(objective: Objective, labels: bool) -> Batch:
    """Three clouds; noise beside them where a method stores its pairs."""
    random = torch.Generator().manual_seed(1)
    label = torch.arange(ROWS) % CLASSES
    centers = torch.randn(CLASSES, DIMS, generator=random)
    x = 0.5 * centers[label] + 0.1 * torch.randn(ROWS, DIMS, generator=random)
    noise = torch.randn(ROWS, DIMS, generator=random) if isinstance(objective.coupling, StoredPairs) else None
    return Batch(x, label if labels else None, noise)


def value_says_nothing(loss: Loss) -> bool:
    return any(
        isinstance(part, LearnedVariance | LearnedCauchy)
        or (isinstance(part, AdaptivePower) and part.power == 1)
        for part in loss.chain()
    )


def learns(objective: Objective, network: nn.Module, frozen: FlowMap, point: Point) -> None:
    """Hold a method to its fall, from the same start at each rate."""
    unbounded = objective.auxiliary is not None  # a large rate would fall far, and prove nothing
    falls = []
    for rate in RATES[1:] if unbounded else RATES:
        before, after = fallen(objective, copy.deepcopy(network), frozen, point, rate)
        if after < before - FALL * abs(before):
            return
        falls.append(f"{before:.4g} → {after:.4g} at {rate:g}")
    raise AssertionError(", ".join(falls))


def fallen(
    objective: Objective, network: nn.Module, frozen: FlowMap, point: Point, rate: float
) -> tuple[float, float]:
    """What is to fall, before and after the updates; every gradient on the way must be finite."""
    flow = objective.flow_map(network)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=rate)

    def look() -> tuple[Tensor, float]:
        regression = objective.regress(flow, frozen, point)
        loss = objective.per_sample(regression, point).mean()
        seen = loss
        if objective.loss == Drift(Kernel()):  # that field has the same length everywhere
            seen = replace(objective.loss, field=Energy())(regression, point).mean()
        elif value_says_nothing(objective.loss):
            seen = regression.raw.mean()
        return loss, float(seen.detach())

    history = []
    for _ in range(UPDATES):
        loss, seen = look()
        history.append(seen)
        optimizer.zero_grad()
        loss.backward()
        gradients = [weight.grad for weight in trained if weight.grad is not None]
        assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)
        optimizer.step()
    return history[0], look()[1]


def taught(objective: Objective, labels: bool) -> tuple[Objective, Callable[[], nn.Module]]:
    """The objective with a teacher where it needs one, and how its networks begin."""
    if not objective.needs_teacher:
        return objective, lambda: a_network(0, labels, objective)
    teacher = a_network(7, labels, objective, spread=0.2).requires_grad_(False)
    objective = objective.with_teacher(objective.flow_map(teacher))
    if isinstance(objective.target, LearnedSolver):
        return objective, lambda: networks.MeanDirection(copy.deepcopy(teacher))
    return objective, lambda: a_network(0, labels, objective)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [True, False], ids=["conditional", "unconditional"])
@pytest.mark.parametrize(("name", "way"), cases())
def test_what_is_asked_for_is_learned(name: str, way: str, labels: bool) -> None:
    objective = methods.get(name).for_run(RUN)
    if way in DERIVATIVES:
        objective = replace(objective, target=replace(objective.target, derivative=DERIVATIVES[way]))
    if isinstance(objective.times, Truncation):
        # a thousandth of the way, as published, asks for less than twenty updates can show
        objective = replace(objective, times=replace(objective.times, ratio=0.5))
    objective, build = taught(objective, labels)
    network = build()
    frozen = objective.flow_map(copy.deepcopy(network))
    step = 0 if isinstance(objective.frozen, Refreshed) else STEP  # the stage that the teacher itself teaches
    point = objective.draw(data(objective, labels), step, 3, frozen)
    learns(objective, network, frozen, point)


@pytest.mark.parametrize("labels", [True, False], ids=["conditional", "unconditional"])
@pytest.mark.parametrize(
    "name", [name for name in methods.names() if methods.get(name).auxiliary is not None]
)
def test_the_rival_learns_too(name: str, labels: bool) -> None:
    """On what the network makes as it stands."""
    objective, build = taught(methods.get(name).for_run(RUN), labels)
    auxiliary = objective.auxiliary
    assert auxiliary is not None
    maker = auxiliary.flow_map(build())
    point = auxiliary.draw(data(auxiliary, labels), STEP, 3, maker)
    learns(auxiliary, build(), maker, point)
