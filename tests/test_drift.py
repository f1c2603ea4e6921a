"""Losses between laws: fields of the energy distance, Sinkhorn and kernels, and what samples in one step learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from flowleap import Batch, data, methods, networks
from flowleap.data.batching import Shuffled
from flowleap.evaluation import classifier, transport
from flowleap.guidance import Guidance
from flowleap.losses import Drift, Energy, Field, Kernel, Sinkhorn, Squared
from flowleap.networks import encoder
from flowleap.objectives import DataLaw
from flowleap.times import Denoising, NoiseToData

D = torch.float64
FIELDS = (Energy(), Sinkhorn(), Kernel())
each_field = pytest.mark.parametrize("field", FIELDS, ids=lambda field: type(field).__name__)
each_method = pytest.mark.parametrize("name", ["energy_distance", "w_flow", "drifting"])


def cloud(groups: int, rows: int, dims: int = 3, seed: int = 0, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(groups, rows, dims, dtype=D, generator=torch.Generator().manual_seed(seed))


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E‖x − y‖ − E‖x − x′‖ − E‖y − y′‖ over different rows, (groups,)."""

    def mean(a: Tensor, b: Tensor, pairs: int) -> Tensor:
        return ((a[:, :, None] - b[:, None]).square().sum(3) + 1e-30).sqrt().sum((1, 2)) / pairs

    m, n = x.shape[1], y.shape[1]
    return 2 * mean(x, y, m * n) - mean(x, x, m * (m - 1)) - mean(y, y, n * (n - 1))


def test_energy_is_the_gradient_of_the_energy_distance():
    x, y = cloud(2, 6).requires_grad_(), cloud(2, 9, seed=1, shift=0.5)
    (gradient,) = torch.autograd.grad(energy_distance(x, y).sum(), x)
    torch.testing.assert_close(Energy()(x.detach(), y), -6 / 2 * gradient, rtol=0, atol=1e-12)


def test_equal_points_neither_pull_nor_push():
    x = cloud(1, 4)
    doubled = torch.cat([x, x[:, :1]], dim=1)
    assert bool(Energy()(doubled, doubled).isfinite().all())
    pull = Energy()(doubled, x[:, :1])
    assert torch.equal(pull[:, 0], pull[:, 4])


def test_sinkhorn_without_blur_is_optimal_transport():
    x, y = cloud(1, 8), cloud(1, 8, seed=1)
    cost = (x[0, :, None] - y[0]).square().sum(2) / 2
    rows, columns = linear_sum_assignment(cost.numpy())
    found = Sinkhorn(blur=2e-3, iterations=3000).transported(x, y)
    torch.testing.assert_close(found[0, rows], y[0, columns], rtol=0, atol=5e-3)
    blurred = Sinkhorn(blur=1e4).transported(x, y)
    torch.testing.assert_close(blurred, y.mean(1, keepdim=True).expand_as(x), rtol=0, atol=1e-3)


def test_halves_of_a_group_are_transported_onto_each_other():
    """T_{q→q′} is of the other half: without data to go to, V is minus that."""
    field, x = Sinkhorn(blur=2e-3, iterations=500), cloud(1, 4)
    x[:, 2:] = x[:, :2] + 1e-3  # two pairs of neighbors, one in each half
    own = field.transported(x, x) - field(x, x)
    torch.testing.assert_close(own, torch.cat([x[:, 2:], x[:, :2]], 1), rtol=0, atol=1e-6)


@each_field
def test_a_field_points_at_the_data(field: Field):
    x, y = cloud(8, 16), cloud(8, 16, seed=1, shift=2.0)
    mean = field(x, y).mean((0, 1))
    assert bool((mean > 0.2).all())
    torch.testing.assert_close(field(-x, -y).mean((0, 1)), -mean, rtol=1e-6, atol=1e-9)


@each_field
def test_a_field_vanishes_on_average_where_the_laws_are_one(field: Field):
    made = field(cloud(2000, 16, dims=2), cloud(2000, 16, dims=2, seed=1))
    away = field(cloud(2000, 16, dims=2), cloud(2000, 16, dims=2, seed=1, shift=0.5))
    noise = float(made.mean(1).std(0).max()) / 2000**0.5
    assert float(made.mean((0, 1)).abs().max()) < 4 * noise
    assert float(away.mean((0, 1)).min()) > 20 * noise


def test_the_field_of_energy_is_unbiased_at_every_place():
    """At a fixed x among samples of the law of the data, the mean of V is 0: there is no pull to the middle."""
    x = cloud(4000, 16, dims=2)
    x[:, 0] = torch.tensor([1.5, 0.0])
    made = Energy()(x, cloud(4000, 16, dims=2, seed=1))[:, 0]
    assert bool((made.mean(0).abs() < 4 * made.std(0) / 4000**0.5).all())


