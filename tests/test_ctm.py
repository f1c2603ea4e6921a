"""The consistency trajectory model on exactly known flows, its law of times, and sampling with fresh noise."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from flowleap import Batch, FlowMap, Objective, methods, networks, samplers, serialize
from flowleap.losses import PseudoHuber, Squared
from flowleap.objectives import EMA, Self, Trajectory
from flowleap.oracles import Gaussian
from flowleap.parameterization import AverageVelocity, Endpoint, Parameterization, Velocity
from flowleap.paths import LinearPath, Path, TrigPath, VPPath
from flowleap.point import Point
from flowleap.randomness import RowGenerator
from flowleap.tensors import like
from flowleap.times import LogitNormal, Trajectories
from flowleap.velocities import Own, Teacher

D = torch.float64
MEAN, STD = 0.4, 0.6


def images(rows: int, seed: int = 0, dims: int = 3) -> Tensor:
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(seed), dtype=D)


def times(*triples: tuple[float, float, float]) -> tuple[Tensor, Tensor, Tensor]:
    t, s, r = torch.tensor(triples, dtype=D).unbind(1)
    return t, s, r


def taught(
    teacher: FlowMap | None = None,
    steps: int = 8,
    path: Path | None = None,
    meaning: Parameterization | None = None,
) -> Objective:
    """CTM on a grid of `steps`, by a teacher or by itself."""
    objective = methods.ctm(base_steps=steps, longest=steps) if teacher else methods.ctm_self(steps, steps)
    objective = replace(objective, path=path or LinearPath(), parameterization=meaning or AverageVelocity())
    return objective.with_teacher(teacher) if teacher else objective


def everywhere(objective: Objective, steps: int = 8) -> Point:
    """Every triple t > s ≥ r of the grid, r = 0 among them, and the diagonal."""
    grid = [i / steps for i in range(steps + 1)]
    jumps = [(t, s, r) for t in grid for s in grid for r in grid if t > s >= r]
    rows = [*jumps, *((t, t, t) for t in grid[1:])]
    return objective.point(images(len(rows)), images(len(rows), 1), *times(*rows))


def network(shift: float) -> FlowMap:
    """An arbitrary map that knows both of its times."""

    def wavy(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        return torch.sin(x + shift) + like(t - 0.5 * r, x)

    return FlowMap(wavy)


# what a network learns


def test_the_average_velocity_is_the_parameterization_of_the_paper():
    """X = (r/t) x + (1 − r/t) g with g = x − t F, on the linear path."""
    flow, x = network(0.3), images(6)
    t, _, r = times((1, 1, 0), (1, 1, 0.5), (0.8, 0.8, 0.1), (0.3, 0.3, 0.3), (0.2, 0.2, 0), (0.5, 0.5, 0.4))
    g = x - like(t, x) * flow.network(x, t, r, None)
    ratio = like(r / t, x)
    torch.testing.assert_close(flow(x, t, r), ratio * x + (1 - ratio) * g, rtol=1e-12, atol=1e-12)


def test_the_target_by_hand():
    """Two steps of Heun 3/4 → 1/4, Euler's where the step ends at 0; both ends taken to 0 by the frozen map."""
    teacher, student, frozen = network(0.1), network(0.5), network(0.9)
    objective = taught(teacher, steps=4)
    point = objective.point(
        images(3), images(3, 1), *times((0.75, 0.25, 0.25), (0.75, 0.25, 0.0), (0.5, 0.0, 0.0))
    )
    x = point.x_t

    def one(z: Tensor, t: float, s: float) -> Tensor:
        time, landing = torch.full((1,), t, dtype=D), torch.full((1,), s, dtype=D)
        slope = teacher.network(z, time, time, None)
        ahead = z + (s - t) * slope
        return ahead if s == 0 else z + (s - t) * (slope + teacher.network(ahead, landing, landing, None)) / 2

    middle = [one(one(x[i : i + 1], 0.75, 0.5), 0.5, 0.25) for i in (0, 1)]
    end = one(one(x[2:], 0.5, 0.25), 0.25, 0.0)
    expected = torch.cat([frozen(middle[0], 0.25, 0.0), student(middle[1], 0.25, 0.0), end])
    found = objective.regress(student, frozen, point)
    torch.testing.assert_close(found.target, expected, rtol=1e-12, atol=1e-12)
    predicted = torch.cat(
        [frozen(student(x[:1], 0.75, 0.25), 0.25, 0.0), student(x[1:2], 0.75, 0.0), student(x[2:], 0.5, 0.0)]
    )
    torch.testing.assert_close(found.prediction, predicted, rtol=1e-12, atol=1e-12)
    assert found.space == "map"


