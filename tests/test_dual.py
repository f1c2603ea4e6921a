"""Dual tensors against torch.func.jvp: every rule, whole networks, and where they are taken."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowleap import Batch, dual, methods, networks
from flowleap.derivatives import Auto, TwoPass
from flowleap.networks import dropout

D = torch.float64
W, V = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=D)
K = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(2), dtype=D)
RULES = {
    "linear": lambda x, y: F.linear(x, W, V[0]) + F.linear(y, W),
    "convolution": lambda x, y: F.conv2d(x[None], K, V[0, :2], padding=1),
    "cos sin": lambda x, y: torch.cos(x) + y.sin(),
    "silu": lambda x, y: F.silu(x),
    "gelu": lambda x, y: F.gelu(x, approximate="tanh") + F.gelu(y),
    "softmax": lambda x, y: torch.softmax(x, 1) * y,
    "softmax in another type": lambda x, y: torch.softmax(x, dim=-1, dtype=torch.float64),
    "layer norm": lambda x, y: F.layer_norm(x, (6,), V[0], W[0]) + F.layer_norm(y, (6, 6), eps=1e-3),
    "group norm": lambda x, y: F.group_norm(x, 2, V[0], W[0]) + F.group_norm(y, 1, eps=1e-2),
    "product": lambda x, y: x * y + 2 * x + x * W,
    "product, broadcast": lambda x, y: x[:, :1] * y * V[0],
    "matrix product": lambda x, y: x @ y.mT + x @ W + torch.matmul(V, y.mT),
    "addcmul": lambda x, y: torch.addcmul(x[:, :1], x, y) + torch.addcmul(V[0], x, W[0]),
    "addcmul with an option": lambda x, y: torch.addcmul(x, x, y, value=3),
    "sum": lambda x, y: x[:, :1] + y + 1 + (2 + x) + V[0],
    "sum with an option": lambda x, y: torch.add(x, y, alpha=2),
    "difference": lambda x, y: (x - y[:, :1]) * (1 - x) + (x - 1) * (V[0] - y),
    "concatenation": lambda x, y: torch.cat([x, W.expand(4, 6, 6), y[:, :1].expand(4, 2, 6)], dim=1),
    "attention": lambda x, y: F.scaled_dot_product_attention(x, y, x * y),
    "attention with an option": lambda x, y: F.scaled_dot_product_attention(x, y, x * y, is_causal=True),
    "attention to constants": lambda x, y: F.scaled_dot_product_attention(
        x, W.expand(4, 6, 6), V.expand(4, 6, 6)
    ),
    "shapes": lambda x, y: x.reshape(4, -1, 2).permute(1, 2, 0).flatten(1).unflatten(1, (4, 2)).contiguous(),
    "parts": lambda x, y: x.chunk(2, -1)[1] * y.unbind(1)[0][:, None, :3] + x.mean(1, keepdim=True)[..., :3],
    "pooling": lambda x, y: F.avg_pool2d(F.interpolate(x[None], scale_factor=2.0), 2, ceil_mode=True),
    "other operations": lambda x, y: torch.where(
        x > 0, x.exp() / y.square().add(1), x.tanh().clamp_min(-0.5)
    ),
    "quotient": lambda x, y: x / 2 + x / (2 + y.square()),
    "an index": lambda x, y: x[:, x[0, :, 0].argsort()] * len(x) * x.shape[1],
}


@pytest.fixture(autouse=True)
def _attention_that_torch_differentiates():
    with sdpa_kernel(SDPBackend.MATH):
        yield


def given(seed: int, *shape: int, kind: torch.dtype = D) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed), dtype=kind))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_that_of_torch(name):
    x, y, dx, dy = given(3, 4, 6, 6)
    expected = torch.func.jvp(RULES[name], (x, y), (dx, dy))
    found = dual.jvp(RULES[name], (x, y), (dx, dy))
    for one, other in zip(found, expected, strict=True):
        assert type(one) is torch.Tensor
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert float(expected[1].abs().max()) > 0.1


def test_what_does_not_depend_on_it_has_no_tangent():
    x, _, dx, _ = given(4, 3)
    value, tangent = dual.jvp(lambda x: x.detach().round() * 2, (x,), (dx,))
    assert torch.equal(value, x.round() * 2) and not bool(tangent.any())


@pytest.mark.parametrize(
    "change",
    [lambda x: x.add_(1) + x, lambda x: F.silu(x, inplace=True), lambda x: torch.ones(3).to(x).copy_(x) * x],
)
def test_a_change_in_place_is_refused(change):
    x, _, dx, _ = given(5, 3)
    with pytest.raises(NotImplementedError, match="changes a tensor in place"):
        dual.jvp(change, (x * 1,), (dx,))


NETWORKS = {
    "DiT": lambda: networks.DiT((1, 4, 4), 3, width=16, depth=2, heads=2),
    "DiT with dropout": lambda: networks.DiT((1, 4, 4), 3, width=16, depth=2, heads=2, dropout=0.3),
    "DiT with normed queries": lambda: networks.DiT(
        (1, 4, 4), width=16, depth=1, heads=2, qk_norm=True, double_norm=True, second="landing"
    ),
    "UNet": lambda: networks.UNet((1, 5, 5), 3, width=8, multipliers=(1, 2), depth=1, heads=2, dropout=0.3),
    "MLP": lambda: networks.MLP((1, 4, 4), 3, width=16, depth=1),
    "wrapped": lambda: networks.Reversed(networks.StepToken(NETWORKS["DiT"]())),
    "in noise levels": lambda: networks.NoiseTime(
        networks.Timestep(networks.WithLogVariance(NETWORKS["DiT"]()))
    ),
    "in two stages": lambda: networks.Truncated(NETWORKS["DiT"](), 0.5),
}


def network_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(6)
    network = NETWORKS[name]()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    return network, (1, 5, 5) if name == "UNet" else (1, 4, 4)


def taken(way, network, x, t, r, label, dx):
    """The derivative of a network along (dx, 1), with keys of dropout."""

    def field(x, t):
        with dropout.keyed(torch.arange(6)):
            return network(x, t, r, label)

    with torch.no_grad():
        return way(field, (x, t), (dx, torch.ones_like(t)))


def error(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("labeled", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize(
    ("kind", "tolerance"), [(D, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, None)], ids=str
)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_derivative_of_a_network_is_that_of_torch(name, kind, tolerance, labeled):
    """With labels, one of them the null class; in bfloat16, with times in float32, it is as exact as torch's."""
    network, shape = network_of(name)
    network.to(kind)
    x, dx, _, _ = (each.to(kind) for each in given(7, 6, *shape, kind=torch.float32))
    times = torch.promote_types(kind, torch.float32)
    t, r = torch.linspace(0.4, 0.9, 6, dtype=times), torch.linspace(0.1, 0.3, 6, dtype=times)
    label = torch.tensor([0, 1, 2, 3, 0, 1]) if labeled and network.num_classes else None
    found, expected = (taken(way, network, x, t, r, label, dx) for way in (dual.jvp, torch.func.jvp))
    exact = taken(
        torch.func.jvp, network.double(), *(each.double() for each in (x, t, r)), label, dx.double()
    )
    for ours, theirs, truth in zip(found, expected, exact, strict=True):
        assert ours.dtype == theirs.dtype == kind and float(truth.norm()) > 0.1
        if tolerance is None:
            assert error(ours, truth) <= 1.3 * error(theirs, truth)
        else:
            assert error(ours, theirs) <= tolerance


