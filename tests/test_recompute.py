"""Gradient checkpointing: the same gradients from less memory, beside the derivative of two passes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowleap import Batch, methods, networks, runs
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.networks import recompute
from flowleap.networks.dropout import keyed

IMAGE = (1, 8, 8)
KINDS = {
    "DiT": {"kind": "DiT", "image": IMAGE, "classes": 3, "width": 16, "depth": 3, "heads": 2, "log_variance": True},
    "DiT with dropout": {
        "kind": "DiT", "image": IMAGE, "classes": 3, "width": 16, "depth": 2, "heads": 2, "dropout": 0.3,
        "log_variance": True,
    },
    "UNet": {
        "kind": "UNet", "image": IMAGE, "classes": 3, "width": 8, "multipliers": [1, 2], "depth": 1, "attention": [1],
        "dropout": 0.3, "log_variance": True,
    },
}  # fmt: skip
each_kind = pytest.mark.parametrize(
    "kind", ["DiT", "DiT with dropout", pytest.param("UNet", marks=pytest.mark.slow)]
)
D = torch.float64


def pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """A network and its twin with checkpointing, the same random weights."""
    torch.manual_seed(0)
    plain = networks.build(KINDS[kind]).to(D)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.2)
    twin = networks.build({**KINDS[kind], "checkpointing": True}).to(D)
    twin.load_state_dict(plain.state_dict())
    return plain.train(), twin.train()


def gradients(network: nn.Module, method: str, **changes) -> tuple[Tensor, list[Tensor]]:
    objective = methods.get(method).for_run(10)
    if changes:
        objective = replace(objective, target=replace(objective.target, **changes))
    if objective.needs_teacher:
        objective = objective.with_teacher(objective.flow_map(networks.build(KINDS["DiT"]).to(D)))
    source = torch.Generator().manual_seed(1)
    x, label = torch.randn(32, *IMAGE, generator=source, dtype=D), torch.arange(32) // 8 % 3
    flow = objective.flow_map(network)
    point = objective.draw(Batch(x, label), 3, 0, flow)
    loss = objective.per_sample(objective.regress(flow, flow, point), point)
    network.zero_grad()
    loss.mean().backward()
    return loss.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]


@each_kind
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("meanflow", {}),
        ("meanflow", {"derivative": CentralDifference(1e-3)}),
        ("esc", {}),
        ("imm", {}),
        ("shortcut", {}),
        ("sct", {}),
        ("flow_matching", {}),
    ],
)
def test_gradients_are_those_without(kind: str, method: str, changes: dict) -> None:
    plain, twin = pair(kind)
    (loss, ours), (expected, theirs) = gradients(twin, method, **changes), gradients(plain, method, **changes)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@each_kind
def test_the_derivative_of_two_passes_computes_nothing_again(kind: str, monkeypatch) -> None:
    """And sampling, frozen maps and evaluation do not either: only what is trained is checkpointed."""
    asked: list[bool] = []

    def counted(block, *given, **options):
        asked.append(True)
        return checkpoint(block, *given, **options)

    monkeypatch.setattr(recompute, "checkpoint", counted)
    network = pair(kind)[1]
    x, t, r = torch.randn(4, *IMAGE, dtype=D), torch.full((4,), 0.7, dtype=D), torch.full((4,), 0.2, dtype=D)
    call = partial(network, label=None)
    TwoPass()(lambda x, t: call(x, t, r), x, t, x, domain=(r, 1.0), curve=lambda t: x)
    with torch.no_grad():
        call(x, t, r)
    network.requires_grad_(False)
    call(x.requires_grad_(), t, r).sum().backward()
    assert not asked and x.grad is not None
    network.requires_grad_(True)
    call(x, t, r)
    assert len(asked) == len(network.blocks)


@each_kind
def test_held_weights_are_not_computed_again_with_others(kind: str) -> None:
    """A frozen map whose input is differentiated swaps its weights for the call only."""
    flow = methods.meanflow().flow_map(pair(kind)[1])
    x = torch.randn(4, *IMAGE, dtype=D, requires_grad=True)
    with keyed(torch.arange(4)):
        flow.held()(x, 0.8, 0.3, torch.arange(4) % 3).sum().backward()
    assert all(p.grad is None for p in flow.network.parameters())
    plain = methods.meanflow().flow_map(pair(kind)[0])
    again = x.detach().clone().requires_grad_()
    with keyed(torch.arange(4)):
        plain.held()(again, 0.8, 0.3, torch.arange(4) % 3).sum().backward()
    torch.testing.assert_close(x.grad, again.grad)


@pytest.mark.slow
@each_kind
def test_a_derivative_that_keeps_its_graph_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="use two passes"):
        gradients(pair(kind)[1], "meanflow", derivative=ExactJVP())
    gradients(pair(kind)[0], "meanflow", derivative=ExactJVP())


def test_a_run_that_could_not_be_computed_is_refused_before_it_begins() -> None:
    settings = [("network.checkpointing", "true")]
    assert runs.configure("meanflow", settings=settings).network["checkpointing"]
    with pytest.raises(ValueError, match=r"target\.derivative=TwoPass"):
        runs.configure("meanflow", settings=[*settings, ("target.derivative", "ExactJVP")])


def saved(network: nn.Module, rows: int, precision: torch.dtype | None = None) -> int:
    """Bytes of the tensors that the graph of a prediction keeps, weights apart, each storage once."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x, t = torch.randn(rows, *IMAGE, dtype=D), torch.full((rows,), 0.7, dtype=D)
    lower = nullcontext() if precision is None else torch.autocast("cpu", precision)
    with lower, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x, t, t / 2, torch.arange(rows) % 3)
    return sum(kept.values())


@each_kind
def test_it_keeps_less(kind: str) -> None:
    """Of three blocks a transformer keeps their inputs: less than a third of the activations."""
    plain, twin = pair(kind)
    share = saved(twin, 16) / saved(plain, 16)
    assert share < (0.2 if kind == "DiT" else 0.35)


@pytest.mark.slow
@each_kind
def test_the_peak_of_a_step_falls(kind: str) -> None:
    """Counted where memory is taken: the allocations of a whole step, forward and backward, by the profiler."""
    peaks = []
    for network in pair(kind):
        x, t = torch.randn(64, *IMAGE, dtype=D), torch.full((64,), 0.7, dtype=D)

        def step(network=network, x=x, t=t) -> None:
            network(x, t, t / 2, torch.arange(64) % 3).square().sum().backward()

        step()
        with torch.profiler.profile(
            profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
        ) as trace:
            step()
        present = peak = 0
        for event in sorted(trace.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                present += event.nbytes()
                peak = max(peak, present)
        peaks.append(peak)
    assert 0 < peaks[1] < 0.75 * peaks[0]
