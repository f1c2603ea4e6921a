"""Rows of the table beyond the fixed points of test_conformance.py: what is taught, by whom, in which stage.

Teachers are Gaussians, whose maps are known; everything is in float64 and compared with closed forms.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from flowleap import Batch, FlowMap, Objective, methods, samplers, serialize
from flowleap.couplings import LivePairs, StoredPairs
from flowleap.guidance import FinestLevel
from flowleap.objectives import Consistency, Eulerian, Refreshed
from flowleap.oracles import Gaussian, TwoPoints
from flowleap.parameterization import Endpoint, Noise, Velocity
from flowleap.paths import LinearPath, Path, TrigPath, VPPath
from flowleap.point import Point
from flowleap.tensors import like
from flowleap.times import Curriculum, Halving, ToData
from flowleap.velocities import Conditional, Teacher

D = torch.float64
MEAN, STD, NULL = 0.4, 0.6, 2
CURVES = {"linear": LinearPath(noise_scale=0.8), "trig": TrigPath(), "vp": VPPath()}


def oracle(path: Path | None = None) -> Gaussian:
    return Gaussian(MEAN, STD, LinearPath() if path is None else path)


def moved(objective: Objective, path: Path) -> Objective:
    """On a path that may be curved, with the velocity whose step is the path's own."""
    return replace(objective, path=path, parameterization=Velocity())


def images(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=D)


def gains(path: Path, times: Tensor) -> Tensor:
    """The slope of each DDIM step of the Gaussian: ρ_ts = (α_tα_s c² + σ_tσ_s κ²)/(α_t²c² + σ_t²κ²)."""
    t, s = times[:-1], times[1:]
    shared = path.alpha(t) * path.alpha(s) * STD**2 + path.sigma(t) * path.sigma(s) * path.noise_scale**2
    return shared / ((path.alpha(t) * STD).square() + (path.sigma(t) * path.noise_scale).square())


def dyadic(count: int) -> Tensor:
    return torch.linspace(1, 0, count + 1, dtype=D)