def test_rows_on_the_diagonal_are_flow_matching():
    objective, flow = taught(network(0.1)), network(0.5)
    point = everywhere(objective)
    found = objective.regress(flow, network(0.9), point)
    rest = slice(point.num_jumps, None)
    torch.testing.assert_close(found.target[rest], (point.noise - point.x)[rest], rtol=0, atol=1e-12)
    expected = flow.output(point.x_t[rest], point.t[rest], point.t[rest])
    torch.testing.assert_close(found.prediction[rest], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [LinearPath(), LinearPath(noise_scale=0.7, sigma_min=1e-3)], ids=repr)
@pytest.mark.parametrize("meaning", [AverageVelocity(), Velocity(), Endpoint()], ids=repr)
@pytest.mark.parametrize("own", [False, True])
def test_straight_lines_are_a_fixed_point_and_nothing_else(path, meaning, own):
    """All data in one point: lines are straight, so the solver is exact, at every triple and for r = 0."""
    exact = FlowMap.of(Gaussian(MEAN, 0.0, path), meaning)
    objective = taught(None if own else exact, path=path, meaning=meaning)
    point = everywhere(objective).rows(0, everywhere(objective).num_jumps)

    def residual(flow: FlowMap) -> Tensor:
        found = objective.regress(flow, flow, point)
        return (found.prediction - found.target).detach().abs().amax(1)

    assert residual(exact).max() <= 1e-9

    def wrong(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        return 1.3 * exact.network(x, t, r, label) + 0.3 * torch.sin(2 * x + like(3 * t, x))

    assert residual(exact.with_network(wrong)).median() >= 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("path", [LinearPath(), TrigPath(), VPPath()], ids=repr)
@pytest.mark.parametrize("meaning", [AverageVelocity(), Velocity()], ids=repr)
def test_what_remains_of_a_curved_flow_is_the_error_of_the_solver(path, meaning):
    """The exact map of a Gaussian: half the steps of the grid, a quarter of the residual, and no more than that."""
    exact = FlowMap.of(Gaussian(MEAN, STD, path), meaning)
    to_data = (1.0, 0.0, 0.0) if path.t_min == 0 else (0.75, 0.5, 0.0)
    rows = times((1.0, 0.5, 0.5), (1.0, 0.5, 0.25), (0.75, 0.25, 0.0), (0.5, 0.25, 0.25), to_data)
    worst = []
    for steps in (32, 64, 128):
        objective = taught(exact, steps, path, meaning)
        found = objective.regress(exact, exact, objective.point(images(5), images(5, 1), *rows))
        worst.append((found.prediction - found.target).detach().abs().amax(1))
    assert bool((worst[-1] > 1e-9).all()), "an error to be seen"
    for coarse, fine in pairwise(worst):
        assert bool(((coarse / fine) > 3.2).all()) and bool(((coarse / fine) < 4.8).all())


def test_a_map_that_teaches_itself_is_its_own_teacher():
    frozen, student = network(0.9), network(0.5)
    point = everywhere(taught(frozen))
    first, second = (
        objective.regress(student, frozen, point) for objective in (taught(frozen), taught(None))
    )
    assert torch.equal(first.target, second.target) and torch.equal(first.prediction, second.prediction)
    other = taught(network(0.1)).regress(student, frozen, point)
    assert not torch.allclose(other.target, first.target)


def test_each_row_makes_the_steps_that_are_its_own():
    """Two evaluations of the solver for each step of each row, one where it ends at the data; in whatever order."""
    rows, asked = [(1, 0.5, 0), (1, 0.875, 0.5), (0.5, 0.375, 0.375), (0.75, 0.5, 0.125), (0.25, 0, 0)], []
    solver = network(0.1)

    def counted(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        assert torch.equal(t, r), "a solver follows the instantaneous velocity"
        asked.append(len(x))
        return solver.network(x, t, r, label)

    objective = taught(FlowMap(counted))
    targets = {}
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]):
        asked.clear()
        picked = torch.tensor(order)
        point = objective.point(images(5)[picked], images(5, 1)[picked], *times(*(rows[i] for i in order)))
        found = objective.regress(network(0.5), network(0.9), point).target
        assert asked == [5, 5, 3, 2, 1, 1, 1, 1], "4, 1, 1, 2 and 2 steps"
        for i, row in zip(order, found, strict=True):
            torch.testing.assert_close(row, targets.setdefault(i, row), rtol=1e-12, atol=1e-12)


