"""The same numbers on a GPU as on the CPU: draws are the CPU's, so targets and gradients must agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import Batch, methods, networks
from flowleap.couplings import StoredPairs
from flowleap.guidance import FinestLevel, Guidance
from flowleap.objectives import LearnedSolver, SelfConsistency

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def network(device: str, seed: int) -> networks.DiT:
    """A small transformer in float64 whose output is not zero."""
    torch.manual_seed(seed)
    made = networks.DiT((1, 8, 8), classes=10, width=32, depth=2, heads=2, log_variance=True).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.to(device)


def step(name: str, guided: bool, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Target, loss and gradient norm of one step."""
    objective = methods.get(name).for_run(100)
    if guided:
        jumps = isinstance(objective.target, SelfConsistency)
        guidance = FinestLevel(1.5) if jumps else Guidance(1.0, 0.5, (0.0, 0.8))
        objective = replace(objective, guidance=guidance, label_dropout=0.1)
    if objective.needs_teacher:
        objective = objective.with_teacher(objective.flow_map(network(device, 1)))
    solved = isinstance(objective.target, LearnedSolver)
    student = networks.MeanDirection(network(device, 1)).double().to(device) if solved else network(device, 0)
    source = torch.Generator().manual_seed(1)
    x, noise = (torch.randn(64, 1, 8, 8, dtype=torch.float64, generator=source).to(device) for _ in range(2))
    label = (torch.arange(64) // 8).to(device)
    batch = Batch(x, label, noise if isinstance(objective.coupling, StoredPairs) else None)
    flow = objective.flow_map(student)
    frozen = flow if objective.auxiliary is None else objective.flow_map(network(device, 2))
    point = objective.draw(batch, 50, 0, frozen)
    regression = objective.regress(flow, frozen, point)
    loss = objective.per_sample(regression, point)
    loss.mean().backward()
    norm = torch.stack([p.grad.norm() for p in student.parameters() if p.grad is not None]).norm()
    return regression.target.detach().cpu(), loss.detach().cpu(), norm.cpu()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", methods.names())
def test_a_step_is_the_same_on_both_devices(name: str, guided: bool) -> None:
    if guided and methods.get(name).needs_teacher:
        pytest.skip("a teacher is guided by a field of its own")
    for ours, theirs in zip(step(name, guided, "cuda"), step(name, guided, "cpu"), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)