@dataclass
class Table:
    """A network that knows one time: F = gain(t)·x + shift(t), the population optimum for Gaussian data."""

    entries: dict[float, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        assert torch.equal(t, r), "a network with one time is told no other"
        found = [self.entries[float(time)] for time in t]
        gain, shift = (torch.tensor(column, dtype=x.dtype)[:, None] for column in zip(*found, strict=True))
        return gain * x + shift


def zero(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
    return torch.zeros_like(x)


def learned(
    objective: Objective, frozen: FlowMap, t: Tensor, s: Tensor, r: Tensor, step: int
) -> dict[float, tuple[float, float]]:
    """What an affine network learns from the objective at these times: two states fix its gain and shift."""
    values = []
    for state in (0.0, 1.0):
        z = torch.full((len(t), 1), state, dtype=D)
        path = objective.path
        noise = z / like(path.sigma(t.clamp_min(path.t_min)) * path.noise_scale, z)
        point = objective.point(torch.zeros_like(z), noise, t, s, r, step=step)
        torch.testing.assert_close(point.x_t, z, rtol=1e-12, atol=1e-12)
        values.append(objective.regress(objective.flow_map(zero), frozen, point).target[:, 0])
    gain = values[1] - values[0]
    return {float(a): (float(b), float(c)) for a, b, c in zip(t, gain, values[0], strict=True)}


def affine(flow: FlowMap) -> tuple[float, float]:
    """Gain and shift of the one step from noise to data."""
    low, high = flow(torch.tensor([[0.0], [1.0]], dtype=D), flow.path.t_max, flow.path.t_min)[:, 0].tolist()
    return high - low, low


# consistency distillation


def distilled(path: Path, base_steps: int) -> tuple[float, float]:
    """The fixed point of consistency distillation, found from the data upwards with its own targets."""
    objective = moved(methods.consistency_distillation(base_steps=base_steps), path).for_run(10)
    objective = objective.with_teacher(FlowMap.of(oracle(path), Velocity()))
    table = Table()
    flow = objective.flow_map(table)
    for t, s in reversed(list(zip(dyadic(base_steps)[:-1], dyadic(base_steps)[1:], strict=True))):
        table.entries |= learned(objective, flow, t[None], s[None], torch.zeros(1, dtype=D), 0)
    return affine(flow)


@pytest.mark.slow
@pytest.mark.parametrize("curve", CURVES)
def test_consistency_distillation_is_the_teachers_ddim_and_errs_by_its_step(curve):
    """Its fixed point on N steps is DDIM in N steps, Π ρ; the error towards the flow s_0/s_1 halves with 1/N."""
    path = CURVES[curve]
    ends = torch.tensor([path.t_min, path.t_max], dtype=D)
    exact = float(oracle(path).scale(ends[:1]) / oracle(path).scale(ends[1:]))
    errors = []
    counts = (64, 128, 256) if curve == "vp" else (16, 32, 64)
    for count in counts:
        times = dyadic(count).clamp_min(path.t_min)
        gain, shift = distilled(path, count)
        assert gain == pytest.approx(float(gains(path, times).prod()), rel=1e-9)
        by_hand = samplers.ddim(
            FlowMap.of(oracle(path), Velocity()), torch.zeros(1, 1, dtype=D), times=times.tolist()
        )
        assert shift == pytest.approx(float(by_hand), rel=1e-9)
        errors.append(abs(gain - exact))
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.08)


def test_consistency_distillation_by_hand():
    """x_s = x_t − h v_T(x_t, t); F* = (x̂_0 − x_t)/(0 − t) with the frozen network at s, or x_s itself at s = 0."""
    teacher, h = FlowMap.of(oracle()), 1 / 128
    objective = methods.consistency_distillation().for_run(100).with_teacher(teacher)
    frozen = objective.flow_map(lambda x, t, r, label: torch.sin(x) + t[:, None])
    point = objective.draw(Batch(images(512)), step=3, key=0)
    found = objective.regress(objective.flow_map(zero), frozen, point).target
    t = point.t[:, None]
    assert (
        point.num_jumps == 512
        and bool((point.s == 0).any())
        and float((point.t - point.s - h).abs().max()) < 1e-12
    )
    x_s = point.x_t - h * oracle().velocity(point.x_t, point.t)
    end = torch.where(t - h > 1e-9, x_s - (t - h) * (torch.sin(x_s) + t - h), x_s)
    torch.testing.assert_close(found, (point.x_t - end) / t, rtol=1e-9, atol=1e-9)


# consistency training


@pytest.mark.parametrize(
    "path", [LinearPath(), LinearPath(noise_scale=0.5, sigma_min=1e-5), TrigPath(), VPPath()], ids=repr
)
def test_the_first_stage_of_consistency_training_is_one_step_regression(path):
    """t = 1, s = r = 0: the end of the pair is the target, and the frozen network is not asked."""

    def unasked(x, t, r, label):
        raise AssertionError("where s = r there is no second step")

    objective = moved(methods.consistency_training(), path).for_run(70)
    flow = objective.flow_map(zero)
    for step in (0, 9):
        point = objective.draw(Batch(images(32)), step, key=1)
        regression = objective.regress(flow, objective.flow_map(unasked), point)
        end = path.point(point.x, point.noise, point.r)
        assert float((point.r - path.t_min).abs().max()) < 1e-9, "rounded in single precision"
        landed = flow.step(regression.target, point.x_t, point.t, point.r)
        torch.testing.assert_close(landed, end, rtol=1e-12, atol=1e-12)
        if isinstance(path, LinearPath):
            velocity = path.velocity(point.x, point.noise, point.t)
            torch.testing.assert_close(regression.target, velocity, rtol=0, atol=1e-14)
    with pytest.raises(AssertionError):
        objective.regress(flow, objective.flow_map(unasked), objective.draw(Batch(images(32)), 10, key=1))


@pytest.mark.parametrize("level", range(7))
def test_consistency_training_by_hand(level):
    """Both points share x and ε: F* = (X̂_0(x_s) − x_t)/(0 − t) with X̂_0(x_s) = x_s − s F(x_s, s)."""
    objective = methods.consistency_training().for_run(7)
    frozen = objective.flow_map(lambda x, t, r, label: torch.cos(x) - t[:, None])
    point = objective.draw(Batch(images(64)), level, key=0)
    found = objective.regress(objective.flow_map(zero), frozen, point).target
    t, s = point.t[:, None], point.t[:, None] - 2.0**-level
    x_s = (1 - s) * point.x + s * point.noise
    end = torch.where(s > 0, x_s - s * (torch.cos(x_s) - s), x_s)
    torch.testing.assert_close(found, (point.x_t - end) / t, rtol=1e-12, atol=1e-12)


def test_consistency_training_asks_its_target_network_only_where_there_is_a_second_step():
    rows: list[int] = []

    def counted(x, t, r, label):
        rows.append(len(x))
        return torch.zeros_like(x)

    objective = methods.consistency_training().for_run(7)
    for step in range(7):
        rows.clear()
        point = objective.draw(Batch(images(64)), step, key=0)
        objective.regress(objective.flow_map(zero), objective.flow_map(counted), point)
        assert sum(rows) == int((point.s > 0).sum())
        assert (sum(rows) == 0) == (step == 0)


# progressive distillation


@pytest.mark.slow
@pytest.mark.parametrize("curve", CURVES)
def test_each_level_makes_two_steps_of_the_one_before_down_to_one(curve):
    """Level after level from a Gaussian teacher: 64, 32, …, 1 steps of the student are the teacher's 128, exactly."""
    path = CURVES[curve]
    teacher = FlowMap.of(oracle(path), Velocity())
    objective = moved(methods.progressive_distillation(), path).for_run(7).with_teacher(teacher)
    frozen = objective.flow_map(zero)  # never asked: the first stage is the teacher's
    for step, level in enumerate((6, 5, 4, 3, 2, 1, 0)):
        assert objective.stage(step) == step and objective.times.level(objective.progress(step)) == level
        times = dyadic(2**level)
        t, r = times[:-1], times[1:]
        found = learned(objective, frozen, t, (t + r) / 2, r, step)
        frozen = objective.flow_map(Table(found))
        noise = images(2)
        by_student = samplers.chain(frozen, noise, steps=2**level, times=times.tolist())
        by_teacher = samplers.ddim(teacher, noise, times=dyadic(128).tolist())
        torch.testing.assert_close(by_student, by_teacher, rtol=1e-9, atol=1e-9)
    gain, _ = affine(frozen)
    assert gain == pytest.approx(float(gains(path, dyadic(128).clamp_min(path.t_min)).prod()), rel=1e-9)


def test_two_exact_half_steps_are_reproduced():
    """A teacher whose halves are the flow itself teaches the flow itself."""
    exact = FlowMap.of(oracle())
    objective = replace(methods.progressive_distillation(base_steps=8), conditioning="t,r").with_teacher(
        exact
    )
    t = torch.tensor([1.0, 0.75, 0.5], dtype=D)
    r = t - 0.5
    point = objective.point(images(3), images(3, 1), t, t - 0.25, r)
    found = objective.regress(exact, exact, point).target
    torch.testing.assert_close(found, exact.output(point.x_t, t, r), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [7, 8, 13, 20, 100, 400, 777])
def test_teacher_and_level_change_in_the_same_step(steps):
    """The stages are those of the level in the drawn times, in whole numbers; 7, one per level, begin in order."""
    objective = methods.progressive_distillation().for_run(steps)
    data = Batch(images(4))
    for step in range(steps):
        expected = 7 * step // steps
        point = objective.draw(data, step, key=0)
        assert objective.stage(step) == expected
        assert torch.equal(point.t - point.r, torch.full_like(point.t, 2.0 ** -(6 - expected)))


def test_the_first_stage_is_taught_by_the_teacher_and_the_others_by_the_refreshed_map():
    asked: list[str] = []

    def named(name: str) -> Callable[..., Tensor]:
        def network(x, t, r, label):
            asked.append(name)
            return torch.zeros_like(x)

        return network

    objective = methods.progressive_distillation().for_run(70)
    objective = objective.with_teacher(FlowMap(named("teacher")))
    flow, frozen = objective.flow_map(named("student")), objective.flow_map(named("copy"))
    for step, by in ((0, "teacher"), (9, "teacher"), (10, "copy"), (69, "copy")):
        asked.clear()
        objective.regress(flow, frozen, objective.draw(Batch(images(4)), step, key=0))
        assert asked == ["student", by, by], "one prediction and two half steps"


def test_guidance_enters_once_and_is_inherited():
    """u(∅) + w (u(y) − u(∅)) in both halves of the first level, the label alone afterwards."""
    network = Labeled()
    objective = methods.progressive_distillation(guidance=1.5).for_run(7).with_teacher(FlowMap(network))
    assert objective.guidance == FinestLevel(1.5) and objective.label_dropout == 0.0
    label = torch.tensor([0, 1, 1, 0])
    for step, scale in ((0, 1.5), (1, 1.0), (6, 1.0)):
        point = objective.draw(Batch(images(4), label), step, key=0)
        found = objective.regress(objective.flow_map(network), objective.flow_map(network), point).target

        def velocity(x, t, y=point.label, w=scale):
            null = network(x, t, t, torch.full_like(y, NULL))
            return null + w * (network(x, t, t, y) - null)

        middle = point.x_t + like(point.s - point.t, point.x_t) * velocity(point.x_t, point.t)
        expected = (velocity(point.x_t, point.t) + velocity(middle, point.s)) / 2
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_run_too_short_for_its_stages_is_refused():
    methods.progressive_distillation().for_run(7)
    with pytest.raises(ValueError, match="in 6 steps: it has 7 stages, so at least 7 steps"):
        methods.progressive_distillation().for_run(6)
    with pytest.raises(ValueError, match=r"7 levels and Refreshed 5 stages.*Refreshed\(stages=7\)"):
        replace(methods.progressive_distillation(), frozen=Refreshed(5))


# live reflow


def live(rows: int = 64, frozen: FlowMap | None = None, **changes) -> tuple[Objective, Point, Batch]:
    objective = replace(methods.live_reflow(), **changes).for_run(100)
    data = Batch(images(rows), torch.arange(rows) % 2)
    return objective, objective.draw(data, 5, 0, frozen or objective.flow_map(Known(oracle()))), data


@dataclass(frozen=True)
class Known:
    """The velocity of a Gaussian as a network, whatever else it is told."""

    exact: Gaussian
    num_classes: int | None = NULL

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        return self.exact.velocity(x, t)


class Labeled:
    """A velocity that depends on the label; 2 is the null label."""

    num_classes = NULL

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        return torch.sin(x) * like(t, x) + like(torch.tensor([1.0, -0.5, 0.2], dtype=D)[label], x)


def test_live_pairs_are_eight_euler_steps_of_the_known_field():
    """x̂ = Π ρ over eighths · ε + shift, in closed form; the other rows are the data."""
    calls = []

    class OnDiagonal(Known):
        def __call__(self, x, t, r, label):
            assert torch.equal(t, r), "the instantaneous velocity makes the pairs"
            calls.append(len(x))
            return super().__call__(x, t, r, label)

    _, point, data = live(frozen=methods.live_reflow().flow_map(OnDiagonal(oracle())))
    assert point.num_jumps == 8 and calls == [8] * 8
    steps = dyadic(8)
    gain = float(gains(LinearPath(), steps).prod())
    shift = torch.zeros(1, dtype=D)
    for t, s, rho in zip(steps[:-1], steps[1:], gains(LinearPath(), steps), strict=True):
        shift = (1 - s) * MEAN + rho * (shift - (1 - t) * MEAN)  # of the mean, which Euler's steps keep
    torch.testing.assert_close(point.x[:8], gain * point.noise[:8] + shift, rtol=1e-12, atol=1e-12)
    kept = point.x[8:]
    assert all(bool((data.x == row).all(1).any()) for row in kept), "the other rows are images of the batch"
    assert len({tuple(row.tolist()) for row in kept}) == 56


def test_live_pairs_tend_to_the_exact_flow():
    """Twice the steps, half the error: X_{1→0}(ε) is where the field itself leads."""
    errors = []
    for steps in (32, 64, 128):
        _, point, _ = live(coupling=LivePairs(steps))
        ones, zeros = torch.ones(8, dtype=D), torch.zeros(8, dtype=D)
        errors.append(float((point.x[:8] - oracle()(point.noise[:8], ones, zeros)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


def test_targets_times_and_labels_of_live_reflow():
    """Pairs: ε − x̂ on the grid k/128, told the data, labels kept. The others: ε − x, told t."""
    seen = []

    def network(x, t, r, label):
        seen.append((t, r, label))
        return torch.zeros_like(x)

    network_with_null = Known(oracle())
    objective, point, _ = live(512, label_dropout=0.3)
    assert point.num_jumps == 64 and float(((point.t * 128) - (point.t * 128).round()).abs().max()) < 1e-12
    student = objective.flow_map(network)
    with pytest.raises(ValueError, match="null class"):
        objective.regress(student, objective.flow_map(network_with_null), point)
    network.num_classes = NULL
    regression = objective.regress(student, objective.flow_map(network_with_null), point)
    torch.testing.assert_close(regression.target, point.noise - point.x, rtol=0, atol=1e-12)
    expected = (1 - point.t[:, None]) * point.x + point.t[:, None] * point.noise
    torch.testing.assert_close(point.x_t, expected, rtol=1e-12, atol=1e-12)
    (t, told, label), off = seen[-1], point.num_jumps
    assert not told[:off].any() and torch.equal(told[off:], t[off:])
    assert torch.equal(label[:off], point.label[:off]), "pairs keep their labels"
    assert 0 < int((label[off:] == NULL).sum()) < 448
    landed = student.step(regression.target, point.x_t, point.t, torch.zeros_like(point.t))
    torch.testing.assert_close(landed[:off], point.x[:off], rtol=0, atol=1e-12)


def test_live_pairs_may_be_guided_and_carry_no_gradient():
    """v(∅) + w (v(y) − v(∅)) in each of the eight steps, under the labels of their rows."""
    weight = torch.tensor(1.0, dtype=D, requires_grad=True)
    labeled = Labeled()

    class Net:
        num_classes = NULL

        def __call__(self, x, t, r, label):
            return weight * labeled(x, t, r, label)

    objective = replace(methods.live_reflow(guidance=2.0)).for_run(100)
    data = Batch(images(64), torch.arange(64) % 2)
    point = objective.draw(data, 5, 0, objective.flow_map(Net()))
    assert not point.x.requires_grad
    x, label = point.noise[:8], point.label[:8]
    for i in range(8):
        t = torch.full((8,), 1 - i / 8, dtype=D)
        null = labeled(x, t, t, torch.full_like(label, NULL))
        x = x - (null + 2.0 * (labeled(x, t, t, label) - null)) / 8
    torch.testing.assert_close(point.x[:8], x, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"LivePairs contrasts labels.*never trains"):
        replace(objective, label_dropout=0.0)


def test_live_pairs_need_a_map_and_a_step():
    objective = methods.live_reflow().for_run(10)
    with pytest.raises(ValueError, match="frozen=flow"):
        objective.draw(Batch(images(16)), 0, 0)
    with pytest.raises(ValueError, match="at least one step"):
        LivePairs(0)
    assert objective(objective.flow_map(Known(oracle(), None)), batch=Batch(images(16))).isfinite().all()


def test_live_pairs_do_not_depend_on_the_split_over_processes():
    objective, whole, data = live()
    flow = objective.flow_map(Known(oracle()))
    for row in torch.arange(64).split(24):
        part = objective.draw(Batch(data.x[row], data.label[row], row=row, size=64), 5, 0, flow)
        for i in range(len(part.x)):
            j = int((whole.noise == part.noise[i]).all(1).nonzero())
            torch.testing.assert_close(part.x[i], whole.x[j], rtol=1e-12, atol=1e-12)
            assert part.t[i] == whole.t[j] and part.label[i] == whole.label[j]


def test_live_reflow_samples_with_either_head():
    """Fewer than 128 steps ask for the data a point belongs to, 128 or more for the velocity."""
    told: list[bool] = []

    def network(x, t, r, label):
        told.append(bool((r == t).all()))
        assert bool((r == t).all()) or not r.any()
        return torch.zeros_like(x)

    objective = methods.live_reflow()
    for steps, velocity in ((1, False), (4, False), (127, False), (128, True), (130, True)):
        told.clear()
        objective.sample(objective.flow_map(network), images(2), steps=steps)
        assert told == [velocity] * steps


# reflow


def test_reflow_is_flow_matching_on_its_pairs():
    objective = methods.reflow().for_run(100)
    noise, label = images(32, 1), torch.arange(32)
    x = oracle()(noise, torch.ones(32, dtype=D), torch.zeros(32, dtype=D)) + label[:, None]
    point = objective.draw(Batch(x, label, noise), step=3, key=0)
    assert sorted(point.label.tolist()) == list(range(32)), "every pair is used once"
    found = objective.regress(objective.flow_map(Known(oracle(), 99)), None, point)
    order = point.label
    torch.testing.assert_close(found.target, noise[order] - x[order], rtol=1e-12, atol=1e-12)
    t = point.t[:, None]
    torch.testing.assert_close(point.x_t, (1 - t) * x[order] + t * noise[order], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"this batch has no noise: give Batch\(x, label, noise\)"):
        objective.draw(Batch(x, label), step=3, key=0)


def test_pairs_of_a_straight_flow_are_learned_by_one_step():
    """Where pairs lie on lines that do not cross, the velocity of the pair is a function of x_t: one step is exact."""
    teacher = oracle()
    ones, zeros = torch.ones(64, dtype=D), torch.zeros(64, dtype=D)
    noise = images(64)
    x = teacher(noise, ones, zeros)  # x = m + c ε: x_t = (1 − t)(m + c ε) + t ε

    def straight(x_t, t, r, label):
        t = like(t, x_t)
        known = (x_t - (1 - t) * MEAN) / ((1 - t) * STD + t)
        return known - (MEAN + STD * known)

    objective = methods.reflow()
    point = objective.draw(Batch(x, noise=noise), step=0, key=0)
    regression = objective.regress(objective.flow_map(straight), None, point)
    torch.testing.assert_close(regression.prediction, regression.target, rtol=1e-9, atol=1e-9)
    landed = objective.sample(objective.flow_map(straight), noise)
    torch.testing.assert_close(landed, x, rtol=1e-12, atol=1e-12)


# diffusion


def test_the_target_of_diffusion_is_the_noise():
    objective = methods.diffusion()
    for dtype, tolerance in ((D, 1e-9), (torch.float32, 2e-3)):
        point = objective.draw(Batch(images(4096).to(dtype)), step=0, key=0)
        target = objective.regress(objective.flow_map(zero), None, point).target
        torch.testing.assert_close(target, point.noise, rtol=tolerance, atol=tolerance)
        assert float(point.t.min()) >= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_ddim_with_the_exact_noise_lands_on_the_exact_samples(seed):
    """Of first order in the step, N evaluations in N steps."""
    rows = []
    exact = oracle(VPPath())
    objective = methods.diffusion()
    perfect = FlowMap.of(exact, Noise())

    def counted(x, t, r, label):
        rows.append(len(x))
        assert torch.equal(t, r)
        return perfect.network(x, t, r, label)

    noise = images(16, seed)
    flow, path = objective.flow_map(counted), exact.path
    start, end = torch.ones(16, dtype=D), torch.full((16,), path.t_min, dtype=D)
    expected, errors = exact(path.prior(noise), start, end), []
    for steps in (256, 512, 1024):
        rows.clear()
        errors.append(float((objective.sample(flow, noise, steps=steps) - expected).abs().max()))
        assert (
            rows == [16] * steps and objective.nfe(steps) == steps and objective.nfe(steps, 2.0) == 2 * steps
        )
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)
    assert errors[2] < 0.02


def test_the_noise_of_the_exact_flow_is_the_expected_noise():
    """ε̂ = E[ε | x_t] = (x_t − α E[x | x_t])/σ for two points, an independent form of the same network."""
    path = VPPath()
    two, x = TwoPoints(path), images(32)
    t = torch.linspace(0.05, 1, 32, dtype=D)
    found = FlowMap.of(two, Noise()).output(x, t, t)
    expected = (x - like(path.alpha(t), x) * two.posterior_mean(x, t)) / like(path.sigma(t), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# teachers


@pytest.mark.parametrize("scale", [None, 0.0, 1.0, 1.5, 4.0])
def test_a_guided_teacher_is_the_formula(scale):
    """v_∅ + w (v_y − v_∅), under the null label alone where the label is dropped."""
    network = Labeled()
    label = torch.tensor([0, 1, 0, 1])
    dropped = torch.tensor([False, False, True, False])
    point = methods.flow_matching().point(
        images(4), images(4, 1), *[torch.full((4,), 0.6, dtype=D)] * 3, label, dropped=dropped
    )
    known = torch.where(dropped, NULL, label)
    null = network(point.x_t, point.t, point.t, torch.full_like(label, NULL))
    weight = 1.0 if scale is None else scale
    expected = null + weight * (network(point.x_t, point.t, point.t, known) - null)
    found = Teacher(FlowMap(network), scale)(point)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    velocity = FlowMap(network, Endpoint())
    guided = Teacher(velocity, scale)(point)
    one, other = (
        velocity.velocity(point.x_t, point.t, label=y) for y in (known, torch.full_like(label, NULL))
    )
    torch.testing.assert_close(guided, other + weight * (one - other), rtol=1e-9, atol=1e-9)


def test_a_guided_teacher_needs_labels():
    point = methods.flow_matching().point(images(4), images(4, 1), *[torch.full((4,), 0.6, dtype=D)] * 3)
    with pytest.raises(ValueError, match="give labels"):
        Teacher(FlowMap(Labeled()), 1.5)(point)


@pytest.mark.parametrize("name", ["consistency_distillation", "progressive_distillation", "reflow"])
def test_methods_wait_for_their_teacher_and_are_plain_values_until_then(name):
    objective, teacher = methods.get(name), FlowMap.of(oracle())
    assert objective.needs_teacher and objective.starts_from_teacher
    assert serialize.from_dict(json.loads(json.dumps(serialize.to_dict(objective)))) == objective
    ready = objective.with_teacher(teacher)
    assert not ready.needs_teacher and ready.with_teacher(FlowMap(zero)) == ready, "a teacher is not replaced"
    assert [type(part) for part in ready.parts()][: len(objective.parts())][0] is Objective
    assert isinstance(hash(ready), int) and objective.needs_teacher
    with pytest.raises(ValueError, match="cannot be written down"):
        serialize.to_dict(ready)


@pytest.mark.parametrize("name", methods.names())
def test_the_others_need_no_teacher(name):
    objective = methods.get(name)
    if not objective.starts_from_teacher:
        assert (
            not objective.needs_teacher
            and objective.with_teacher(FlowMap(zero, path=objective.path)) == objective
        )


@pytest.mark.parametrize("name", ["consistency_distillation", "progressive_distillation"])
def test_training_without_a_teacher_is_refused(name):
    objective = methods.get(name).for_run(10)
    with pytest.raises(ValueError, match=r"objective\.with_teacher\(flow\)"):
        objective(objective.flow_map(zero), batch=Batch(images(8)))


def test_a_teacher_is_put_wherever_one_is_missing():
    objective = replace(
        methods.meanflow(), target=Eulerian(tangent=Teacher(guidance=1.5)), velocity=Teacher()
    )
    teacher = FlowMap.of(oracle())
    ready = objective.with_teacher(teacher)
    assert ready.velocity == Teacher(teacher) and ready.target.tangent == Teacher(teacher, 1.5)
    own = FlowMap.of(oracle(), Endpoint())
    assert replace(objective, velocity=Teacher(own)).with_teacher(teacher).velocity == Teacher(own)
    assert methods.reflow().with_teacher(teacher).coupling == StoredPairs(teacher)


def test_teachers_that_do_not_fit_are_refused():
    for name in ("consistency_distillation", "progressive_distillation", "reflow"):
        with pytest.raises(ValueError, match=r"lives on LinearPath.*its teacher on VPPath"):
            methods.get(name).with_teacher(FlowMap(zero, Velocity(), VPPath()))
        with pytest.raises(ValueError, match=r"goes on from the weights of its teacher, which give Endpoint"):
            methods.get(name).with_teacher(FlowMap(zero, Endpoint()))
    objective = replace(methods.consistency_distillation(), starts_from_teacher=False)
    assert not objective.with_teacher(FlowMap(zero, Endpoint())).needs_teacher, (
        "its velocity alone may be of any kind"
    )


def test_a_network_that_is_told_something_else_is_refused():
    objective = methods.consistency_training().for_run(10)
    point = objective.draw(Batch(images(8)), 0, 0)
    with pytest.raises(ValueError, match="has conditioning='t', but the flow map 't,r'"):
        objective.regress(FlowMap(zero), None, point)


# counts


@pytest.mark.parametrize("rows", [8, 13, 96])
@pytest.mark.parametrize("name", methods.names())
def test_every_row_of_a_batch_is_used_once(name, rows):
    """No image is left over and none comes twice; live pairs take the label of their row, and noise for its image."""
    objective = methods.get(name).for_run(100)
    if rows < {"shortcut_repo": 56, "shortcut_esc": 28}.get(name, 0):
        pytest.skip("its quotas need more rows")
    if rows % objective.group:
        pytest.skip("its groups fill the batch")
    x = images(rows)
    data = Batch(x, torch.arange(rows), x if isinstance(objective.coupling, StoredPairs) else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        point = objective.draw(data, 50, 0, objective.flow_map(Known(oracle())))
    assert sorted(point.label.tolist()) == list(range(rows))
    replaced = point.num_jumps if isinstance(objective.coupling, LivePairs) else 0
    assert torch.equal(point.x[replaced:], x[point.label[replaced:]])
    whole = isinstance(objective.times, Curriculum | Halving) or name == "consistency_distillation"
    if whole:
        assert point.num_jumps == rows
    if isinstance(objective.times, ToData):
        assert point.num_jumps == math.floor(rows / 8) == replaced


def test_levels_without_labels_dropped():
    """Rows that jump keep their labels in every row of the table, whatever the dropout."""
    for name in (
        "consistency_training",
        "consistency_distillation",
        "progressive_distillation",
        "live_reflow",
    ):
        objective = replace(methods.get(name), label_dropout=0.9).for_run(100)
        point = objective.draw(Batch(images(64), torch.arange(64)), 3, 0, objective.flow_map(Known(oracle())))
        assert not point.dropped[: point.num_jumps].any()
    loose = replace(methods.consistency_training(), label_dropout=0.9, target=Consistency(keep_labels=False))
    assert loose.for_run(100).draw(Batch(images(64), torch.arange(64)), 3, 0).dropped.any()


def test_conditional_velocities_of_pairs_are_exact_on_every_path():
    """The first step of consistency training stays on the line of its pair: X̂_{t→s}(x_t) = x_s."""
    for path in (LinearPath(0.7, 1e-3), TrigPath(0.5), VPPath()):
        objective = moved(methods.consistency_training(), path)
        t, s = torch.tensor([1.0, 0.5], dtype=D), torch.tensor([0.5, 0.25], dtype=D)
        point = objective.point(images(2), images(2, 1), t, s, torch.zeros(2, dtype=D))
        a, b = path.transfer(point.t, point.s)
        reached = like(a, point.x) * point.x_t + like(b, point.x) * Conditional()(point)
        torch.testing.assert_close(reached, path.point(point.x, point.noise, s), rtol=1e-12, atol=1e-12)
