"""Improved MeanFlow: the regression of V, the tangent of the network, and networks that know the length of a jump."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from flowleap import Batch, FlowMap, losses, methods, paths, runs, times
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.guidance import GuidanceInput
from flowleap.networks import MLP, DiT
from flowleap.networks.adapters import StepToken, WithLogVariance
from flowleap.objectives import Eulerian
from flowleap.point import Point
from flowleap.tensors import guided_label
from flowleap.velocities import Head, Own

D = torch.float64


def network(**options: object) -> MLP:
    """A small network none of whose weights is 0."""
    torch.manual_seed(0)
    made = MLP(3, classes=2, width=16, depth=2, **options).double()
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


# the velocity head


def test_both_losses_are_those_of_the_published_code() -> None:
    """V onto v_g and v_head onto v_g, each with its adaptive weight, added up, in value and gradient:

    v_g = v + (1 − 1/w)(v_head(y, w) − v_head(∅, 1)) inside the interval, and du/dt along v_head.
    """
    objective = replace(
        methods.imf(head=True),
        target=Eulerian(TwoPass(), tangent=Head()),
        guidance=GuidanceInput(by_head=True),
    )
    model, p = network(velocity_head=1, guidance_input=True), point(objective)
    assert bool(p.dropped.any()) and 0 < len(p.guided) < len(p)
    found = objective.per_sample(objective.regress(objective.flow_map(model), None, p), p)

    label, (scale, first, last) = p.network_label(2), p.guidance.unbind(1)
    nothing = guided_label(
        torch.full_like(p.label, 2), torch.tensor([[1.0, 0.0, 1.0]], dtype=D).expand(16, 3)
    )
    along, bare = (model.with_velocity(p.x_t, p.t, p.t, y)[1].detach() for y in (label, nothing))
    inside = (p.t >= first) & (p.t <= last) & ~p.dropped
    v_g = p.noise - p.x + torch.where(inside, 1 - 1 / scale, 0.0)[:, None] * (along - bare)

    def u(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, p.r, label)

    _, rate = jvp(u, (p.x_t, p.t), (along, torch.ones_like(p.t)))
    prediction, velocity = model.with_velocity(p.x_t, p.t, p.r, label)
    compound = prediction + (p.t - p.r)[:, None] * rate.detach()
    expected = torch.zeros(16, dtype=D)
    for error in ((compound - v_g).square().sum(1), (velocity - v_g).square().sum(1)):
        expected = expected + error / (error.detach() + 1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for one, other in zip(gradients(found.mean(), model), gradients(expected.mean(), model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["MLP", "DiT"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_head_leaves_the_map_as_it_is_and_is_not_computed_with_it(kind: str, count: int) -> None:
    def made(head: int) -> torch.nn.Module:
        torch.manual_seed(0)
        if kind == "MLP":
            return MLP((1, 4, 4), 2, width=16, depth=2, velocity_head=head)
        return DiT((1, 4, 4), 2, patch=2, width=16, depth=2, heads=2, velocity_head=head)

    plain, headed = made(0), made(count)
    own = {name for name in headed.state_dict() if name.startswith("v_")}
    assert len(headed.v_blocks) == count and set(headed.state_dict()) - own == set(plain.state_dict())
    random = torch.Generator().manual_seed(1)
    for name, weight in headed.named_parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=random))
        if name not in own:
            plain.get_parameter(name).data.copy_(weight)
    x, t = torch.randn(3, 1, 4, 4, generator=random), torch.tensor([0.9, 0.5, 0.4])
    given = x, t, t / 2, torch.tensor([0, 1, 2])
    assert torch.equal(headed(*given), plain(*given))
    output, velocity = headed.with_velocity(*given)
    assert torch.equal(output, plain(*given)) and not torch.allclose(velocity, output)
    headed(*given).sum().backward()
    assert all(weight.grad is None for name, weight in headed.named_parameters() if name in own)


def test_what_a_head_needs_is_said() -> None:
    with pytest.raises(ValueError, match="loss=VelocityHead"):
        replace(methods.imf(), target=Eulerian(tangent=Head()))
    with pytest.raises(ValueError, match="TwoPass"):
        replace(methods.imf(head=True), target=Eulerian(ExactJVP(), tangent=Head()))
    with pytest.raises(ValueError, match="the loss inside it alone"):
        replace(methods.sid(), loss=losses.VelocityHead())
    with pytest.raises(ValueError, match="there are 2"):
        network(velocity_head=3)
    with pytest.raises(ValueError, match="velocity_head=0 or decoder=0"):
        DiT((1, 4, 4), 2, width=16, depth=2, heads=2, velocity_head=1, decoder=1)
    objective = methods.imf(head=True)
    for without in (network(), StepToken(network(velocity_head=1))):
        with pytest.raises(ValueError, match="has no velocity head"):
            objective.regress(objective.flow_map(without), None, point(objective))
    inner = network(velocity_head=1)
    assert WithLogVariance(inner).with_velocity is not None and not hasattr(network(), "with_velocity")


def test_a_run_gives_the_head_half_of_the_blocks() -> None:
    settings = [("target.tangent", "Head"), ("loss", "VelocityHead")]
    assert runs.configure("imf", settings=settings).network["velocity_head"] == 2
    assert runs.configure("imf").network["velocity_head"] == 0
    assert runs.configure("imf", settings=[*settings, ("network.depth", "1")]).network["velocity_head"] == 1
    found = runs.configure("imf", settings=settings).objective
    assert (found.target, found.loss) == (methods.imf(head=True).target, methods.imf(head=True).loss)


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
