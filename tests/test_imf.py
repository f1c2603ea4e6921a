"""Improved MeanFlow: the regression of V, the tangent of the network, and networks that know the length of a jump."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from flowleap import Batch, FlowMap, methods, paths, times
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.networks import MLP
from flowleap.objectives import Eulerian
from flowleap.point import Point
from flowleap.velocities import Own

D = torch.float64


def network() -> MLP:
    """A small network none of whose weights is 0."""
    torch.manual_seed(0)
    made = MLP(3, classes=2, width=16, depth=2).double()
    random = torch.Generator().manual_seed(1)
    for weight in made.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=random).to(D))
    return made


def point(objective: object) -> Point:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(2), dtype=D)
    return objective.draw(Batch(x, torch.arange(16) % 2), 0, 0)


def gradients(loss: Tensor, of: MLP) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [*of.parameters()], allow_unused=True))


@pytest.mark.parametrize("tangent", [None, Own()], ids=["of the pair", "its own"])
def test_the_regression_of_v_is_that_of_u_onto_its_target(tangent: Own | None) -> None:
    """‖V − v‖² with V = u + (t − r) sg(du/dt), as the code of Geng et al. has it, in value and gradient.

    With the velocity of the pair as tangent both are MeanFlow.
    """
    objective = replace(methods.imf(), target=Eulerian(TwoPass(), tangent=tangent))
    model, p = network(), point(objective)
    flow, label = objective.flow_map(model), p.network_label(2)
    regression = objective.regress(flow, None, p)
    found = objective.per_sample(regression, p)

    v = p.noise - p.x
    along = v if tangent is None else model(p.x_t, p.t, p.t, label).detach()

    def u(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, p.r, label)

    _, rate = jvp(u, (p.x_t, p.t), (along, torch.ones_like(p.t)))
    compound = model(p.x_t, p.t, p.r, label) + (p.t - p.r)[:, None] * rate.detach()
    error = (compound - v).square().sum(1)
    expected = error / (error.detach() + 1e-2)
    torch.testing.assert_close(regression.prediction - regression.target, compound - v, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for one, other in zip(gradients(found.mean(), model), gradients(expected.mean(), model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_the_tangent_does_not_depend_on_the_pair() -> None:
    """Two pairs that meet in one x_t have targets that differ by their velocities alone."""
    objective = replace(methods.imf(), target=Eulerian(TwoPass(), tangent=Own()), label_dropout=0.0)
    flow = objective.flow_map(network())
    t, r = torch.tensor([0.8, 0.5], dtype=D), torch.tensor([0.1, 0.3], dtype=D)
    x, noise = torch.randn(2, 2, 3, dtype=D, generator=torch.Generator().manual_seed(3))
    shift = torch.tensor([[0.3, -0.2, 0.5]], dtype=D)
    other = x + shift, noise - (1 - t)[:, None] / t[:, None] * shift
    first, second = (objective.point(*pair, t, t, r, torch.tensor([0, 1])) for pair in ((x, noise), other))
    torch.testing.assert_close(first.x_t, second.x_t, rtol=1e-12, atol=1e-12)
    ours, theirs = (objective.regress(flow, None, p).target for p in (first, second))
    apart = (other[1] - other[0]) - (noise - x)
    torch.testing.assert_close(theirs - ours, apart, rtol=1e-9, atol=1e-9)
    plain = replace(objective, target=Eulerian(TwoPass()))
    ours, theirs = (plain.regress(flow, None, p).target for p in (first, second))
    assert (theirs - ours - apart).abs().max() > 1e-2


# conditioning on the length of a jump


@pytest.mark.parametrize("derivative", [TwoPass(), ExactJVP(), CentralDifference(1e-5)], ids=repr)
def test_a_network_of_the_length_alone_is_one_of_both_times_that_ignores_the_rest(derivative: object) -> None:
    model, asked = network(), []

    def length(x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        return model(x, t - r, torch.zeros_like(t), label)

    length.num_classes = 2

    def recording(x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        asked.append(bool((r == 0).all()))
        return model(x, t, r, label)

    recording.num_classes = 2
    both = replace(methods.imf(), target=Eulerian(derivative, tangent=Own()))
    alone = replace(both, conditioning="t-r")
    p = point(both)
    expected = both.regress(both.flow_map(length), None, p)
    found = alone.regress(alone.flow_map(recording), None, p)
    torch.testing.assert_close(found.prediction, expected.prediction, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.target, expected.target, rtol=1e-7, atol=1e-7)
    assert asked and all(asked)


def test_it_is_sampled_without_advice_at_any_number_of_steps() -> None:
    objective = replace(methods.imf(), conditioning="t-r")
    flow, noise = objective.flow_map(network()), torch.randn(4, 3, dtype=D)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = objective.sample(flow, noise, label=torch.arange(4) % 2)
        objective.sample(flow, noise, 4, label=torch.arange(4) % 2)
    expected = noise - flow.network(
        noise, torch.ones(4, dtype=D), torch.zeros(4, dtype=D), torch.arange(4) % 2
    )
    torch.testing.assert_close(once, expected, rtol=1e-12, atol=1e-12)


def test_noise_levels_keep_both_times() -> None:
    law = times.SortedPair(times.LogNormal())
    with pytest.raises(ValueError, match='logarithms of the noise levels of VEPath: use conditioning="t,r"'):
        replace(methods.meanflow(), path=paths.VEPath(), times=law, conditioning="t-r")
    assert FlowMap(network(), conditioning="t-r").network_times(torch.ones(1), torch.zeros(1)) == (1.0, 0.0)