def test_off_the_grid_the_last_step_is_shorter():
    """t = 0.9 → s = 0.3 in steps of 1/4: to 0.65, 0.4 and 0.3. Without a grid it is one step."""
    straight = FlowMap.of(Gaussian(MEAN, 0.0))
    asked = []

    def network_(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        asked.append(round(float(t[0]), 6))
        return straight.network(x, t, r, label)

    solver = FlowMap(network_)
    objective = taught(solver, steps=4)
    point = objective.point(images(1), images(1, 1), *times((0.9, 0.3, 0.1)))
    for finest, expected in ((0.25, [0.9, 0.65, 0.65, 0.4, 0.4, 0.3]), (0.0, [0.9, 0.3])):
        asked.clear()
        objective.regress(straight, straight, replace(point, finest=finest))
        assert asked == expected


# gradients


class Linear(nn.Module):
    """F = a x + b (t + r)."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=D)) for value in (a, b))

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        return self.a * x + self.b * like(t + r, x)


def test_gradients_run_through_the_frozen_map_and_not_into_it():
    """d/da of X⁻_{r→0}(x + (r − t)(a x + …)) is (1 − r a⁻)(r − t) x; the weights of the frozen map get none."""
    student, average = Linear(0.3, 0.2), Linear(0.5, -0.1)
    objective = taught(network(0.1))
    flow, frozen = objective.flow_map(student), objective.flow_map(average)
    point = objective.point(images(3), images(3, 1), *times((1, 0.5, 0.5), (0.75, 0.5, 0.25), (0.5, 0.25, 0)))
    found = objective.regress(flow, frozen, point)
    assert not found.target.requires_grad
    found.prediction.sum().backward()
    t, r = (like(time, point.x_t) for time in (point.t, point.r))
    expected = ((1 - r * 0.5) * (r - t) * point.x_t).sum()
    torch.testing.assert_close(student.a.grad, expected, rtol=1e-12, atol=1e-12)
    assert average.a.grad is None and average.b.grad is None


def test_a_frozen_map_that_is_the_network_itself_is_held():
    """frozen=Self(): the same gradient as with a copy."""
    objective = replace(taught(network(0.1)), frozen=Self())
    gradients = []
    for copied in (False, True):
        student = Linear(0.3, 0.2)
        flow = objective.flow_map(student)
        frozen = objective.flow_map(copy.deepcopy(student)) if copied else None
        point = everywhere(objective)
        objective.per_sample(objective.regress(flow, frozen, point), point).sum().backward()
        gradients.append(torch.stack([student.a.grad, student.b.grad]))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [Squared("mean"), PseudoHuber()], ids=repr)
def test_losses_compare_points_as_they_compare_outputs(loss):
    objective = replace(taught(network(0.1)), loss=loss)
    point = everywhere(objective)
    found = objective.regress(network(0.5), network(0.9), point)
    expected = loss(replace(found, space="output"), point)
    torch.testing.assert_close(objective.per_sample(found, point), expected, rtol=0, atol=0)


# the law


def law_draws(law: Trajectories, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    t, s, r, off = law.draw(RowGenerator(seed, "times", total=size), 1.0)
    scaled = (time[:off].double() * law.base_steps for time in (t, s, r))
    for time in (found := [one.numpy() for one in scaled]):
        assert np.abs(time - time.round()).max() < 1e-5, "all times are on the grid"
    i, j, k = (time.round().astype(int) for time in found)
    return i, j, k, off


@pytest.mark.parametrize(("steps", "longest"), [(16, None), (18, 17), (8, 3), (1, 1)])
def test_times_fall_on_the_grid(steps, longest):
    i, j, k, off = law_draws(Trajectories(share=0.75, base_steps=steps, longest=longest), 4000)
    assert off == 3000
    assert bool((i > j).all()) and bool((j >= k).all()) and k.min() == 0 and i.max() == steps
    assert set(i - j) == set(range(1, (longest or steps) + 1))


def test_longer_ways_are_likelier_and_the_rest_is_uniform():
    """P(n) ∝ n; given n the start is uniform on the grid, and given both the landing."""
    i, j, k, _ = law_draws(Trajectories(share=1.0, base_steps=6, longest=4), 60_000)
    n = i - j
    counts = np.bincount(n, minlength=5)[1:]
    assert stats.chisquare(counts, 60_000 * np.arange(1, 5) / 10).pvalue > 1e-3
    for steps in (1, 4):
        starts = np.bincount(i[n == steps], minlength=7)[steps:]
        assert stats.chisquare(starts).pvalue > 1e-3
    landings = np.bincount(k[(n == 2) & (j == 3)], minlength=4)
    assert len(landings) == 4 and stats.chisquare(landings).pvalue > 1e-3


def test_the_other_rows_are_those_of_flow_matching():
    law = Trajectories(share=0.25, law=LogitNormal(0.3, 0.7))
    t, s, r, off = law.draw(RowGenerator(3, "times", total=40_000), 1.0)
    assert off == 10_000 and torch.equal(t[off:], s[off:]) and torch.equal(t[off:], r[off:])
    expected = stats.norm(0.3, 0.7)
    assert stats.kstest(torch.logit(t[off:].double()).numpy(), expected.cdf).pvalue > 1e-3
    assert law.finest == 1 / 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": 0.0}, "share of the rows in"),
        ({"base_steps": 0}, "at least one step"),
        ({"longest": 9}, "between 1 and base_steps=8"),
        ({"longest": 0}, "between 1 and base_steps=8"),
    ],
)
def test_laws_without_a_meaning_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Trajectories(**changes)


def test_a_batch_too_small_for_one_row_on_the_grid_is_refused():
    with pytest.raises(ValueError, match="a batch of at least 2"):
        Trajectories().draw(RowGenerator(0, "times", total=1), 0.0)


# the methods


def test_the_two_methods_differ_in_whom_the_solver_follows():
    taught_, alone = methods.ctm(), methods.ctm_self()
    assert taught_.times == alone.times == Trajectories(0.5, 8, None, LogitNormal(-0.4, 1.0))
    assert (taught_.target, alone.target) == (Trajectory(Teacher()), Trajectory(Own()))
    assert (
        taught_.frozen == alone.frozen == EMA(0.999) and taught_.conditioning == alone.conditioning == "t,r"
    )
    assert (taught_.starts_from_teacher, alone.starts_from_teacher) == (True, False)
    assert (taught_.needs_teacher, alone.needs_teacher) == (True, False)
    assert methods.ctm(guidance=1.5).target.solver == Teacher(guidance=1.5)
    for objective in (taught_, alone):
        assert serialize.from_dict(serialize.to_dict(objective)) == objective
        assert "kim2023consistency" in [paper.key for paper in methods.citations(objective)]
    changed = serialize.override(methods.ctm_self(), "target.solver", "Teacher")
    assert changed.target == methods.ctm().target


def test_a_missing_teacher_is_named():
    objective = methods.ctm()
    flow = objective.flow_map(Linear(0.1, 0.1))
    with pytest.raises(ValueError, match=r"with_teacher\(flow\), or Trajectory\(solver=Own\(\)\)"):
        objective.regress(flow, flow, everywhere(objective))


@pytest.mark.parametrize("name", ["ctm", "ctm_self"])
@pytest.mark.parametrize(("kind", "shape"), [("mlp", (2,)), ("dit", (1, 8, 8))], ids=["points", "images"])
def test_a_step_trains_with_every_network(name, kind, shape):
    torch.manual_seed(0)
    one = (
        networks.MLP(shape, 3, width=16)
        if kind == "mlp"
        else networks.DiT(shape, 3, width=16, depth=2, heads=2)
    )
    objective = methods.get(name).for_run(20)
    if objective.needs_teacher:
        objective = objective.with_teacher(objective.flow_map(copy.deepcopy(one).requires_grad_(False)))
    flow = objective.flow_map(one)
    batch = Batch(torch.randn(8, *shape), torch.arange(8) % 3)
    loss = objective(flow, objective.flow_map(copy.deepcopy(one)), batch, 3)
    loss.mean().backward()
    assert loss.isfinite().all()
    assert any(weight.grad is not None and bool((weight.grad != 0).any()) for weight in one.parameters())


def test_a_guided_teacher_leads_where_its_guided_velocity_does():
    """u(∅) + w (u(y) − u(∅)) in every evaluation of the solver, under the labels of the rows."""

    @dataclass(frozen=True)
    class Labeled:
        num_classes: int = 2

        def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
            return like(torch.tensor([1.0, -0.5, 0.25], dtype=D)[label], x).expand_as(x)

    labeled = Labeled()
    objective = methods.ctm(guidance=3.0, base_steps=4, longest=4).with_teacher(FlowMap(labeled))
    flow = objective.flow_map(labeled)
    label = torch.tensor([0, 1])
    point = objective.point(images(2), images(2, 1), *times((1, 0, 0), (0.75, 0, 0)), label=label)
    found = objective.regress(flow, flow, point)
    slope = torch.tensor([0.25 + 3 * 0.75, 0.25 - 3 * 0.75], dtype=D)[:, None]
    torch.testing.assert_close(found.target, point.x_t - like(point.t, point.x_t) * slope)


# fresh noise between steps


def chained(renoise: float) -> Objective:
    return replace(methods.ctm_self(), sampling=samplers.Sampling(renoise=renoise))


def test_no_fresh_noise_is_the_chain():
    noise, flow = images(5), network(0.4)
    assert torch.equal(chained(0.0).sample(flow, noise, 4), samplers.chain(flow, noise, 4))
    assert torch.equal(chained(1.0).sample(flow, noise, 1), samplers.chain(flow, noise, 1))


@pytest.mark.slow
@pytest.mark.parametrize("renoise", [0.4, 1.0])
def test_fresh_noise_keeps_the_law_of_the_data(renoise):
    """The exact map of a Gaussian: N(m, c²) at the end; with γ = 1 hardly anything is left of the initial noise."""
    noise, flow = images(5_000, 2, dims=1), FlowMap.of(Gaussian(MEAN, STD))
    found = chained(renoise).sample(flow, noise, 4)[:, 0].numpy()
    assert stats.kstest(found, stats.norm(MEAN, STD).cdf).pvalue > 1e-3
    kept = [1 - renoise**2 * t**2 / ((1 - t) ** 2 * STD**2 + t**2) for t in (0.75, 0.5, 0.25)]
    correlation = np.corrcoef(found, noise[:, 0].numpy())[0, 1]
    assert correlation == pytest.approx(np.sqrt(np.prod(kept)), abs=0.045)


@pytest.mark.parametrize("renoise", [0.5, 1.0])
def test_a_sample_does_not_depend_on_its_batch(renoise):
    noise, flow = images(6), network(0.4)
    whole = chained(renoise).sample(flow, noise, 3)
    for rows in ([2], [4, 1], [5, 0, 3]):
        torch.testing.assert_close(
            chained(renoise).sample(flow, noise[rows], 3), whole[rows], rtol=0, atol=1e-14
        )
    assert not torch.allclose(whole, samplers.chain(flow, noise, 3))


def test_the_sampler_of_a_budget_has_a_name():
    assert [chained(0.0).sampling.name(steps) for steps in (1, 4)] == ["chain", "chain"]
    assert [chained(0.5).sampling.name(steps) for steps in (1, 4)] == ["chain", "gamma 0.5"]
    mixed = replace(samplers.Sampling(renoise=1.0), finest=8)
    assert [mixed.name(steps) for steps in (2, 8)] == ["gamma 1", "ddim"]
    assert [mixed.renoised(steps) for steps in (1, 2, 8)] == [0.0, 1.0, 0.0]
    assert (
        serialize.override(methods.consistency_training(), "sampling.renoise", "1").sampling.name(2)
        == "gamma 1"
    )
    assert [chained(1.0).nfe(steps) for steps in (1, 2, 5)] == [1, 2, 5]


@pytest.mark.parametrize("renoise", [-0.1, 1.1])
def test_a_gamma_outside_the_unit_interval_is_refused(renoise):
    with pytest.raises(ValueError, match="γ in"):
        samplers.Sampling(renoise=renoise)
