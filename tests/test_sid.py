"""Score identity distillation: two scores, two networks, a generator that starts where its teacher is not constant."""

from __future__ import annotations

import io
import json
import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from flowleap import Batch, FlowMap, Objective, methods, networks, runs, samplers, serialize
from flowleap.couplings import Generated
from flowleap.data import Dataset
from flowleap.losses import ScoreIdentity, Squared
from flowleap.objectives import EMA, AuxiliaryNetwork, ScoreGap
from flowleap.oracles import Gaussian
from flowleap.parameterization import Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.paths import Path as Curve
from flowleap.point import Point, Regression
from flowleap.randomness import RowGenerator
from flowleap.tensors import like
from flowleap.times import Denoising, NoiseLevels, OneTime, Uniform
from flowleap.training import checkpoint, loop
from flowleap.training.guard import Diverged, Guard
from flowleap.training.state import AUXILIARY, STUDENT, State, new_trained_network
from flowleap.velocities import Teacher

D = torch.float64
MEAN, STD = 0.4, 0.6
CURVES = {"linear": LinearPath(noise_scale=0.8), "trig": TrigPath(), "vp": VPPath()}
EACH = pytest.mark.parametrize("path", CURVES.values(), ids=CURVES)


class Affine(nn.Module):
    """A network whose step from `start` to the data is x ↦ mean + std · z where x is the noise z of that time."""

    num_classes = None

    def __init__(self, path: Curve, start: float, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.path, self.start = path, start
        self.mean, self.std = (
            nn.Parameter(torch.tensor(mean, dtype=D)),
            nn.Parameter(torch.tensor(std, dtype=D)),
        )

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        noise = x / (float(self.path.sigma(t[0])) * self.path.noise_scale)
        end = torch.full_like(t, self.path.t_min)
        flow = FlowMap(lambda *_: x, Velocity(), self.path)
        return flow.output_for(self.mean + self.std * noise, x, t, end)


def on(path: Curve) -> Objective:
    """SiD on a path that may be curved, taught by the Gaussian."""
    fake = replace(methods.sid().auxiliary, path=path, parameterization=Velocity())
    moved = replace(methods.sid(), path=path, parameterization=Velocity(), frozen=AuxiliaryNetwork(fake))
    return moved.with_teacher(law(MEAN, STD, path))


def law(mean: float, std: float, path: Curve) -> FlowMap:
    """The exact map of the law of a generator, or of the teacher, which is told t only."""
    oracle = Gaussian(mean, std, path)

    def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        flow = FlowMap(network, Velocity(), path)
        return flow.output_of_velocity(oracle.velocity(x, t), x, t)

    return FlowMap(network, Velocity(), path, "t")


def nodes(count: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Two independent standard normals and their weights, by Gauss and Hermite: polynomials are exact."""
    points, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(count))
    first, second = torch.cartesian_prod(points, points).unbind(1)
    return first[:, None], second[:, None], torch.outer(weights, weights).flatten() / (2 * math.pi)


def point_of(objective: Objective, extra_noise: Tensor, noise: Tensor, t: float) -> Point:
    times = torch.full((len(noise),), t, dtype=D)
    zero = torch.zeros_like(times)
    return objective.point(torch.zeros_like(noise), noise, times, zero, zero, extra_noise=extra_noise)


def unweighted(loss: Tensor, regression: Regression) -> Tensor:
    assert regression.sample is not None
    return loss * (regression.sample - regression.target).abs().mean(1).clamp_min(1e-5)


# ---------------------------------------------------------------- the loss


@EACH
@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_with_an_exact_fake_score_the_mean_loss_is_its_share_of_the_squared_gap(
    path: Curve, alpha: float, t: float
) -> None:
    objective = replace(on(path), loss=ScoreIdentity(alpha))
    mean, std = -0.3, 0.9
    student, fake = (
        objective.flow_map(Affine(path, objective.sampling.start, mean, std)),
        law(mean, std, path),
    )
    extra_noise, noise, weights = nodes()
    point = point_of(objective, extra_noise, noise, t)
    regression = objective.regress(student, fake, point)
    expected = mean + std * extra_noise
    assert regression.space == "map" and regression.sample is not None
    torch.testing.assert_close(regression.sample, expected, rtol=0, atol=1e-12 + 1e-3 * (path.t_min > 0))
    found = (weights * unweighted(objective.per_sample(regression, point), regression)).sum()

    # the gap of the two posterior means is affine in x_t, a Gaussian: its second moment in closed form
    time = torch.tensor([t], dtype=D)
    alpha_t, scale = path.alpha(time), Gaussian(mean, std, path).scale(time)
    gains = [alpha_t * s**2 / Gaussian(0.0, s, path).scale(time) ** 2 for s in (STD, std)]
    slope = gains[0] - gains[1]
    middle = (MEAN - mean) * (1 - gains[0] * alpha_t)
    gap = slope**2 * scale**2 + middle**2
    assert float(gap) > 1e-3
    torch.testing.assert_close(
        found.detach(), ((1 - alpha) * gap).squeeze(), rtol=5e-3 if path.t_min else 1e-9, atol=1e-12
    )
    torch.testing.assert_close((weights * regression.raw.double()).sum(), gap.squeeze(), rtol=5e-3, atol=0)


@EACH
@pytest.mark.parametrize(
    ("mean", "std", "still"), [(MEAN, STD, True), (MEAN + 0.5, STD, False), (MEAN, 0.3, False)]
)
def test_the_gradient_vanishes_where_the_generator_has_the_teachers_law_and_nowhere_else(
    path: Curve, mean: float, std: float, still: bool
) -> None:
    objective = on(path)
    network = Affine(path, objective.sampling.start, mean, std)
    extra_noise, noise, weights = nodes()
    point = point_of(objective, extra_noise, noise, 0.5)
    loss = objective.per_sample(
        objective.regress(objective.flow_map(network), law(mean, std, path), point), point
    )
    (weights * loss).sum().backward()
    gradient = torch.stack([network.mean.grad, network.std.grad])
    assert float(gradient.abs().max()) < 1e-13 if still else float(gradient.norm()) > 1e-2  # but for rounding


def test_the_weight_is_that_of_the_published_code_and_has_no_gradient() -> None:
    real, fake, sample = (torch.randn(4, 2, 3, dtype=D, requires_grad=True) for _ in range(3))
    point = point_of(on(LinearPath()), torch.zeros(4, 1, dtype=D), torch.zeros(4, 1, dtype=D), 0.5)
    regression = Regression(fake, real, space="map", sample=sample)
    for reduce, scale in (("sum", 6.0), ("mean", 1.0)):
        loss = ScoreIdentity(1.2, reduce)(regression, point)
        weight = (sample - real).detach().abs().mean((1, 2))
        gap = real - fake
        expected = (gap * ((real - sample) - 1.2 * gap)).mean((1, 2)) / weight * scale
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            torch.autograd.grad(loss.sum(), (real, fake, sample), retain_graph=True),
            torch.autograd.grad(expected.sum(), (real, fake, sample), retain_graph=True),
        )
    same = Regression(fake, real, space="map", sample=real)
    assert bool(ScoreIdentity()(same, point).isfinite().all())
    with pytest.raises(ValueError, match="judges a sample by two scores"):
        ScoreIdentity()(Regression(fake, real), point)
    with pytest.raises(ValueError, match="reduce='max'"):
        ScoreIdentity(reduce="max")


@pytest.mark.slow
@EACH
def test_a_generator_with_exact_scores_moves_to_the_data(path: Curve) -> None:
    """From a law that is too narrow, as that of a denoiser is."""
    objective = on(path)
    network = Affine(path, objective.sampling.start, mean=-0.5, std=0.3)
    student = objective.flow_map(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05, betas=(0.0, 0.95))
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 200)
        fake = law(network.mean.item(), network.std.item(), path)
        loss = objective(student, fake, Batch(torch.zeros(32, 8, dtype=D)), step, key=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network.mean.item() == pytest.approx(MEAN, abs=1e-3)
    assert network.std.item() == pytest.approx(STD, abs=1e-3)


# ---------------------------------------------------------------- denoisers, starts, times


@pytest.mark.parametrize("path", [*CURVES.values(), VEPath()], ids=[*CURVES, "ve"])
def test_a_velocity_and_its_posterior_mean_are_each_others_inverse(path: Curve) -> None:
    t = torch.linspace(0.3, 0.9, 8, dtype=D) * path.t_max
    x_t = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=D) * 2
    oracle = Gaussian(MEAN, STD, path)
    mean = path.mean_from_velocity(x_t, t, oracle.velocity(x_t, t))
    torch.testing.assert_close(mean, oracle.posterior_mean(x_t, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        path.velocity_from_mean(x_t, t, mean), oracle.velocity(x_t, t), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(FlowMap.of(oracle).denoised(x_t, t), mean)


def test_sampling_begins_where_it_is_told_with_the_noise_of_that_time() -> None:
    path, noise = LinearPath(noise_scale=0.8), torch.ones(3, 1, dtype=D)
    seen: list[tuple[float, float, float]] = []

    def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        seen.append((float(x[0]), float(t[0]), float(r[0])))
        return torch.zeros_like(x)

    flow = FlowMap(network, path=path, start=0.6)
    samplers.chain(flow, noise, 2)
    samplers.gamma(flow, noise, 2, strength=0.0)
    assert [(t, r) for _, t, r in seen] == [(0.6, 0.3), (0.3, 0.0)] * 2 and seen[0][0] == pytest.approx(0.48)
    seen.clear()
    for sampler in (samplers.ddim, samplers.euler, samplers.heun):
        sampler(flow, noise, 1)
        assert seen.pop() == pytest.approx((0.48, 0.6, 0.6)) and not seen
    assert samplers.grid(path, 3, start=0.6) == pytest.approx([0.6, 0.4, 0.2, 0.0])
    assert samplers.grid(path, times=[0.6, 0.1, 0.0], start=0.6) == [0.6, 0.1, 0.0]
    with pytest.raises(ValueError, match=r"falling times from 0\.6"):
        samplers.chain(flow, noise, times=[1.0, 0.0])
    for start in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"sampling begins at a time of LinearPath in \(0, 1\]"):
            replace(methods.sid(), sampling=samplers.Sampling(start=start)).flow_map(network)


def test_the_generator_begins_as_the_denoiser_of_its_teacher() -> None:
    """One step of the teacher from t = 1 would give the mean of the data whatever the noise."""
    teacher = FlowMap.of(Gaussian(MEAN, STD))
    student = methods.sid().flow_map(teacher.network)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    start = 2.5 / 3.5
    assert student.start == pytest.approx(start)
    made = methods.sid().sample(student, noise)
    torch.testing.assert_close(made, teacher.denoised(start * noise, start))
    assert float(made.std()) > 0.05
    assert float(samplers.ddim(teacher, noise).std()) < 1e-9


def test_noise_levels_are_the_published_grid_made_continuous() -> None:
    t = NoiseLevels().sample(RowGenerator(0, "times", total=200_000)).double()
    level = t / (1 - t)
    grid = [
        (0.002 ** (1 / 7) + share * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
        for share in (0, 0.2, 0.4, 0.6, 0.8)
    ]
    assert float(level.min()) >= 0.002 * 0.99 and float(level.max()) <= grid[-1] * 1.01 < 25
    for place, share in zip(grid[1:-1], (0.25, 0.5, 0.75), strict=True):
        assert float((level < place).double().mean()) == pytest.approx(share, abs=5e-3)
    law = Denoising(Uniform(0.2, 0.4))
    drawn = law.draw(RowGenerator(0, "times", total=50), 0.0)
    assert drawn.num_jumps == 50 and law.support == (0.2, 0.4)
    assert bool(
        (drawn.r == 0).all() and (drawn.s == 0).all() and (drawn.t >= 0.2).all() and (drawn.t < 0.4).all()
    )
    with pytest.raises(ValueError, match=r"NoiseLevels\(low=3"):
        NoiseLevels(low=3.0, high=2.0)


# ---------------------------------------------------------------- the fake score


def test_the_fake_score_is_held_to_the_posterior_mean_of_what_the_generator_makes() -> None:
    path = LinearPath()
    objective = on(path)
    assert objective.auxiliary is not None
    fake = replace(objective.auxiliary, times=OneTime(Uniform(0.4999, 0.5001)))
    mean, std, rows = -0.3, 0.9, 200_000
    student = objective.flow_map(Affine(path, objective.sampling.start, mean, std))
    point = fake.draw(Batch(torch.full((rows, 1), 7.0, dtype=D)), step=3, key=5, frozen=student)
    assert point.extra_noise is not None and not point.x.requires_grad
    torch.testing.assert_close(point.x, (mean + std * point.extra_noise).detach())
    regression = fake.regress(fake.flow_map(lambda x, t, r, label: torch.zeros_like(x)), student, point)
    held_to = path.mean_from_velocity(point.x_t, point.t, regression.target)
    slope, offset = np.polyfit(point.x_t.squeeze(1).numpy(), held_to.squeeze(1).numpy(), 1)
    exact = Gaussian(mean, std, path).posterior_mean(
        torch.tensor([[0.0], [1.0]], dtype=D), torch.full((2,), 0.5, dtype=D)
    )
    assert offset == pytest.approx(float(exact[0]), abs=1e-2)
    assert slope == pytest.approx(float(exact[1] - exact[0]), abs=1e-2)


def test_latents_are_drawn_for_the_global_batch_and_independent_of_the_other_noise() -> None:
    objective = methods.sid().with_teacher(FlowMap.of(Gaussian(MEAN, STD)))
    x = torch.zeros(6, 2)
    whole = objective.draw(Batch(x), step=2, key=1)
    assert whole.extra_noise is not None and not torch.allclose(whole.extra_noise, whole.noise)
    parts = [
        objective.draw(Batch(x[:3], row=torch.tensor(rows), size=6), 2, 1) for rows in ([0, 2, 4], [1, 3, 5])
    ]
    both = torch.cat([part.extra_noise for part in parts])  # type: ignore[arg-type]
    assert sorted(both[:, 0].tolist()) == sorted(whole.extra_noise[:, 0].tolist())
    plain = methods.flow_matching().draw(Batch(x), 2, 1)
    assert plain.extra_noise is None
    torch.testing.assert_close(plain.noise[plain.num_jumps :].sort(0).values, whole.noise.sort(0).values)


# ---------------------------------------------------------------- a value


def test_it_is_a_plain_value_with_a_rival_in_it() -> None:
    objective = methods.get("sid")
    assert serialize.from_dict(json.loads(json.dumps(serialize.to_dict(objective)))) == objective
    changed = serialize.override(objective, "frozen.objective.times.law.mean", "-0.4")
    assert changed.auxiliary is not None and changed.auxiliary.times.law.mean == -0.4  # type: ignore[attr-defined]
    assert methods.sid(alpha=1.0, guidance=2.0).target == ScoreGap(Teacher(guidance=2.0))
    assert "zhou2024score" in [paper.key for paper in methods.citations("sid")]
    taught = objective.with_teacher(FlowMap.of(Gaussian(MEAN, STD)))
    assert objective.needs_teacher and not taught.needs_teacher
    run = objective.for_run(20)
    assert run.auxiliary is not None and (run.steps, run.auxiliary.steps) == (20, 20)
    assert objective.advice(1) == [] and "trained for 1 uniform step" in objective.advice(2)[0]


def test_what_does_not_fit_is_refused_in_words() -> None:
    objective, batch = methods.sid(), Batch(torch.zeros(4, 2))
    with pytest.raises(
        ValueError, match=r"auxiliary objective t,r: give both the same.*frozen\.objective\.conditioning"
    ):
        replace(objective, frozen=AuxiliaryNetwork(methods.flow_matching()))
    with pytest.raises(ValueError, match="Euler"):
        replace(
            objective, path=TrigPath(), frozen=AuxiliaryNetwork(replace(objective.auxiliary, path=TrigPath()))
        )
    with pytest.raises(ValueError, match=r"frozen=EMA, but the frozen map of an auxiliary objective"):
        AuxiliaryNetwork(replace(methods.flow_matching(), frozen=EMA()))
    for options in ({"period": 0}, {"lr_scale": 0.0}, {"betas": (0.0, 1.0)}):
        with pytest.raises(ValueError, match=rf"AuxiliaryNetwork\({next(iter(options))}="):
            AuxiliaryNetwork(methods.flow_matching(), **options)  # type: ignore[arg-type]
    flow = objective.flow_map(networks.MLP(2, width=8, depth=1))
    with pytest.raises(ValueError, match=r"a teacher's, and no teacher is given"):
        objective(flow, flow, batch)
    taught = objective.with_teacher(flow)
    with pytest.raises(ValueError, match="needs its auxiliary network"):
        taught(flow, None, batch)
    with pytest.raises(ValueError, match="Generated trains on what another map makes"):
        Generated().data(batch.x, batch.x, None, 0, None)


# ---------------------------------------------------------------- networks in training


def cloud(labels: bool = False, rows: int = 40) -> Dataset:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
    label = torch.arange(rows) % 3 if labels else None
    return Dataset("cloud", x, label, 3 if labels else None, kind="points")


def begin(objective: Objective, network: nn.Module | None = None) -> State:
    network = networks.MLP(2, width=16, depth=1) if network is None else network
    return State(
        new_trained_network(network, objective, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, decays=(0.9,))
    )


def ready(steps: int = 6, **options: object) -> Objective:
    taught = methods.sid().with_teacher(FlowMap.of(Gaussian(1.0, 0.3)))
    return replace(taught, frozen=replace(taught.frozen, **options)).for_run(steps)


def silent(rows: list | None = None, **more: object) -> loop.Events:
    log = (lambda row: None) if rows is None else rows.append
    return loop.Events(log=log, sample=lambda s: None, save=lambda s: None, **more)  # type: ignore[arg-type]


def copied(network: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in network.parameters()]


def moved(before: list[Tensor], network: nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_networks_begin_alike_and_each_is_the_others_frozen_map() -> None:
    network = networks.MLP(2, width=16, depth=1)
    nn.init.normal_(network.final_layer.weight)
    trained = begin(ready(lr_scale=0.5, betas=(0.0, 0.999)), network).trained
    auxiliary = trained.auxiliary
    assert (
        auxiliary is not None
        and auxiliary.network is not network
        and not moved(copied(network), auxiliary.network)
    )
    assert trained.frozen.network is auxiliary.network and auxiliary.frozen.network is network
    assert (auxiliary.frozen.start, auxiliary.flow.start) == (5 / 7, None)
    assert (auxiliary.role, trained.role, auxiliary.averages, len(trained.averages)) == (
        AUXILIARY,
        STUDENT,
        {},
        1,
    )
    assert trained.key(3) == 3 != auxiliary.key(3)
    for each in (trained, auxiliary):
        assert each.optimizer.defaults["betas"] == (0.0, 0.999)
        each.set_learning_rate(0.1)
        assert each.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize("period", [1, 2, 3])
def test_the_rival_takes_its_turn_first_and_the_generator_in_every_period(monkeypatch, period: int) -> None:
    objective, order = ready(period=period), []
    state, original = begin(objective), loop.update

    def watched(trained, task, batch, plan, step, *rest):  # type: ignore[no-untyped-def]
        auxiliary = state.trained.auxiliary
        before = copied(state.trained.network), copied(auxiliary.network)
        turn = original(trained, task, batch, plan, step, *rest)
        changes = moved(before[0], state.trained.network), moved(before[1], auxiliary.network)
        assert changes == ((False, True) if trained is auxiliary else (True, False))
        order.append((step, turn.role))
        return turn

    monkeypatch.setattr(loop, "update", watched)
    rows: list[dict] = []
    loop.fit(state, objective, cloud(), loop.Plan(6, 16, 0, 1e-2, log_every=3), silent(rows))
    expected = [(step, role) for step in range(6) for role in (AUXILIARY, STUDENT)]
    assert order == [(s, role) for s, role in expected if role == AUXILIARY or (s + 1) % period == 0]
    assert state.trained.averages[0.9].updates == 6 // period == state.trained.updates(6)
    assert [row["step"] for row in rows] == [3, 6] and all(row["rival_error"] > 0 for row in rows)
    assert all((row["raw_error"] is None) is (period == 3 and False) for row in rows)


def test_the_generators_turn_leaves_no_gradient_in_other_networks() -> None:
    objective = ready()
    taught = objective.target.teacher.flow  # type: ignore[attr-defined]
    teacher = networks.MLP(2, width=16, depth=1)
    objective = replace(objective, target=ScoreGap(Teacher(taught.with_network(teacher))))
    state = begin(objective)
    trained, auxiliary = state.trained, state.trained.auxiliary
    assert auxiliary is not None
    nn.init.normal_(auxiliary.network.final_layer.weight)
    objective(trained.flow, trained.frozen, Batch(torch.zeros(8, 2)), 0, 0).mean().backward()
    assert any(bool(w.grad.abs().sum() > 0) for w in trained.network.parameters() if w.grad is not None)
    for other in (auxiliary.network, teacher):
        assert all(weight.grad is None and weight.requires_grad for weight in other.parameters())


def test_what_a_held_map_computes_is_the_map_itself() -> None:
    network = networks.MLP(2, classes=3, width=16, depth=1)
    nn.init.normal_(network.final_layer.weight)
    flow, x = FlowMap(network), torch.randn(5, 2, requires_grad=True)
    label = torch.tensor([0, 1, 2, 3, 0])
    made = flow.held()(x, 0.7, 0.2, label)
    assert torch.equal(made, flow(x, 0.7, 0.2, label)) and flow.held().num_classes == 3
    (inner,) = torch.autograd.grad(made.sum(), x)
    (whole,) = torch.autograd.grad(flow(x, 0.7, 0.2, label).sum(), x)
    assert torch.equal(inner, whole) and all(weight.requires_grad for weight in network.parameters())


class Poisoned(nn.Module):
    """A network that answers NaN from its count-th call on."""

    num_classes = None

    def __init__(self, count: int) -> None:
        super().__init__()
        self.inner, self.calls, self.count = networks.MLP(2, width=8, depth=1), 0, count

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.inner(x, t, r, label) * (math.nan if self.calls > self.count else 1.0)


def test_a_rival_that_is_lost_ends_the_run() -> None:
    objective = ready(20)
    state = begin(objective, Poisoned(10**9))
    assert state.trained.auxiliary is not None
    state.trained.auxiliary.network.count = 4  # two calls a step: its own turn, and the generator's
    plan = loop.Plan(20, 16, 0, 1e-2, patience=3, log_every=50)
    with pytest.raises(
        Diverged, match="3 steps in a row were not finite, up to step 5: the output of the network"
    ):
        loop.fit(state, objective, cloud(), plan, silent())
    assert all(bool(weight.isfinite().all()) for weight in state.trained.auxiliary.network.parameters())


def test_a_streak_lasts_through_steps_in_which_not_every_network_is_updated() -> None:
    guard, weight = Guard(torch.device("cpu")), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(2)
    reads = []
    for verdicts, whole in (
        ((True, False), True),
        ((True,), False),
        ((False, True), True),
        ((True, True), True),
    ):
        for fine in verdicts:
            guard.step(optimizer, torch.tensor(fine))
        guard.count(whole=whole)
        reads.append(guard.read())
    assert reads == [(1, 1), (1, 1), (2, 2), (2, 0)]


# ---------------------------------------------------------------- runs


TINY = [("network.width", "16"), ("network.depth", "1"), ("online_share", "0")]
FILES = ("network", "ema", *(f"checkpoints/step-00000008/{name}" for name in (
    "network", "ema-0.999", "optimizer", "rival.network", "rival.optimizer",
)))  # fmt: skip


def config(
    data: Dataset | None = None, settings: Sequence[tuple[str, str]] = (), **options: object
) -> runs.TrainConfig:
    usual = {
        "steps": 16,
        "batch": 16,
        "log_every": 4,
        "sample_every": 0,
        "eval_num": 0,
        "checkpoint_every": 5,
    }
    return runs.configure("sid", data or cloud(), settings=[*TINY, *settings], **{**usual, **options})


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def train(
    console: Console, settings: runs.TrainConfig | None, out: Path, **options: object
) -> runs.RunResult:
    data = options.pop("data", None) or cloud()
    return runs.train(settings, out, dataset=data, console=console, **options)  # type: ignore[arg-type]


def press_at(monkeypatch, count: int) -> None:
    """Press Ctrl-C in the count-th step since resume."""
    drawn, original = [0], loop.draw_batch

    def pressing(*arguments: object, **named: object) -> object:
        drawn[0] += 1
        if drawn[0] == count:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **named)

    monkeypatch.setattr(loop, "draw_batch", pressing)


@pytest.mark.slow
@pytest.mark.parametrize("period", ["1", "2"])
def test_interrupted_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, quiet, monkeypatch, period: str
) -> None:
    settings = config(settings=[("frozen.period", period)])
    whole = train(quiet, settings, tmp_path / "whole").folder
    place = tmp_path / "parts"
    for number, count in enumerate((3, 9, 2)):
        with monkeypatch.context() as patch:
            press_at(patch, count)
            end = train(quiet, settings if number == 0 else None, place, resume=number > 0)
        assert end.signal == signal.SIGINT
    assert train(quiet, None, place, resume=True).step == 8
    for name in FILES:
        file = f"{name}.safetensors"
        assert (whole / file).read_bytes() == (place / file).read_bytes(), file
    rows = [
        [json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (whole, place)
    ]
    assert rows[0][-1]["rival_error"] > 0 and rows[0][-1]["lr"] < 0.1 * settings.optimizer.lr
    assert (
        "two networks are trained, fake score and score identity distillation; both at 0.1"
        in quiet.file.getvalue()
    )


def test_a_checkpoint_without_the_auxiliary_network_is_refused_by_name(tmp_path: Path) -> None:
    objective = ready()
    state = begin(objective)
    loop.fit(state, objective, cloud(), loop.Plan(2, 16, 0, 1e-2), silent())
    path = checkpoint.save(tmp_path, state)
    (path / "rival.network.safetensors").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"rival\.network\.safetensors: the file is missing"):
        checkpoint.restore(path, begin(objective))


@pytest.mark.slow
@pytest.mark.parametrize(("data", "settings"), [
    (cloud(), []),
    (cloud(True), [("target.teacher.guidance", "2.0")]),
    (Dataset("tiles", torch.rand(20, 1, 4, 4) * 2 - 1, torch.arange(20) % 3, 3, kind="image"), []),
], ids=["points", "guided", "images"])  # fmt: skip
def test_it_trains_with_every_network(
    tmp_path: Path, quiet, data: Dataset, settings: list[tuple[str, str]]
) -> None:
    extra = [("network.heads", "2")] if data.kind == "image" else []
    end = train(quiet, config(data, [*settings, *extra]), tmp_path / "run", data=data)
    run = runs.load_run(end.folder)
    assert (end.step, run.flow.start) == (8, 5 / 7)
    label = None if run.num_classes is None else torch.arange(5) % 3
    made = run.objective.sample(run.flow, samplers.noise(0, range(5), data.shape), label=label)
    assert made.shape == (5, *data.shape) and bool(made.isfinite().all())
    if settings:
        assert runs.load_run(end.folder / "teacher").objective.label_dropout == 0.1


@pytest.mark.parametrize(("settings", "expected"), [([], 11.0), ([("target.teacher.guidance", "2.0")], 13.0)])
def test_forward_equivalents_count_both_networks_and_gradients_through_scores(
    settings: list, expected: float
) -> None:
    """The auxiliary network: 1 for its sample and 3; the generator: 3, and 2 for each score without a gradient."""
    assert runs.cost(config(cloud(True), settings)) == expected


def test_counting_sees_what_the_networks_do_in_training(monkeypatch) -> None:
    settings = config().replace(steps=4)
    setup, spent = runs.Setup(settings, cloud(), steps=4), []

    def count(module: nn.Module, given: tuple) -> None:
        if isinstance(module, networks.MLP):
            trained = torch.is_grad_enabled() and any(w.requires_grad for w in module.parameters())
            spent.append(len(given[0]) * (3 if trained else 2 if given[0].requires_grad else 1))

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        setup.timed(0, lambda spans: len(spans) == 4)
    finally:
        hook.remove()
    assert sum(spent) / (4 * 16) == runs.cost(settings) == 11


def test_other_losses_take_what_the_target_gives() -> None:
    """The plain squared gap, which is what `raw` says too."""
    objective = replace(ready(), loss=Squared())
    state = begin(objective)
    point = objective.draw(Batch(torch.zeros(8, 2)), 0, 0)
    regression = objective.regress(state.trained.flow, state.trained.frozen, point)
    torch.testing.assert_close(objective.per_sample(regression, point).detach(), regression.raw)
    assert not regression.raw.requires_grad
    x_t = point.path.point(regression.sample, point.noise, point.t)  # type: ignore[arg-type]
    torch.testing.assert_close(
        x_t - like(point.t, x_t) * state.trained.frozen.velocity(x_t, point.t), regression.prediction
    )
