"""Pixel MeanFlow: x-prediction, a loss of velocities, and a perceptual term of the image that a velocity leads to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flowleap import FlowMap, methods, networks
from flowleap.derivatives import TwoPass
from flowleap.losses import AdaptivePower, LearnedVariance, Squared, WithPerceptual
from flowleap.objectives import EMA, Eulerian
from flowleap.oracles import Gaussian
from flowleap.parameterization import AverageVelocity, ImagePrediction
from flowleap.paths import LinearPath, Path, TrigPath, VPPath
from flowleap.velocities import Own, Teacher

D = torch.float64


class Picture(nn.Module):
    """A smooth network that predicts images."""

    num_classes = None

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.mix = nn.Parameter(torch.randn(4, 4, generator=random, dtype=D) / 2)
        self.times = nn.Parameter(torch.randn(2, 4, generator=random, dtype=D))

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        known = torch.stack([t, r], dim=-1) @ self.times
        return torch.tanh(x.flatten(1) @ self.mix + known).view_as(x)


class AsVelocity(nn.Module):
    """u = (x − F)/max(t, 0.05) of a network F."""

    num_classes = None

    def __init__(self, picture: nn.Module) -> None:
        super().__init__()
        self.picture = picture

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return (x - self.picture(x, t, r, label)) / t.clamp_min(0.05).view(-1, *[1] * (x.ndim - 1))


def rows(shape: tuple[int, ...] = (1, 2, 2)) -> tuple[Tensor, ...]:
    """Data, noise and times: jumps, one to the data, then rows r = t."""
    random = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 6, *shape, generator=random, dtype=D)
    t = torch.tensor([0.9, 0.8, 0.5, 0.03, 0.7, 0.04], dtype=D)
    r = torch.tensor([0.0, 0.3, 0.1, 0.01, 0.7, 0.04], dtype=D)
    return x, noise, t, t, r


def test_the_full_jump_is_the_prediction() -> None:
    flow = methods.pmf().flow_map(Picture())
    x, _, t, _, r = rows()
    picture = flow.output(x, t, torch.zeros_like(t))
    torch.testing.assert_close(flow(x, t, 0.0)[:3], picture[:3], rtol=0, atol=1e-14)
    u = AsVelocity(flow.network)(x, t, r)
    torch.testing.assert_close(flow(x, t, r), x - (t - r).view(-1, 1, 1, 1) * u, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flow.velocity(x, t, r), u, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="a positive time"):
        ImagePrediction(floor=0.0)


@pytest.mark.parametrize("tangent", [None, Own()], ids=["pair", "own"])
def test_it_is_meanflow_of_the_velocity_that_the_image_stands_for(tangent: Own | None) -> None:
    """Losses and gradients; with the tangent of the pair it is the published MeanFlow."""
    picture = Picture()
    ours = replace(methods.pmf(), target=Eulerian(TwoPass(), tangent=tangent, space="velocity"))
    theirs = replace(methods.meanflow(), target=Eulerian(TwoPass(), tangent=tangent))
    assert theirs.parameterization == AverageVelocity() and ours.loss == theirs.loss == AdaptivePower()
    found = []
    for objective, network in ((ours, picture), (theirs, AsVelocity(picture))):
        flow, point = objective.flow_map(network), objective.point(*rows())
        regression = objective.regress(flow, flow, point)
        loss = objective.per_sample(regression, point)
        gradients = torch.autograd.grad(loss.sum(), list(picture.parameters()))
        found.append((regression.prediction.detach(), regression.target, loss.detach(), *gradients))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("path", [LinearPath(), TrigPath(), VPPath()], ids=lambda path: type(path).__name__)
def test_the_exact_map_is_its_fixed_point(path: Path) -> None:
    """Down to r = 0, where a target for the output would be singular."""
    flow = FlowMap.of(Gaussian(0.4, 0.6, path), ImagePrediction())
    objective = replace(methods.pmf(), path=path, velocity=Teacher(flow))
    x, noise, t, s, r = rows((3,))
    point = objective.point(x, noise, t, s, r)
    regression = objective.regress(flow, flow, point)
    assert (
        regression.space == "velocity"
        and float((regression.prediction - regression.target).abs().max()) <= 1e-9
    )
    wrong = flow.with_network(lambda x, t, r, label: flow.network(x, t, r, label) + 0.1 * torch.sin(3 * x))
    assert float(objective.regress(wrong, wrong, point).raw.median()) >= 1e-3
    if path.t_min == 0:
        with pytest.raises(ValueError, match=r"∂_t b vanishes at \(t, r\) = \(1, 0\)"):
            replace(objective, target=Eulerian())


def test_a_learned_weight_and_a_moving_average_go_with_velocities() -> None:
    network = networks.MLP(2, width=8, depth=1, log_variance=True)
    objective = replace(methods.pmf(), loss=LearnedVariance(Squared()), frozen=EMA(0.9))
    flow = objective.flow_map(network)
    other = objective.flow_map(networks.MLP(2, width=8, depth=1, log_variance=True))
    x, noise, t, s, r = (each.float() for each in rows((2,)))
    regression = objective.regress(flow, other, objective.point(x, noise, t, s, r))
    assert regression.log_variance is not None and regression.log_variance.shape == (6,)


def edges(images: Tensor) -> list[Tensor]:
    gray = images[:, :1]
    return [
        torch.cat([torch.sin(gray), torch.cos(2 * gray)], 1),
        torch.cat([gray, 1 - gray.flip(3), gray**2], 1),
    ]


def test_the_perceptual_term_compares_the_implied_image_where_noise_is_low() -> None:
    loss = WithPerceptual(None, features=edges, size=None, weight=0.4)
    objective, network = replace(methods.pmf(), loss=loss), Picture()
    flow, point = objective.flow_map(network), objective.point(*rows())
    regression = objective.regress(flow, flow, point)
    found = objective.per_sample(regression, point)
    plain = methods.pmf().per_sample(regression, point)
    x, _, t, _, r = rows()
    u = AsVelocity(network)(point.x_t, t, r)
    image = point.x_t - t.view(-1, 1, 1, 1) * u
    expected = torch.zeros(6, dtype=D)
    for a, b in zip(edges(image.expand(-1, 3, -1, -1)), edges(x.expand(-1, 3, -1, -1)), strict=True):
        a, b = (each / (each.square().sum(1, keepdim=True).sqrt() + 1e-10) for each in (a, b))
        expected += (a - b).square().sum(1).mean((1, 2))
    term = torch.where(t < 0.8, 0.4 * expected / (expected + 0.01), 0.0)
    torch.testing.assert_close(found - plain, term, rtol=1e-5, atol=1e-6)
    assert int((term == 0).sum()) == 2
    one, other = (
        torch.autograd.grad(each.sum(), network.mix, retain_graph=True)[0] for each in (found, plain)
    )
    assert (one - other).norm() > 1e-3 * other.norm()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WithPerceptual(None), "give one of them"),
        (lambda: WithPerceptual(None, features=edges, weight=0.0), "positive numbers"),
        (
            lambda: replace(methods.meanflow(), loss=WithPerceptual(None, features=edges)),
            r"target=Eulerian\(space=\"velocity\"\)",
        ),
        (
            lambda: replace(
                methods.pmf(), path=TrigPath(), loss=WithPerceptual(None, Squared(), features=edges)
            ),
            "average velocities u on LinearPath",
        ),
    ],
)
def test_perceptual_terms_that_mean_nothing_are_refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
