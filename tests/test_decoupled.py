"""Decoupled MeanFlow: a transformer whose first blocks know t and last ones r, and its loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowleap import methods, networks
from flowleap.losses import LearnedCauchy, Squared
from flowleap.networks import DiT, warm
from flowleap.point import Regression
from flowleap.randomness import RowGenerator

IMAGE, D = (1, 4, 4), torch.float64
SMALL = {"width": 16, "depth": 3, "heads": 2, "patch": 2}


def disturbed(**options) -> DiT:
    """A transformer whose answers are not zero."""
    torch.manual_seed(0)
    network = DiT(IMAGE, 3, **SMALL, **options).to(D)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network


def asked(rows: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(rows, *IMAGE, generator=random, dtype=D)
    t = torch.rand(rows, generator=random, dtype=D)
    return x, t, t * torch.rand(rows, generator=random, dtype=D), torch.arange(rows) % 3


@pytest.mark.parametrize("decoder", [1, 2])
def test_the_first_blocks_know_t_and_the_last_ones_r(decoder: int) -> None:
    network, (x, t, r, label) = disturbed(decoder=decoder), asked()
    seen: list[Tensor] = []
    for part in (*network.blocks, network.final_layer):
        part.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    network(x, t, r, label)
    first, last = (network.t_embedder(time) + network.y_embedder(label, 4) for time in (t, r))
    for c, expected in zip(seen, [first] * (3 - decoder) + [last] * (decoder + 1), strict=True):
        torch.testing.assert_close(c, expected, rtol=0, atol=0)
    assert not torch.equal(first, last)


def test_every_weight_is_used_and_none_is_new() -> None:
    """No embedding of a second time; the learned weight reads both times by the one that there is."""
    network, (x, t, r, label) = disturbed(decoder=1, log_variance=True), asked()
    assert not any(name.startswith("r_embedder") for name, _ in network.named_parameters())
    head = network.log_variance(t, r)
    (network(x, t, r, label).square().mean() + head.mean()).backward()
    assert all(weight.grad is not None for weight in network.parameters())
    assert not torch.equal(head, network.log_variance(t, t))
    assert torch.equal(networks.build(network.config).to(D).pos_embed, network.pos_embed)
    for decoder in (0, 3):
        with pytest.raises(ValueError, match=rf"decoder={decoder}.*less than depth=3"):
            DiT(IMAGE, 3, **SMALL, decoder=decoder)


@pytest.mark.parametrize("depth", [0, 2])
def test_it_begins_as_the_flow_model_it_is_made_from(depth: int) -> None:
    """On r = t, the velocity: also of a network with an embedding of t − r, which adds a constant there."""
    other = disturbed(decoder=depth) if depth else disturbed()
    network, (x, t, _, label) = DiT(IMAGE, 3, **SMALL, decoder=1).to(D), asked()
    taken = warm.begin_with(network, other)
    assert not taken.fresh
    torch.testing.assert_close(network(x, t, t, label), other(x, t, t, label), rtol=1e-12, atol=1e-12)


def test_the_loss_is_a_logarithm_with_a_learned_weight() -> None:
    """ln(e^{−ℓ} m + c) + ℓ and its gradients, and no weight without a head."""
    loss = LearnedCauchy(Squared(), eps=0.01)
    prediction = torch.tensor([[1.0, 2.0], [0.5, 0.0], [30.0, 4.0]], dtype=D, requires_grad=True)
    level = torch.tensor([0.3, -2.0, 1.0], dtype=D, requires_grad=True)
    found = loss(Regression(prediction, torch.zeros(3, 2, dtype=D), level), None)
    mean = prediction.square().mean(1)
    expected = torch.log(torch.exp(-level) * mean + 0.01) + level
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one in (prediction, level):
        ours, theirs = (
            torch.autograd.grad(each.sum(), one, retain_graph=True)[0] for each in (found, expected)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="LearnedCauchy needs a network with log_variance"):
        loss(Regression(prediction, prediction), None)
    for make, said in (
        (lambda: LearnedCauchy(eps=0.0), "a positive number"),
        (lambda: LearnedCauchy(of="r"), '"t"'),
    ):
        with pytest.raises(ValueError, match=said):
            make()


def test_the_law_of_times_is_the_published_one() -> None:
    """Means of logits: rows r = t are N(0, 1), of the others the sum is that of N(0.4, 1) and N(−1.2, 1)."""
    t, _, r, count = methods.dmf().times.draw(RowGenerator(0, "times", total=40_000), 0.5)
    assert count == 20_000 and torch.equal(t[count:], r[count:])
    both = torch.logit(t[:count].double()) + torch.logit(r[:count].double())
    assert float(both.mean()) == pytest.approx(-0.8, abs=3 * (2 / count) ** 0.5)
    assert float(torch.logit(t[count:].double()).mean()) == pytest.approx(0.0, abs=3 / count**0.5)
    assert replace(methods.dmf(), name="x").loss == LearnedCauchy(Squared("mean"), eps=0.01)