@each_field
def test_the_loss_moves_samples_along_the_field(field: Field):
    made, real = cloud(2, 8).requires_grad_(), cloud(2, 8, seed=1, shift=0.5)
    value = Drift(field).of(made, real)
    (gradient,) = torch.autograd.grad(value.sum(), made)
    apart = torch.cdist(real, real)
    unit = apart.sum((1, 2), keepdim=True) / (8 * 7)
    along = field(made.detach() / unit, real / unit)
    torch.testing.assert_close(gradient, -along / unit, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(value, along.square().sum(2) / 2, rtol=1e-9, atol=1e-12)
    scaled = Drift(field).of(7 * made.detach(), 7 * real)
    torch.testing.assert_close(scaled, value.detach(), rtol=1e-6, atol=1e-9)


@each_method
def test_rows_are_compared_in_groups_of_one_class(name):
    """What one group holds changes nothing for another; samples begin at pure noise and are compared with the data."""
    objective = replace(methods.get(name), times=NoiseToData(4))
    network = networks.MLP(2, 2, width=8, depth=1).double()
    flow = objective.flow_map(network)
    torch.nn.init.normal_(network.final_layer.weight, generator=torch.Generator().manual_seed(0))
    x = cloud(1, 8, dims=2)[0]
    label = torch.tensor([0] * 4 + [1] * 4)
    point = objective.draw(Batch(x, label), step=0, key=0)
    assert torch.equal(point.x_t, point.noise) and point.num_jumps == 8 and point.group_size == 4
    assert all(len(set(group.tolist())) == 1 for group in point.label.split(4))
    made = objective.regress(flow, None, point)
    torch.testing.assert_close(made.prediction, flow(point.noise, 1.0, 0.0, point.label))
    assert torch.equal(made.target, point.x) and made.space == "map"
    loss = objective.per_sample(made, point)
    moved = objective.per_sample(
        replace(made, target=torch.cat([made.target[:4], made.target[4:].flip(1)])), point
    )
    torch.testing.assert_close(loss[:4], moved[:4])
    assert bool((loss[4:] != moved[4:]).any())


@each_method
def test_samples_in_one_step_learn_points(name):
    moons = data.load("two-moons")
    objective = replace(methods.get(name), times=NoiseToData(64), batching=Shuffled()).for_run(200)
    torch.manual_seed(0)
    network = networks.MLP(2, width=48, depth=2)
    flow, optimizer = objective.flow_map(network), torch.optim.Adam(network.parameters(), 3e-3)
    noise = torch.randn(400, 2)

    def apart() -> float:
        return float(transport.wasserstein2(objective.sample(flow, noise), moons.x[:400]))

    before = apart()
    for step in range(200):
        rows = torch.randint(len(moons), (128,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        objective(flow, None, Batch(moons.x[rows]), step, 0).mean().backward()
        optimizer.step()
    assert apart() < before / 2


def test_features_are_those_of_a_classifier(tmp_path):
    digits = data.load("digits")
    kept = classifier.WEIGHTS / "digits.npz"
    network = classifier.read(kept).network
    found = encoder.features(str(kept), digits.x[:5])
    pooled = torch.cat(found[::2], 1)
    torch.testing.assert_close(pooled, network(digits.x[:5])[0], rtol=1e-4, atol=1e-5)
    a, _, c = network.maps(digits.x[:5])
    assert found[1].shape == (5, a.shape[1] * 16) and found[5].shape == (5, c[0].numel())
    torch.testing.assert_close(encoder.features(None, digits.x[:5])[0], digits.x[:5].flatten(1))
    for shape in ((2, 3, 8, 8), (2, 64)):
        with pytest.raises(ValueError, match=r"has features of images of shape .* and the data has"):
            encoder.features(str(kept), torch.zeros(shape))
    network.eval()
    own = tmp_path / "own.npz"
    np.savez(own, image_shape=np.array([1, 8, 8]), **{k: v.numpy() for k, v in network.state_dict().items()})
    assert len(encoder.features(str(own), digits.x[:2])) == 6
    with pytest.raises(
        ValueError, match=r"shape \(1, 8, 8\), and the data has \(1, 12, 12\).*data classifier"
    ):
        encoder.features(str(own), torch.zeros(2, 1, 12, 12))
    with pytest.raises(FileNotFoundError):
        encoder.features(str(tmp_path / "none.npz"), digits.x[:5])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"holds no classifier of flowleap.*flowleap data classifier"):
        encoder.features(str(tmp_path / "other.npz"), digits.x[:5])


def test_the_gradient_runs_through_the_features_and_not_through_the_data():
    digits = data.load("digits")
    objective = methods.energy_distance(features=str(classifier.WEIGHTS / "digits.npz"), group=4)
    network = networks.MLP((1, 8, 8), 10, width=8, depth=1)
    loss = objective(objective.flow_map(network), None, Batch(digits.x[:8], digits.label[:8]), 0, 0)
    loss.mean().backward()
    assert loss.shape == (8,) and float(network.final_layer.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda o: replace(o, loss=Squared()), "would learn the mean of the data: use loss=Drift"),
        (lambda o: replace(o, times=NoiseToData(1)), r"compares groups of 2 rows or more.*NoiseToData\(group=16\)"),
        (lambda o: replace(o, times=Denoising()), r"makes groups of 1: use times=NoiseToData"),
        (lambda o: replace(methods.imm(), target=DataLaw()), r"use times=NoiseToData\(\)"),
        (lambda o: replace(methods.imm(), loss=Drift(), target=replace(methods.imm().target, space="output")), "Data"),
        (lambda o: replace(o, loss=Drift(Sinkhorn(blur=0.0))), "a positive share of the mean cost"),
        (lambda o: replace(o, loss=Drift(Sinkhorn(iterations=0))), "one iteration or more"),
        (lambda o: replace(o, loss=Drift(Kernel(()))), "one positive number or more"),
        (lambda o: NoiseToData(0), "at least one row"),
        (lambda o: replace(o, guidance=Guidance(2.0), label_dropout=0.1), "compares samples with data: use guidance"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        change(methods.energy_distance())
