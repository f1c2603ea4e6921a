"""The optimizer: AdamW as it is in torch, Muon for the matrices of a network, skipped steps, checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from flowleap import methods, networks
from flowleap.cli import app
from flowleap.training.guard import Guard
from flowleap.training.optimizer import COEFFICIENTS, Optimizer, orthogonalized
from flowleap.training.state import new_trained_network

CPU = torch.device("cpu")
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}


def small(**options: object) -> nn.Module:
    torch.manual_seed(0)
    network = networks.DiT((1, 8, 8), 3, patch=4, width=16, depth=2, heads=2, **options)
    for weight in network.parameters():  # no zeros, so that every gradient counts
        nn.init.normal_(weight, std=0.1)
    return network


def graded(network: nn.Module) -> None:
    torch.manual_seed(1)
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)


def test_without_muon_it_is_adamw() -> None:
    ours, theirs = small(), small()
    a = Optimizer(ours, **SETTINGS)
    b = torch.optim.AdamW(theirs.parameters(), **SETTINGS, fused=True)
    for _ in range(3):
        graded(ours), graded(theirs)
        a.found_inf = torch.zeros(())
        a.step(), b.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_matrices_move_as_torch_moves_them() -> None:
    """Held to torch.optim.Muon, which orthogonalizes in bfloat16, and the other weights to AdamW."""
    ours, theirs = small(), small()
    a = Optimizer(ours, **SETTINGS, muon=2.5)
    matrices = theirs.matrices()
    chosen = {id(weight) for weight in matrices}
    b = torch.optim.Muon(matrices, lr=2.5e-2, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    c = torch.optim.AdamW([w for w in theirs.parameters() if id(w) not in chosen], **SETTINGS, fused=True)
    before = {name: weight.detach().clone() for name, weight in theirs.named_parameters()}
    for _ in range(3):
        graded(ours), graded(theirs)
        a.found_inf = torch.zeros(())
        a.step(), b.step(), c.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        moved = (other - before[name]).norm()
        assert moved > 0
        assert (mine - other).norm() < (0.06 if id(other) in chosen else 1e-6) * moved, name


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 48, 16), (2, 16, 64)])
def test_singular_values_come_near_to_1(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    matrices = torch.randn(shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalized(matrices)
    a, b, c = COEFFICIENTS
    s = s / s.square().sum(1, keepdim=True).sqrt()
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    assert torch.allclose(found, u * s[:, None] @ vh, atol=1e-10)
    assert s.min() > 0.6 and s.max() < 1.3


def test_a_step_that_is_not_finite_leaves_weights_and_moments() -> None:
    network = small()
    optimizer, guard = Optimizer(network, **SETTINGS, muon=5.0), Guard(CPU)
    graded(network)
    guard.step(optimizer, torch.tensor(True))
    weights = [weight.detach().clone() for weight in network.parameters()]
    moments = [
        {name: value.clone() for name, value in optimizer.state[w].items()} for w in network.parameters()
    ]
    graded(network)
    for weight in network.parameters():
        assert weight.grad is not None
        weight.grad[0] = torch.nan
    guard.step(optimizer, torch.tensor(False))
    for weight, before, state in zip(network.parameters(), weights, moments, strict=True):
        assert torch.equal(weight, before)
        assert all(torch.equal(optimizer.state[weight][name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "network",
    [
        networks.DiT((1, 8, 8), patch=4, width=16, depth=3, heads=2, velocity_head=1),
        networks.UNet((1, 8, 8), width=8, multipliers=[1, 2], depth=1, attention=[1]),
        networks.MLP(2, width=16, depth=2),
        networks.WithLogVariance(networks.MLP(2, width=16, depth=2)),
    ],
    ids=["DiT", "UNet", "MLP", "adapter"],
)
def test_matrices_are_inside_blocks(network: nn.Module) -> None:
    names = {id(weight): name for name, weight in network.named_parameters()}
    found = [names[id(weight)] for weight in network.matrices()]
    assert len(set(found)) == len(found) >= 4
    outside = [
        "embedder",
        "final_layer",
        "adaLN",
        "conv_in",
        "conv_out",
        "condition",
        "logvar",
        "bias",
        "norm",
    ]
    assert not [name for name in found if any(word in name for word in outside)]


def test_a_network_that_names_no_matrices_is_refused() -> None:
    with pytest.raises(ValueError, match="matrices"):
        Optimizer(nn.Linear(2, 2), **SETTINGS, muon=5.0)
    Optimizer(nn.Linear(2, 2), **SETTINGS)


def test_a_method_with_betas_of_its_own_has_adamw_everywhere() -> None:
    network = networks.MLP(2, width=16, depth=1)
    settings = SETTINGS | {"decays": (0.9,), "muon": 5.0}
    trained = new_trained_network(network, methods.get("sid"), **settings)
    assert trained.optimizer.muon is None and trained.auxiliary is not None
    assert new_trained_network(network, methods.get("meanflow"), **settings).optimizer.muon == 5.0


@pytest.mark.slow
def test_a_run_learns_by_muon_and_resumes(tmp_path: Path) -> None:
    asked = [
        "train",
        "meanflow",
        "--steps",
        "6",
        "--no-eval",
        "--set",
        "optimizer.muon=2.5",
        "--out",
        str(tmp_path / "run"),
    ]
    run = CliRunner().invoke(app, asked)
    assert run.exit_code == 0, run.output
    moments = load_file(next((tmp_path / "run").rglob("optimizer.safetensors")))
    assert {name.split("/")[0] for name in moments} == {"exp_avg", "exp_avg_sq", "step", "momentum_buffer"}
    more = CliRunner().invoke(app, ["train", "--resume", "--steps", "9", "--out", str(tmp_path / "run")])
    assert more.exit_code == 0, more.output
