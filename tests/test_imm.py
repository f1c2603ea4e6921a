"""Set-level losses: groups of rows in time laws, batches and losses, and what inductive moment matching pins."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowleap import FlowMap, methods, networks, runs
from flowleap.data import Dataset
from flowleap.evaluation import diagnosis
from flowleap.losses import LearnedVariance, MomentMatching, Squared
from flowleap.objectives import Consistency, Objective
from flowleap.oracles import Gaussian
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.point import Batch, Point, Regression
from flowleap.randomness import RowGenerator
from flowleap.studies import plan
from flowleap.times import OneTime, Particles

D = torch.float64


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(groups: int = 3, size: int = 4, dims: int = 5, **changes: Tensor) -> tuple[Regression, Point]:
    """Points of groups at times of their own, and others that they are held to."""
    y, held = (torch.randn(groups * size, dims, dtype=D, generator=random(i)) for i in (1, 2))
    y = changes.get("y", y).clone().requires_grad_(True)
    t = torch.linspace(0.4, 0.9, groups, dtype=D).repeat_interleave(size)
    times = Particles(size)
    objective = replace(methods.imm(), times=times)
    point = objective.point(torch.zeros_like(y), torch.zeros_like(y), t, t - 0.01, t / 3)
    return Regression(y, changes.get("held", held), space="map"), point


# ---------------------------------------------------------------- the time law


@pytest.mark.parametrize("path", [LinearPath(0.5), TrigPath(0.5), VPPath(), VEPath(0.002, 80.0)], ids=repr)
@pytest.mark.parametrize("group", [1, 4, 7])
def test_rows_of_a_group_share_their_times(group, path):
    law = Particles(group, t_max=0.994 * path.t_max)
    t, s, r, off = law.on(path).draw(RowGenerator(0, "times", total=28 * 7), 0.5)
    assert off == len(t) == len(s) == len(r) == 196 and bool(((r < t) & (r <= s) & (s <= t)).all())
    for time in (t, s, r):
        groups = time.reshape(-1, group)
        assert torch.equal(groups, groups[:, :1].expand_as(groups))
    assert len(t.unique()) == 196 // group
    assert float(t.max()) <= law.t_max and float(r.min()) >= path.t_min


def test_times_are_uniform_and_the_step_is_one_of_the_noise_level():
    t, s, r, _ = (
        time.double() if isinstance(time, Tensor) else time
        for time in Particles(1).draw(RowGenerator(0, "times", total=20_000), 1.0)
    )
    quantiles = torch.linspace(0.1, 0.9, 9, dtype=D)
    assert float(((t / 0.994).quantile(quantiles) - quantiles).abs().max()) < 0.02
    assert float(((r / t).quantile(quantiles) - quantiles).abs().max()) < 0.02
    step = t / (1 - t) - s / (1 - s)
    free = (s > r) & (s > 0) & (t < 0.9)  # in single precision
    torch.testing.assert_close(
        step[free], torch.full_like(step[free], (0.994 / 0.006) / 4096), rtol=2e-3, atol=1e-6
    )
    assert bool((step <= (0.994 / 0.006) / 4096 * 1.01)[t < 0.9].all())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Particles(0), r"group=0.*at least one row"),
        (lambda: Particles(t_min=0.5, t_max=0.5), r"0 ≤ t_min < t_max"),
        (lambda: Particles(halvings=-1), r"halvings=-1"),
        (lambda: Particles(t_max=1.0).on(LinearPath()), r"no signal.*t_max=0\.994"),
        (lambda: Particles(t_max=2.0).on(LinearPath()), r"end at 1: use t_max=0\.994"),
        (lambda: replace(methods.imm(), times=Particles(t_max=1.0)), r"no signal"),
        (
            lambda: replace(methods.imm(), times=OneTime()),
            r"compares groups.*OneTime makes none.*Particles\(\)",
        ),
        (
            lambda: replace(methods.imm(), target=Consistency()),
            r'compares points.*Consistency\(space="map"\)',
        ),
        (
            lambda: replace(methods.meanflow(), loss=LearnedVariance(MomentMatching())),
            r"compares groups of rows",
        ),
        (lambda: replace(methods.imm(), path=VEPath()), r"noise levels"),
        (lambda: MomentMatching(kernel="gauss"), r'"laplace" or "rbf"'),
        (lambda: MomentMatching(power=0), r"power=0"),
        (lambda: MomentMatching(sigma_data=0.0), r"sigma_data=0"),
    ],
)
def test_nonsense_is_refused_at_construction(make, named):
    with pytest.raises(ValueError, match=named):
        make()


# ---------------------------------------------------------------- groups in batches


def test_a_batch_of_whole_groups_is_asked_for():
    objective, flow = methods.imm(), methods.imm().flow_map(networks.MLP(2, width=8, depth=1))
    with pytest.raises(ValueError, match=r"30 rows.*groups of 4: use a batch of 32"):
        objective.draw(Batch(torch.zeros(30, 2)), 0, 0, flow)
    with pytest.raises(ValueError, match="6 rows here do not make whole ones"):
        objective.draw(Batch(torch.zeros(6, 2), row=torch.arange(6), size=32), 0, 0, flow)


@pytest.mark.parametrize(("batch", "nearest"), [(30, 32), (97, 96), (2, 4)])
def test_a_run_of_such_a_batch_is_refused_before_anything_is_trained(batch, nearest, tmp_path):
    with pytest.raises(ValueError, match=rf"batch={batch}: imm compares groups of 4.*batch={nearest}"):
        runs.configure("imm", "two-moons", batch=batch)
    with pytest.raises(ValueError, match=f"use batch={nearest}"):
        request = plan.Request(("imm", "flow-matching"), data="two-moons", budget="200 steps", batch=batch)
        plan.resolve(request, runs.run.data_sets.load("two-moons"))
    assert (
        runs.configure("imm", "two-moons", batch=batch, settings=[("times.group", "1")]).data.batch == batch
    )


def test_processes_hold_the_rows_and_groups_of_the_whole():
    """Draws are sliced by row: each half of a batch has the times, noise and groups that it has in the whole."""
    objective = methods.imm()
    x = torch.arange(32.0)[:, None].expand(-1, 2).clone()
    label = torch.arange(32) % 3
    whole = objective.draw(Batch(x, label), 3, 7)
    seen = []
    for rows in (torch.arange(16), torch.arange(16, 32)):
        part = objective.draw(Batch(x[rows], label[rows], row=rows, size=32), 3, 7)
        assert part.group is not None and whole.group is not None
        where = (whole.x[:, :1] == part.x[:, 0]).nonzero()[:, 0].sort().values
        for name in ("x", "noise", "t", "s", "r", "x_t", "group", "label", "dropped"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[where]), name
        seen.append(part.group.unique())
    assert sorted(torch.cat(seen).tolist()) == list(range(8)), "no group is divided"


def test_the_loss_of_a_batch_is_the_mean_of_its_parts():
    objective = methods.imm()
    network = networks.MLP(2, width=8, depth=1)
    torch.nn.init.normal_(network.final_layer.weight)
    flow, x = objective.flow_map(network), torch.randn(32, 2, generator=random())
    whole = objective(flow, batch=Batch(x), step=2).mean()
    parts = [
        objective(flow, batch=Batch(x[rows], row=rows, size=32), step=2).mean()
        for rows in (torch.arange(16), torch.arange(16, 32))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("kernel", ["laplace", "rbf"])
def test_order_does_not_matter(kernel):
    """Rows of a group may change places, on either side, and so may whole groups with their times."""
    loss, (regression, point) = MomentMatching(kernel), pair()
    found = loss(regression, point)
    assert torch.equal(found, found.reshape(3, 4)[:, :1].expand(3, 4).reshape(-1)), (
        "each row has that of its group"
    )
    within = torch.cat([torch.randperm(4, generator=random(g)) + 4 * g for g in range(3)])
    mixed = replace(regression, prediction=regression.prediction[within])
    torch.testing.assert_close(loss(mixed, point), found, rtol=1e-12, atol=0)
    order = torch.tensor([2, 0, 1]).repeat_interleave(4) * 4 + torch.arange(4).repeat(3)
    moved = Regression(regression.prediction[order], regression.target[order], space="map")
    there = replace(point, **{name: getattr(point, name)[order] for name in ("t", "s", "r", "group")})
    torch.testing.assert_close(loss(moved, there), found[order], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kernel", ["laplace", "rbf"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, D])
def test_equal_particles_have_a_finite_gradient(kernel, dtype):
    """All points the same, and each the same as that it is held to: the distance has no slope there, its bound has."""
    for held in (torch.zeros(12, 5, dtype=dtype), torch.ones(12, 5, dtype=dtype)):
        regression, point = pair(y=torch.zeros(12, 5, dtype=dtype), held=held)
        loss = MomentMatching(kernel)(regression, point)
        loss.mean().backward()
        assert loss.dtype == torch.promote_types(dtype, torch.float32) and bool(loss.isfinite().all())
        assert regression.prediction.grad is not None and bool(regression.prediction.grad.isfinite().all())
        assert bool((loss.abs() < 1e-12).all()) == bool((held == 0).all())


def test_particles_repel_one_another_and_are_drawn_to_the_others():
    """The gradient descends towards the target set and away from the rest of its own set."""
    regression, point = pair(groups=1, size=2, dims=1, y=torch.tensor([[0.0], [0.1]], dtype=D),
                             held=torch.tensor([[5.0], [5.1]], dtype=D))  # fmt: skip
    MomentMatching()(regression, point).mean().backward()
    behind, ahead = (float(each) for each in regression.prediction.grad)
    assert behind > 0 > ahead, "so close to one another, and so far from the others, they part first"
    alone, there = pair(
        groups=1, size=1, dims=1, y=torch.zeros(1, 1, dtype=D), held=torch.full((1, 1), 5.0, dtype=D)
    )
    MomentMatching()(alone, there).mean().backward()
    assert float(alone.prediction.grad) < 0, "one particle goes to its target"


def test_one_particle_is_consistency_training_with_a_bounded_distance():
    regression, point = pair(groups=6, size=1)
    assert point.group is None
    loss = MomentMatching()
    distance = (regression.prediction - regression.target).norm(dim=1) / 5
    kernel = torch.exp(-loss.scale(point.path, point.t, point.r) * distance)
    torch.testing.assert_close(loss(regression, point), loss.weight(point.path, point.t) * (2 - 2 * kernel))


def test_groups_must_be_whole():
    p, objective = pair()[1], methods.imm()
    group = torch.tensor([0] * 4 + [1] * 4 + [0] * 4)
    assert objective.point(p.x, p.noise, p.t, p.s, p.r, group=p.group).group_size == 4
    for wrong in (group, torch.tensor([0] * 5 + [1] * 7), torch.tensor([0] * 4 + [1] * 4)):
        with pytest.raises(ValueError, match="all of the same number"):
            objective.point(p.x, p.noise, p.t, p.s, p.r, group=wrong)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes, forward and backward."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, list | tuple) else [made]:
            if isinstance(each, Tensor):
                self.numel = max(self.numel, each.numel())
        return made


@pytest.mark.parametrize("kernel", ["laplace", "rbf"])
@pytest.mark.parametrize(("kind", "near"), [(D, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_the_loss_is_that_of_all_differences_and_holds_none_of_them(kernel, kind, near):
    """Values and gradients are those of (groups, M, M, D) differences, and no tensor is larger than the batch."""
    y, other = (torch.randn(24, 200, generator=random(i), dtype=D).to(kind) for i in (1, 2))
    held = torch.where(torch.arange(24)[:, None] % 2 == 0, other, y + 1e-3 * other)
    regression, point = pair(groups=2, size=12, y=y, held=held)
    loss = MomentMatching(kernel)

    def plain(y):
        a, b = (each.reshape(2, 12, 200) for each in (y, held))
        scale = loss.scale(point.path, point.t[::12], point.r[::12]).to(kind)[:, None, None] / 200

        def mean(one, two):
            distance = (one[:, :, None] - two[:, None]).square().sum(3).clamp_min(1e-16).sqrt() * scale
            return torch.exp(-distance if kernel == "laplace" else -distance.square() / 2).mean((1, 2))

        gap = mean(a, a) + mean(b, b) - 2 * mean(a, b)
        return (loss.weight(point.path, point.t[::12]).to(kind) * gap).repeat_interleave(12)

    with Largest() as largest:
        found = loss(regression, point)
        found.mean().backward()
    assert largest.numel <= y.numel()
    again = y.clone().requires_grad_(True)
    with Largest() as largest:
        expected = plain(again)
        expected.mean().backward()
    assert largest.numel == 2 * 12 * 12 * 200, "which is what is counted here"
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=near, atol=near * scale)
    slope = float(again.grad.abs().max())
    torch.testing.assert_close(regression.prediction.grad, again.grad, rtol=near, atol=near * slope)


@pytest.mark.parametrize("kernel", ["laplace", "rbf"])
def test_the_discrepancy_of_two_samples_of_one_law_vanishes(kernel):
    """The V-statistic counts each point with itself, 2(1 − E k)/M above the discrepancy, which is 0 for one law."""
    size, groups, dims = 8, 4000, 2
    y, held = (torch.randn(groups * size, dims, dtype=D, generator=random(i)) for i in (3, 4))
    t = torch.full((groups * size,), 0.6, dtype=D)
    point = replace(methods.imm(), times=Particles(size)).point(y, y, t, t - 0.01, t / 3)
    loss = MomentMatching(kernel)
    found = loss(Regression(y, held, space="map"), point)[::size] / loss.weight(point.path, t[:1])
    scale = float(loss.scale(point.path, t[:1], t[:1] / 3)) / dims
    distance = (y - held).norm(dim=1) * scale
    similar = float(torch.exp(-distance if kernel == "laplace" else -(distance**2) / 2).mean())
    excess = 2 * (1 - similar) / size
    error = float(found.std()) / math.sqrt(groups)
    assert abs(float(found.mean()) - excess) < 5 * error and error < excess / 10
    shifted = loss(Regression(y + 1, held, space="map"), point)[::size] / loss.weight(point.path, t[:1])
    assert float(shifted.mean()) > excess + 10 * error


# ---------------------------------------------------------------- what it pins


def exact(sign: float = 1.0, shift: float = 0.0) -> tuple[Objective, FlowMap]:
    """The exact map of N(0, 0.5²) on the method's own path, or its mirror image z ↦ −z s_r/s_t, or one beside it."""
    objective = replace(methods.imm(64), loss=MomentMatching(power=1))
    perfect = FlowMap.of(Gaussian(0.0, 0.5, objective.path), objective.parameterization)

    def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        scale = objective.parameterization.input_scale(objective.path, t)
        z = x / scale[:, None]
        return perfect.output_for(sign * perfect(z, t, r) + shift, z, t, r)

    return objective, objective.flow_map(network)


