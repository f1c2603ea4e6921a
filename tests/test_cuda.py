"""The same numbers on a GPU as on the CPU: draws are the CPU's, so targets and gradients must agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import Batch, methods, networks
from flowleap.guidance import FinestLevel, Guidance
from flowleap.objectives import SelfConsistency

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def step(name: str, guided: bool, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Target, loss and gradient norm of one step of a small transformer in float64."""
    objective = methods.get(name).for_run(100)
    if guided:
        jumps = isinstance(objective.target, SelfConsistency)
        objective = replace(objective, guidance=FinestLevel(1.5) if jumps else Guidance(1.0, 0.5, (0.0, 0.8)))
    torch.manual_seed(0)
    network = networks.DiT((1, 8, 8), classes=10, width=32, depth=2, heads=2, log_variance=True).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(64, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    flow = objective.flow_map(network.to(device))
    point = objective.draw(Batch(x.to(device), (torch.arange(64) // 8).to(device)), 50, 0)
    regression = objective.regress(flow, flow, point)
    loss = objective.per_sample(regression, point)
    loss.mean().backward()
    norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
    return regression.target.cpu(), loss.detach().cpu(), norm.cpu()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", methods.names())
def test_a_step_is_the_same_on_both_devices(name: str, guided: bool) -> None:
    for ours, theirs in zip(step(name, guided, "cuda"), step(name, guided, "cpu"), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)