@pytest.mark.parametrize("name", ["DiT", "UNet", "MLP"])
def test_every_layer_has_a_closed_form(name, monkeypatch):
    network, shape = network_of(name)
    monkeypatch.setattr(dual, "_by_torch", lambda func, *args, **options: pytest.fail(f"{func} has no rule"))
    x, dx, _, _ = given(8, 6, *shape)
    t = torch.rand(6, dtype=D)
    taken(dual.jvp, network.double(), x, t, torch.zeros_like(t), None, dx)


class Rounded(torch.autograd.Function):
    """A rounding that passes tangents on, which the closed forms cannot know."""

    @staticmethod
    def forward(x):
        return (8 * x).round() / 8

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, tangent):
        return 1.0 * tangent


class OfRounded(networks.MLP):
    def forward(self, x, t, r, label=None):
        return Rounded.apply(super().forward(x, t, r, label))


class InPlace(networks.MLP):
    def forward(self, x, t, r, label=None):
        return super().forward(x, t, r, label).mul_(t[:, None])


@pytest.mark.parametrize("strategy", [TwoPass(), Auto()], ids=repr)
@pytest.mark.parametrize(
    ("kind", "agrees", "words"),
    [
        (networks.MLP, True, "with closed forms of layers, .*from torch.func.jvp"),
        (OfRounded, False, "warning: no closed forms of layers are taken: they are 1e[+]00 from torch"),
        (InPlace, False, "warning: no closed forms of layers are taken: mul_ changes a tensor in place"),
    ],
)
def test_a_run_takes_closed_forms_where_they_agree_with_torch(kind, agrees, words, strategy):
    """Also at the start, where the network answers zero."""
    objective = methods.meanflow()
    target = replace(objective.target, derivative=strategy)
    torch.manual_seed(9)
    network = kind(2, width=8, depth=1).double()
    flow = objective.flow_map(network)
    settled, said = target.settled(flow, torch.zeros(2, 2, dtype=D))
    assert settled.derivative == TwoPass(closed_forms=agrees)
    assert re.search(words, said)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    point = objective.draw(Batch(torch.randn(8, 2, dtype=D)), 3, 1)
    ours, plain = (
        replace(objective, target=replace(target, derivative=d)).regress(flow, None, point).target
        for d in (settled.derivative, TwoPass())
    )
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