def value(objective: Objective, flow: FlowMap, step: float | None) -> float:
    """The loss with s = t − step, or where that is None with s = r, where targets are noised data themselves."""
    x, noise = (torch.randn(6400, 2, dtype=D, generator=random(i)) for i in (8, 9))
    t = torch.linspace(0.3, 0.9, 100, dtype=D).repeat_interleave(64)
    point = objective.point(0.5 * x, noise, t, t / 4 if step is None else t - step, t / 4)
    return float(objective.per_sample(objective.regress(flow, flow, point), point).mean())


@pytest.mark.slow
def test_it_pins_laws_and_not_points():
    """The exact map and its mirror image both leave only the floor of finite groups; a map of another law does not.

    The mirror image z ↦ −z s_r/s_t makes the same law of every time, and sends every point to a wrong place. That is
    the freedom that a loss of sets leaves, and the reason why these maps are judged by moments. Within a group a point
    and its own target are alike for the exact map and not for its mirror image: a difference of one pair in 64.
    """
    (objective, flow), (_, mirrored), (_, moved) = exact(), exact(-1.0), exact(shift=0.5)
    floor = value(objective, flow, 0.02)
    assert value(objective, mirrored, 0.02) == pytest.approx(floor, rel=1e-9), "the kernel is even"
    floor, mirror, other = (value(objective, one, None) for one in (flow, mirrored, moved))
    assert floor < mirror < 2 * floor and other > 4 * mirror
    z = torch.randn(2000, 2, dtype=D, generator=random(2)) * 0.5 * 0.994
    for one, sign in ((flow, 1.0), (mirrored, -1.0)):
        made = one(z, 0.994, 0.0)
        torch.testing.assert_close(made, sign * flow(z, 0.994, 0.0), rtol=1e-9, atol=1e-12)
        assert float(made.mean().abs()) < 0.03 and float(made.std()) == pytest.approx(0.5, rel=0.05)


