"""Velocities: of the pair, of the batch (naive sums, the whole data set), of a network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowleap import FlowMap, oracles
from flowleap.parameterization import Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.point import Point
from flowleap.velocities import Conditional, Own, PlugIn, Teacher

D = torch.float64
PATHS = [LinearPath(), LinearPath(noise_scale=0.5), TrigPath(), VPPath(), VEPath()]
EACH = pytest.mark.parametrize("path", PATHS, ids=repr)


def made(
    path=None, batch: int = 12, dims: tuple[int, ...] = (3,), seed: int = 0, label=None, **known
) -> Point:
    path = path or LinearPath()
    random = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, batch, *dims, generator=random, dtype=D)
    share = 0.3 + 0.6 * torch.rand(batch, generator=random, dtype=D)
    t = path.t_min * (path.t_max / path.t_min) ** share if path.t_max > 1 else share
    return Point(path, x, noise, t, t, t, path.point(x, noise, t), 0, label, **known)


def naive_plug_in(point: Point) -> torch.Tensor:
    """v*_i = α' x̄_i + σ' (x_t,i − α x̄_i)/σ, one row and one member at a time."""
    path, found = point.path, []
    for i in range(len(point)):
        t = point.t[i : i + 1]
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t)) * path.noise_scale
        own = [j for j in range(len(point)) if point.label is None or point.label[j] == point.label[i]]
        distance = torch.stack([(point.x_t[i] - alpha * point.x[j]).square().sum() for j in own])
        weight = torch.softmax(-distance / (2 * sigma**2), dim=0)
        mean = sum(w * point.x[j] for w, j in zip(weight, own, strict=True))
        implied = (point.x_t[i] - alpha * mean) / sigma
        found.append(float(path.d_alpha(t)) * mean + float(path.d_sigma(t)) * path.noise_scale * implied)
    return torch.stack(found)


@EACH
def test_the_conditional_velocity_is_that_of_the_pair(path):
    """α' x + κ σ' ε, row by row."""
    point = made(path, dims=(2, 2))
    found = Conditional()(point)
    for i in range(len(point)):
        t = point.t[i : i + 1]
        expected = (
            float(path.d_alpha(t)) * point.x[i] + float(path.d_sigma(t)) * path.noise_scale * point.noise[i]
        )
        torch.testing.assert_close(found[i], expected, rtol=1e-13, atol=1e-13)


@EACH
@pytest.mark.parametrize("classes", [None, 3], ids=["one class", "three classes"])
@pytest.mark.parametrize("dims", [(3,), (2, 2, 2)], ids=str)
def test_the_plug_in_velocity_is_the_naive_sum(path, classes, dims):
    label = None if classes is None else torch.arange(12) % classes
    point = made(path, dims=dims, label=label)
    torch.testing.assert_close(PlugIn(1.0)(point), naive_plug_in(point), rtol=1e-11, atol=1e-11)


@EACH
def test_over_the_whole_data_set_the_plug_in_is_the_marginal_velocity(path):
    """The batch is the data set, with classes."""
    label = torch.arange(12) % 2
    point = made(path, label=label)
    exact = oracles.FiniteData(point.x, label, path).velocity(point.x_t, point.t, label)
    torch.testing.assert_close(PlugIn(1.0)(point), exact, rtol=1e-10, atol=1e-10)


def test_two_points_in_a_batch_have_the_velocity_of_the_two_point_oracle():
    x = torch.tensor([[-1.0], [1.0]], dtype=D)
    noise, t = torch.tensor([[0.4], [-1.3]], dtype=D), torch.tensor([0.5, 0.8], dtype=D)
    path = LinearPath()
    point = Point(path, x, noise, t, t, t, path.point(x, noise, t), 0)
    exact = oracles.TwoPoints(path).velocity(point.x_t, t)
    torch.testing.assert_close(PlugIn(1.0)(point), exact, rtol=1e-12, atol=1e-12)


@EACH
def test_in_a_batch_of_one_the_plug_in_is_the_conditional_velocity(path):
    point = made(path, batch=1)
    torch.testing.assert_close(PlugIn(1.0)(point), Conditional()(point), rtol=1e-12, atol=1e-12)


def test_a_class_of_one_row_has_its_conditional_velocity():
    point = made(label=torch.tensor([0] * 11 + [1]))
    found = PlugIn(1.0)(point)
    torch.testing.assert_close(found[11], Conditional()(point)[11], rtol=1e-12, atol=1e-12)
    assert float((found - Conditional()(point))[:11].abs().amax()) > 0.1


@given(seed=st.integers(0, 99))
def test_other_classes_have_no_say(seed):
    """Moving the rows of class 1 anywhere leaves class 0 as it is, and mixing classes does not."""
    label = torch.arange(12) % 2
    point = made(seed=seed, label=label)
    moved = replace(point, x=torch.where(label[:, None] == 1, point.x + 5, point.x))
    first, second = PlugIn(1.0)(point), PlugIn(1.0)(moved)
    torch.testing.assert_close(first[label == 0], second[label == 0], rtol=0, atol=0)
    blind = PlugIn(1.0)(replace(point, label=None))
    assert float((first - blind).abs().amax()) > 1e-3


def test_dropped_labels_keep_their_class_in_the_plug_in():
    """The label is the class, whatever the network is told."""
    label = torch.arange(12) % 2
    point = made(label=label, dropped=torch.ones(12, dtype=torch.bool))
    assert torch.equal(PlugIn(1.0)(point), PlugIn(1.0)(made(label=label)))


def test_only_chosen_rows_use_the_plug_in():
    chosen = torch.arange(12) % 3 == 0
    point = made(plug_in=chosen)
    found, plain = PlugIn(0.5)(point), Conditional()(point)
    everywhere = PlugIn(0.5)(replace(point, plug_in=None))
    assert torch.equal(found[chosen], everywhere[chosen]) and torch.equal(found[~chosen], plain[~chosen])
    assert torch.equal(PlugIn(0.0)(replace(point, plug_in=None)), plain), (
        "probability 0 is the conditional velocity"
    )


def test_the_plug_in_has_less_variance_and_the_same_mean():
    """On two-point data the conditional velocity scatters about the exact one, the plug-in hardly."""
    random = torch.Generator().manual_seed(0)
    x = (torch.rand(1000, 1, generator=random, dtype=D) - 0.5).sign()
    noise = torch.randn(1000, 1, generator=random, dtype=D)
    t = torch.full((1000,), 0.7, dtype=D)
    path = LinearPath()
    point = Point(path, x, noise, t, t, t, path.point(x, noise, t), 0)
    exact = oracles.TwoPoints(path).velocity(point.x_t, t)
    wide, narrow = Conditional()(point) - exact, PlugIn(1.0)(point) - exact
    assert float(narrow.abs().mean()) < 0.1 * float(wide.abs().mean())
    assert float(wide.mean().abs()) < 4 * float(wide.std()) / 1000**0.5


def test_the_plug_in_is_finite_at_the_ends_of_the_path_in_single_precision():
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    for path in PATHS:
        t = torch.tensor([path.t_min, path.t_max]).repeat(4)
        point = Point(path, x, x.flip(0), t, t, t, path.point(x, x.flip(0), t), 0)
        found, plain = PlugIn(1.0)(point), Conditional()(point)
        assert bool(found.isfinite().all()), path
        torch.testing.assert_close(found[::2], plain[::2], rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_a_share_outside_the_unit_interval_is_refused(probability):
    with pytest.raises(ValueError, match="PlugIn"):
        PlugIn(probability)


# velocities of networks


class Labeled(torch.nn.Module):
    num_classes = 4

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain, dtype=D))
        self.labels = []

    def forward(self, x, t, r, label):
        assert torch.equal(t, r), "the instantaneous velocity is asked for on the diagonal"
        self.labels.append(label)
        return self.gain * x + 10 * label[:, None]


def test_own_velocity_is_the_networks_without_a_graph_under_the_labels_it_sees():
    """u(x_t, t, t); dropped rows carry the null class, 4."""
    label, dropped = torch.tensor([0, 1, 2]), torch.tensor([False, True, False])
    point = made(batch=3, label=label, dropped=dropped)
    network = Labeled(2.0)
    found = Own()(point, FlowMap(network))
    torch.testing.assert_close(found, 2 * point.x_t + torch.tensor([0.0, 40.0, 20.0], dtype=D)[:, None])
    assert not found.requires_grad and network.labels[0].tolist() == [0, 4, 2]


def test_own_velocity_needs_a_flow():
    with pytest.raises(ValueError, match=r"velocity\(point, flow\)"):
        Own()(made())


def test_a_teachers_velocity_is_the_teachers_whatever_is_trained():
    oracle = oracles.Gaussian(std=0.5)
    point = made()
    student = FlowMap(lambda x, t, r, label: 0 * x)
    for teacher in (FlowMap.of(oracle), FlowMap.of(oracle, Velocity())):
        found = Teacher(teacher)(point, student)
        torch.testing.assert_close(found, oracle.velocity(point.x_t, point.t), rtol=1e-12, atol=1e-12)