# ---------------------------------------------------------------- around it


def test_components_are_one_replace_away():
    objective = methods.imm()
    alone = replace(objective, times=Particles(1), loss=Squared("mean"))
    x, flow = torch.randn(8, 2, generator=random()), objective.flow_map(networks.MLP(2, width=8, depth=1))
    assert bool(alone(alone.flow_map(flow.network), batch=Batch(x)).isfinite().all())
    curved = replace(objective, path=TrigPath(0.5))
    assert bool(curved(curved.flow_map(flow.network), batch=Batch(x)).isfinite().all())
    path, sampling = VEPath(0.002, 80.0), replace(objective.sampling, start=None)
    levels = replace(objective, path=path, times=Particles(4, 0.002, 80.0), sampling=sampling)
    assert bool(levels(levels.flow_map(networks.NoiseTime(flow.network)), batch=Batch(x)).isfinite().all())


@pytest.mark.slow
def test_it_is_diagnosed_in_whole_groups_and_its_cost_is_counted(tmp_path):
    x = torch.randn(64, 2, generator=random()) * 0.5
    cloud = Dataset("cloud", x, torch.arange(64) % 3, 3, kind="points")
    config = runs.configure(
        "imm", cloud, settings=[("network.width", "8"), ("network.depth", "1")], steps=6, batch=20, eval_num=0,
        online_share=0, sample_every=0,
    )  # fmt: skip
    assert 3.7 < runs.cost(config) < 4, "one pass with a gradient, and one without but where s = r"
    runs.train(config, tmp_path / "run", dataset=cloud, console=Console(file=io.StringIO()))
    run = runs.load_run(tmp_path / "run")
    found = diagnosis.diagnose(run.flow, run.objective, cloud, num=64, batch=30)
    assert found.error is not None
    assert run.flow.start == 0.994
