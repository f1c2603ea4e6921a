"""The learned solver: its step by hand, what it can be exact for, what of it is trained, and how it is sampled."""

from __future__ import annotations

import io
import json
import math
import signal
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from flowleap import methods, networks, runs, samplers, serialize
from flowleap.data import Dataset
from flowleap.flow_map import FlowMap
from flowleap.guidance import guide
from flowleap.networks import MeanDirection
from flowleap.objectives import LearnedSolver, Objective
from flowleap.objectives.solver import SolverMap
from flowleap.oracles import Gaussian
from flowleap.parameterization import AverageVelocity, Noise, Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.point import Batch
from flowleap.randomness import RowGenerator
from flowleap.samplers import Sampling
from flowleap.tensors import like
from flowleap.times import Intervals, LogNormal, spaced
from flowleap.training import loop, report
from flowleap.velocities import Teacher

D = torch.float64
PATHS = (LinearPath(), LinearPath(0.7, 1e-3), TrigPath(0.8), VPPath(), VEPath())


def images(rows: int, seed: int = 0, dims: int = 3) -> Tensor:
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(seed), dtype=D)


def solver(oracle: Gaussian, direction: float = 0.9, time: float = 0.2) -> FlowMap:
    """The solver of an exactly known flow, whose velocity is that of a perfect network."""
    perfect = FlowMap.of(oracle, Velocity())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MeanDirection(perfect.network, direction=direction, time=time).double()
        return SolverMap(network, perfect.parameterization, perfect.path)


def told(flow: FlowMap, fraction: float, direction: float, time: float) -> FlowMap:
    """The same solver with a predictor that always says this."""
    net = flow.network
    shares = (
        fraction,
        (direction - 1) / net.predictor.direction / 2 + 0.5,
        (time - 1) / net.predictor.time / 2 + 0.5,
    )
    with torch.no_grad():
        net.predictor.head.weight.zero_()
        net.predictor.head.bias.copy_(torch.tensor([math.log(p / (1 - p)) for p in shares], dtype=D))
    return flow


# ---------------------------------------------------------------- the step


def test_an_untrained_solver_is_the_midpoint_rule():
    oracle = Gaussian(0.3, 0.5)
    flow, x = solver(oracle), images(5)
    t, r = torch.full((5,), 0.9, dtype=D), torch.full((5,), 0.4, dtype=D)
    half = x - 0.25 * oracle.velocity(x, t)
    by_hand = x - 0.5 * oracle.velocity(half, torch.full((5,), 0.65, dtype=D))
    torch.testing.assert_close(flow(x, t, r), by_hand, rtol=1e-12, atol=1e-12)


def test_what_the_predictor_says_is_what_the_step_does():
    """Another time on the way, another scale of the direction, another time asked for: each where it belongs."""
    oracle = Gaussian(0.3, 0.5)
    flow, x = told(solver(oracle), 0.3, 1.1, 0.9), images(5)
    t, r = torch.full((5,), 0.9, dtype=D), torch.full((5,), 0.4, dtype=D)
    s = 0.9 + 0.3 * (0.4 - 0.9)
    x_s = x + (s - 0.9) * oracle.velocity(x, t)
    by_hand = x + 1.1 * (0.4 - 0.9) * oracle.velocity(x_s, torch.full((5,), 0.9 * s, dtype=D))
    torch.testing.assert_close(flow(x, t, r), by_hand, rtol=1e-12, atol=1e-12)


def test_noise_levels_are_interpolated_on_the_grid_of_karras():
    path = VEPath()
    oracle = Gaussian(0.0, 0.5, path)
    flow, x = told(solver(oracle), 0.3, 1.0, 1.0), 10 * images(4)
    t, r = torch.full((4,), 10.0, dtype=D), torch.full((4,), 1.0, dtype=D)
    s = (10 ** (1 / 7) + 0.3 * (1 - 10 ** (1 / 7))) ** 7
    x_s = x + (s - 10) * oracle.velocity(x, t)
    by_hand = x - 9 * oracle.velocity(x_s, torch.full((4,), s, dtype=D))
    torch.testing.assert_close(flow(x, t, r), by_hand, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_on_the_line_of_a_single_image_every_step_is_exact_wherever_it_is_asked(path):
    oracle = Gaussian(0.7, 0.0, path)
    flow = told(solver(oracle), 0.3, 1.0, 1.0)
    high, low = (0.9, 0.2) if path.t_max <= 1 else (20.0, 0.5)
    t, r = torch.full((6,), high, dtype=D), torch.full((6,), low, dtype=D)
    x = path.point(torch.full((6, 3), 0.7, dtype=D), images(6), t)
    torch.testing.assert_close(flow(x, t, r), oracle(x, t, r), rtol=1e-9, atol=1e-9)
    spoilt = told(solver(oracle), 0.3, 1.1, 1.0)
    assert (spoilt(x, t, r) - oracle(x, t, r)).abs().max() >= 1e-2


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_untrained_step_is_of_second_order_or_better_on_every_path(path):
    oracle = Gaussian(0.3, 0.5, path)
    flow, errors = solver(oracle), []
    for count in (8, 16, 32):
        stops = spaced(*((0.9, 0.1) if path.t_max <= 1 else (20.0, 0.1)), count)
        x = x_start = images(8)
        for t, r in pairwise(stops):
            x = flow(x, t, r)
        t, r = (torch.full((8,), time, dtype=D) for time in (stops[0], stops[-1]))
        errors.append(float((x.detach() - oracle(x_start, t, r)).abs().max()))
    assert errors[0] < 0.1 and errors[0] / errors[1] > 3.2 and errors[1] / errors[2] > 3.5


@pytest.mark.parametrize(("std", "t", "r"), [(0.5, 1.0, 0.5), (0.2, 0.5, 0.0), (0.5, 0.9, 0.2)])
def test_on_a_linear_equation_a_scale_makes_the_step_exact(std, t, r):
    """All points move by one factor, so that c = (factor − 1)/(factor of the midpoint rule − 1) is exact."""
    oracle, x = Gaussian(0.0, std), images(6)
    flow = solver(oracle)
    exact = oracle(x, *(torch.full((6,), time, dtype=D) for time in (t, r)))
    plain = flow(x, t, r).detach()
    scale = float(((exact - x) / (plain - x)).mean())
    assert abs(scale - 1) > 5e-3 and (plain - exact).abs().max() >= 1e-2
    torch.testing.assert_close(told(flow, 0.5, scale, 1.0)(x, t, r), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_training_finds_steps_that_midpoints_cannot_make():
    """In four evaluations, on a Gaussian: less than a tenth of the error of the midpoint rule."""
    oracle, noise = Gaussian(0.0, 0.2), images(200, seed=9)
    flow = solver(oracle, direction=0.5)
    one = torch.ones(200, dtype=D)
    exact = oracle(noise, one, 0 * one)
    before = float((samplers.solver(flow, noise, 4).detach() - exact).square().mean().sqrt())
    objective = replace(
        methods.amed(4), parameterization=Velocity(), target=LearnedSolver(substeps=6)
    ).for_run(120)
    objective = objective.with_teacher(FlowMap.of(oracle, Velocity()))
    optimizer = torch.optim.Adam(flow.network.predictor.parameters(), lr=0.05)
    for step in range(120):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 120)
        optimizer.zero_grad()
        objective(flow, flow, Batch(torch.zeros(32, 3, dtype=D)), step).mean().backward()
        optimizer.step()
    after = float((samplers.solver(flow, noise, 4).detach() - exact).square().mean().sqrt())
    assert before > 0.02 and after < before / 10


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_features_are_the_tokens_after_the_middle_block_averaged(depth):
    torch.manual_seed(0)
    inner = networks.DiT((1, 4, 4), 3, width=16, depth=depth, heads=2)
    for parameter in inner.parameters():
        nn.init.normal_(parameter, std=0.2)
    net, asked, tokens = MeanDirection(networks.WithLogVariance(inner)), [], []
    net.predictor.register_forward_hook(lambda module, given, output: asked.append(given))
    inner.blocks[depth // 2].register_forward_hook(lambda module, given, output: tokens.append(output))
    x, label = torch.randn(6, 1, 4, 4), torch.arange(6) % 3
    SolverMap(net)(x, 0.8, 0.3, label)
    assert len(tokens) == 2, "two evaluations, and features of the first without another pass"
    ((features, t, r),) = asked
    torch.testing.assert_close(features, tokens[0].mean(1))
    assert (
        features.shape == (6, 16)
        and t.tolist() == pytest.approx([0.8] * 6)
        and float(r[0]) == pytest.approx(0.3)
    )
    hooks = [len(block._forward_hooks) for block in inner.blocks]
    assert sum(hooks) == 1, "nothing of the solver stays behind in the network"


def test_features_of_points_are_the_activations_of_the_middle_block():
    net, asked, seen = MeanDirection(networks.MLP(2, 3, width=8, depth=3)), [], []
    net.predictor.register_forward_hook(lambda module, given, output: asked.append(given[0]))
    net.network.blocks[1].register_forward_hook(lambda module, given, output: seen.append(output))
    SolverMap(net)(torch.randn(5, 2), 1.0, 0.5, torch.arange(5) % 3)
    assert torch.equal(asked[0], seen[0])


def test_asked_directly_it_answers_as_the_frozen_network_does():
    inner = networks.MLP(2, 3, width=8, depth=1)
    nn.init.normal_(inner.final_layer.weight)
    net, x, t = MeanDirection(inner), torch.randn(4, 2), torch.rand(4)
    assert torch.equal(net(x, t, t, None), inner(x, t, t, None)) and net.num_classes == 3
    flow = SolverMap(net)

    assert torch.equal(flow.velocity(x, t), FlowMap(inner).velocity(x, t))
    mean = (flow(x, t, 0 * t) - x) / -t[:, None]
    torch.testing.assert_close(flow.velocity(x, t, 0 * t), mean)
    torch.testing.assert_close(flow.velocity(x, t, t), flow.velocity(x, t))


def test_only_the_predictor_is_trained_and_it_is_small():
    net = MeanDirection(networks.DiT((1, 8, 8), 10, width=64, depth=4, heads=4))
    trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert trained == {f"predictor.{name}" for name, _ in net.predictor.named_parameters()}
    assert sum(weight.numel() for weight in net.predictor.parameters()) == 8971, "as many as published"
    assert networks.describe(net).endswith("8,971 parameters")
    assert networks.build(net.config).config == net.config
    assert networks.inside(net) is net.network and networks.inside(net.network) is net.network
    assert set(net.state_dict()) > {f"network.{name}" for name in net.network.state_dict()}
    with pytest.raises(ValueError, match=r"direction=1, time=0\.2.*around 1"):
        MeanDirection(net.network, direction=1)


def test_scales_stay_in_their_ranges_and_times_on_the_path():
    net = MeanDirection(networks.MLP(2, width=8, depth=1), direction=0.1, time=0.3)
    nn.init.normal_(net.predictor.head.weight, std=100.0)
    told = (value.detach() for value in net.predictor(torch.randn(500, 8), torch.rand(500), torch.rand(500)))
    for value, (low, high) in zip(told, ((0, 1), (0.9, 1.1), (0.7, 1.3)), strict=True):
        assert (
            low - 1e-6 <= float(value.min()) < low + 0.01 and high - 0.01 < float(value.max()) <= high + 1e-6
        )
    asked: list[Tensor] = []
    oracle = Gaussian(0.0, 0.5)
    flow = told_late = solver(oracle)
    original = told_late.network.network

    def noting(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        asked.append(t)
        return original(x, t, r, label)

    flow.network.network = noting
    told_late = globals()["told"](flow, 0.01, 1.0, 1.19)
    told_late(images(3), 1.0, 0.5)
    assert float(asked[1].max()) == 1.0


def test_guided_steps_ask_both_ways_and_look_at_the_labeled_half():
    torch.manual_seed(0)
    inner = networks.MLP(2, 3, width=8, depth=1).double()
    for parameter in inner.parameters():
        nn.init.normal_(parameter, std=0.3)
    net = MeanDirection(inner).double()
    nn.init.normal_(net.predictor.head.weight, std=0.3)
    x, label, asked = images(4, dims=2), torch.arange(4) % 3, []
    net.predictor.register_forward_hook(lambda module, given, output: asked.append((given[0], output)))
    found = guide(SolverMap(net), 1.7)(x, 0.9, 0.3, label)
    plain = guide(FlowMap(inner), 1.7)
    fraction, scale, time = asked[0][1]
    s = 0.9 + fraction * (0.3 - 0.9)
    x_s = x + like(s - 0.9, x) * plain.velocity(x, 0.9, label=label)
    by_hand = x + like(scale * (0.3 - 0.9), x) * plain.velocity(x_s, (time * s).clamp(max=1.0), label=label)
    torch.testing.assert_close(found, by_hand)
    SolverMap(net)(x, 0.9, 0.3, label)
    torch.testing.assert_close(asked[0][0], asked[1][0])


# ---------------------------------------------------------------- times, target, budgets


@pytest.mark.parametrize(("steps", "stops"), [(3, (3, 1)), (4, (4, 2, 0)), (7, (7, 5, 3, 1))])
@pytest.mark.parametrize("size", [1, 13, 96])
def test_rows_are_shared_equally_among_intervals(steps, stops, size):
    law = Intervals(steps)
    seen: dict[float, int] = {}
    for key in range(20):
        draw = law.draw(RowGenerator(key, "times", total=size), 0.5)
        assert draw.num_jumps == size and torch.equal(draw.s, draw.r) and (draw.t > draw.r).all()
        pairs = set(zip(draw.t.tolist(), draw.r.tolist(), strict=True))
        found = {(round(t * steps, 4), round(r * steps, 4)) for t, r in pairs}
        assert found <= set(pairwise(stops))
        counts = [int(((draw.t * steps - t).abs() < 1e-3).sum()) for t in stops[:-1]]
        assert max(counts) - min(counts) <= 1
        seen |= {t: 1 for t, _ in found}
    assert sorted(seen, reverse=True) == list(stops[:-1]), "a single row learns every interval in time"
    assert law.finest == pytest.approx(2 / steps) and law.solver_steps == steps


def test_intervals_of_noise_levels_are_those_of_the_grid():
    draw = Intervals(6, 0.002, 80.0).draw(RowGenerator(0, "times", total=9), 0.0)
    grid = samplers.grid(VEPath(), 3)
    assert sorted(set(draw.t.tolist()), reverse=True) == pytest.approx(grid[:-1])
    for steps in (2, 11):
        with pytest.raises(ValueError, match=f"steps={steps}.*3 to 10"):
            Intervals(steps)
    with pytest.raises(ValueError, match="low=1"):
        Intervals(4, 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 4, 5, 6])
@pytest.mark.parametrize("path", [LinearPath(), TrigPath(0.5), VPPath(), VEPath()], ids=repr)
def test_steps_are_held_against_a_fine_trajectory_from_the_same_noise(steps, path):
    """The target of each row is near where the exact flow is at r; the prediction starts where it is at t."""
    oracle = Gaussian(0.3, 0.5, path)
    times = Intervals(steps) if path.t_max <= 1 else Intervals(steps, path.t_min, path.t_max)
    objective = replace(
        methods.amed(steps),
        path=path,
        parameterization=Velocity(),
        times=times,
        target=LearnedSolver(substeps=64),
    ).for_run(10)
    objective, flow = objective.with_teacher(FlowMap.of(oracle, Velocity())), solver(oracle)
    data = torch.full((12, 3), 99.0, dtype=D)
    point = objective.draw(Batch(data), 3, 1)
    regression = objective.regress(flow, flow, point)
    top = torch.full((12,), path.t_max, dtype=D)
    start = path.prior(point.noise)
    t, r = point.t.clamp_min(path.t_min), point.r.clamp_min(path.t_min)
    wide = {"rtol": 2e-3, "atol": 2e-3}
    torch.testing.assert_close(regression.target, oracle(start, top, r), **wide)
    torch.testing.assert_close(regression.prediction, flow(oracle(start, top, t), t, r), **wide)
    assert regression.space == "map" and regression.prediction.requires_grad
    assert not regression.target.requires_grad
    loss = objective.per_sample(regression, point)
    torch.testing.assert_close(loss, (regression.prediction - regression.target).square().mean(1))


def test_the_teacher_is_asked_along_the_way_only_as_far_as_a_row_goes():
    oracle, asked = Gaussian(0.3, 0.5), []
    perfect = FlowMap.of(oracle, Velocity())

    def counting(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        asked.append((len(x), float(t[0])))
        return perfect.network(x, t, r, label)

    objective = replace(methods.amed(4), parameterization=Velocity(), target=LearnedSolver(substeps=3))
    objective = objective.with_teacher(perfect.with_network(counting)).for_run(10)
    flow = solver(oracle)
    point = objective.draw(Batch(images(10)), 0, 0)
    objective.regress(flow, flow, point)
    sixth = [1 - i / 12 for i in range(12)]
    assert [rows for rows, _ in asked] == [10] * 6 + [5] * 6
    assert [t for _, t in asked] == pytest.approx(sixth)


def test_a_row_does_not_depend_on_the_others():
    oracle, flow = Gaussian(0.3, 0.5), solver(Gaussian(0.3, 0.5))
    objective = replace(methods.amed(6), parameterization=Velocity()).for_run(10)
    objective = objective.with_teacher(FlowMap.of(oracle, Velocity()))
    point = objective.draw(Batch(images(12)), 0, 0)
    whole = objective.regress(flow, flow, point)
    for row in (0, 5):
        alone = objective.regress(flow, flow, point.rows(row, row + 1))
        torch.testing.assert_close(alone.target, whole.target[row : row + 1])
        torch.testing.assert_close(alone.prediction, whole.prediction[row : row + 1])


@pytest.mark.parametrize("path", [LinearPath(), VPPath()], ids=repr)
def test_odd_and_even_budgets_take_as_many_evaluations_as_they_say(path):
    oracle, asked = Gaussian(0.3, 0.5, path), []
    flow, objective = solver(oracle), replace(methods.amed(), path=path, parameterization=Velocity())
    original = flow.network.network

    def counting(x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        asked.append(float(t[0]))
        return original(x, t, r, label)

    flow.network.network = counting
    noise = images(3)
    for steps in (1, 2, 3, 4, 5, 10):
        asked.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = objective.sample(flow, noise, steps)
        assert len(asked) == steps == objective.nfe(steps) and made.shape == noise.shape
        assert asked == sorted(asked, reverse=True)
    assert objective.nfe(4, guidance=1.5) == 8
    asked.clear()
    with pytest.warns(UserWarning, match="trained for 4 uniform steps"):
        objective.sample(flow, noise, times=(1.0, 0.7, path.t_min))
    assert len(asked) == 4 == objective.nfe(2, times=(1.0, 0.7, path.t_min)) and asked[2] == pytest.approx(
        0.7
    )


def test_the_last_step_of_an_odd_budget_is_ddim():
    oracle, noise = Gaussian(0.3, 0.5), images(4)
    flow = solver(oracle)
    x = flow(noise, 1.0, 1 / 3)
    by_hand = x - oracle.velocity(x, torch.full((4,), 1 / 3, dtype=D)) / 3
    torch.testing.assert_close(samplers.solver(flow, noise, 3), by_hand)
    x = flow(noise, 1.0, 0.5)
    assert torch.equal(samplers.solver(flow, noise, 4), flow(x, 0.5, 0.0))
    assert torch.equal(samplers.solver(flow, noise, times=(1.0, 0.5, 0.0)), flow(x, 0.5, 0.0))


def test_the_budget_that_is_trained_is_said_by_the_times_alone():
    objective = methods.amed(5)
    assert objective.trained == (5,) and objective.advice(5) == []
    other = serialize.override(objective, "times.steps", "6")
    assert other.trained == (6,) and other.advice(6) == []
    assert other.advice(5) == ["AMED solver in 5 steps: it is trained for 6 uniform steps"]
    assert other.advice() == ["AMED solver in 1 step: it is trained for 6 uniform steps"]
    assert (
        report.usual_steps(other) == (1, 2, 4, 6, 128) and report.usual_steps(methods.amed()) == report.STEPS
    )
    assert methods.meanflow().trained is None and methods.progressive_distillation().trained == (1,)
    assert (objective.sampling.name(5), methods.meanflow().sampling.name(5)) == ("solver", "chain")
    for options in ({"evaluations": 3}, {"evaluations": 2, "renoise": 1.0}):
        with pytest.raises(ValueError, match=f"evaluations={options['evaluations']}"):
            Sampling(**options)


def test_samples_are_to_be_guided_as_the_steps_were_trained():
    plain, guided = methods.amed(), methods.amed(guidance=2.0)
    assert plain.advice(4, guidance=1.0) == guided.advice(4, guidance=2.0) == []
    assert plain.advice(4, guidance=2.0) == [
        "AMED solver: its steps are trained for guidance of scale 1, and samples with 2 are asked for"
    ]
    assert "of scale 2, and samples with 1" in guided.advice(4)[0]


def test_the_method_is_a_plain_value():
    for objective in (methods.amed(), methods.amed(7, guidance=1.5)):
        assert serialize.from_dict(serialize.to_dict(objective)) == objective and objective.needs_teacher
    assert methods.get("amed") == methods.amed(4)
    assert [citation.key for citation in methods.citations("amed")].count("zhou2023fast") == 1
    with pytest.raises(ValueError, match="substeps=1"):
        LearnedSolver(substeps=1)
    objective = methods.amed().for_run(20)
    flow = objective.flow_map(networks.MLP(2, width=8, depth=1))
    with pytest.raises(ValueError, match=r"objective\.with_teacher\(flow\)"):
        objective(flow, batch=Batch(torch.zeros(4, 2)))
    with pytest.raises(ValueError, match=r"networks\.MeanDirection\(network\)"):
        objective.with_teacher(flow)(flow, batch=Batch(torch.zeros(4, 2)))


def test_weights_that_mean_something_else_are_refused():
    with pytest.raises(ValueError, match="goes on from the weights of its teacher, which give Velocity"):
        methods.amed().with_teacher(FlowMap(networks.MLP(2), Velocity()))
    noise = replace(methods.amed(), path=VPPath(), parameterization=Noise())
    assert not noise.with_teacher(FlowMap(networks.MLP(2), Noise(), VPPath())).needs_teacher
    with pytest.raises(ValueError, match=r"use Intervals\(low=0.002, high=80"):
        replace(methods.amed(), path=VEPath())
    assert isinstance(methods.amed().parameterization, AverageVelocity) and LogNormal


# ---------------------------------------------------------------- runs


TINY = [("network.width", "16"), ("network.depth", "2"), ("online_share", "0")]


def cloud() -> Dataset:
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
    return Dataset("cloud", x, torch.arange(40) % 3, 3, kind="points")


def config(**options: object) -> runs.TrainConfig:
    """A run of 24 steps on points, the first 12 for a teacher of its own."""
    usual = {
        "steps": 24,
        "batch": 16,
        "log_every": 4,
        "sample_every": 0,
        "eval_num": 0,
        "checkpoint_every": 5,
    }
    settings = [*TINY, *options.pop("settings", [])]  # type: ignore[misc]
    return runs.configure("amed", cloud(), settings=settings, **{**usual, **options})


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def train(
    console: Console, settings: runs.TrainConfig | None, out: Path, **options: object
) -> runs.RunResult:
    return runs.train(settings, out, dataset=cloud(), console=console, **options)


def test_settings_of_the_network_reach_the_one_inside():
    chosen = runs.configure(
        "amed", "digits", settings=[("network.width", "32"), ("network.direction", "0.05")]
    )
    assert chosen.network["kind"] == "MeanDirection" and chosen.network["direction"] == 0.05
    assert chosen.network["network"]["width"] == 32 and chosen.network["network"]["image"] == [1, 8, 8]
    assert runs.configure("amed", "two-moons").network["network"]["kind"] == "MLP"
    named = runs.configure("amed", "digits", network="dit-tiny")
    assert named.network["network"]["width"] == 192
    again = runs.reconfigure(chosen, settings=[("network.depth", "3"), ("network.hidden", "64")])
    assert (again.network["network"]["depth"], again.network["hidden"]) == (3, 64)
    assert runs.reconfigure(chosen, network="dit-tiny").network == named.network
    with pytest.raises(ValueError, match="widht"):
        runs.configure("amed", settings=[("network.widht", "32")])
    assert runs.from_dict(json.loads(json.dumps(runs.to_dict(chosen)))) == chosen


@pytest.mark.slow
def test_a_run_trains_a_predictor_and_leaves_the_weights_of_its_teacher_alone(tmp_path: Path, quiet: Console):
    place = train(quiet, config(), tmp_path / "run").folder
    teacher, run = runs.load_run(place / "teacher"), runs.load_run(place)
    assert teacher.config.network == run.config.network["network"] and teacher.step == run.step == 12
    for weights in ("ema", "raw"):
        loaded = runs.load_run(place, weights).network
        for name, value in teacher.network.state_dict().items():
            assert torch.equal(loaded.network.state_dict()[name], value), f"{name} of {weights}"
        assert bool(loaded.predictor.head.weight.abs().max() > 0)
    assert runs.load_run(place).objective.nfe(4) == 4


@pytest.mark.slow
def test_the_folder_of_a_run_is_all_it_needs(tmp_path: Path, quiet: Console):
    taught = train(quiet, runs.configure(
        "flow_matching", cloud(), settings=TINY, steps=6, batch=16, eval_num=0, sample_every=0
    ), tmp_path / "teacher").folder  # fmt: skip
    settings = runs.configure(
        "amed",
        cloud(),
        teacher=taught,
        settings=[("online_share", "0")],
        steps=5,
        batch=16,
        eval_num=0,
        sample_every=0,
    )
    assert settings.network["network"] == runs.read_config(taught).network
    place = train(quiet, settings, tmp_path / "run").folder
    noise = torch.randn(6, 2)
    before = runs.load_run(taught)
    made = samplers.solver(runs.load_run(place).flow, noise, 4, label=torch.arange(6) % 3)
    for file in sorted(taught.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    again = runs.load_run(place)
    assert torch.equal(samplers.solver(again.flow, noise, 4, label=torch.arange(6) % 3), made)
    assert torch.equal(again.flow.velocity(noise, 0.5), before.flow.velocity(noise, 0.5))


@pytest.mark.slow
def test_a_teacher_of_another_network_is_refused(tmp_path: Path, quiet: Console):
    taught = train(quiet, runs.configure(
        "flow_matching", cloud(), settings=TINY, steps=4, batch=16, eval_num=0, sample_every=0
    ), tmp_path / "teacher").folder  # fmt: skip
    wider = config(teacher=taught, settings=[("network.width", "32")])
    with pytest.raises(ValueError, match="is asked for: leave out --network"):
        train(quiet, wider, tmp_path / "run")
    with pytest.raises(ValueError, match="not trained for the instantaneous velocity"):
        made = train(quiet, config(teacher=taught, steps=4), tmp_path / "solver").folder
        train(quiet, config(teacher=made, network="mlp", settings=TINY), tmp_path / "second")


@pytest.mark.slow
def test_interrupted_and_resumed_is_the_uninterrupted_run(tmp_path: Path, quiet: Console, monkeypatch):
    whole, place = train(quiet, config(), tmp_path / "whole").folder, tmp_path / "parts"
    original = loop.draw_batch
    for number, count in enumerate((7, 8)):  # in the teacher; in the student
        with monkeypatch.context() as patch:
            drawn = [0]

            def pressing(*given: Any, drawn: list[int] = drawn, count: int = count, **named: Any) -> object:
                drawn[0] += 1
                if drawn[0] == count:
                    signal.raise_signal(signal.SIGINT)
                return original(*given, **named)

            patch.setattr(loop, "draw_batch", pressing)
            stopped = train(quiet, None if number else config(), place, resume=number > 0)
        assert stopped.signal == signal.SIGINT
    assert train(quiet, None, place, resume=True).step == 12
    for name in ("network.safetensors", "ema.safetensors", "checkpoints/step-00000012/optimizer.safetensors"):
        assert (whole / name).read_bytes() == (place / name).read_bytes(), name


@pytest.mark.parametrize(
    ("steps", "substeps", "each"), [(4, 4, 15.0), (4, 2, 9.0), (3, 4, 11.0), (6, 4, 19.0)]
)
def test_cost_counts_the_trajectory_and_both_evaluations(steps, substeps, each):
    """The teacher to the end of the interval of a row, one evaluation without a graph, one with one to its input."""
    settings = [("times.steps", str(steps)), ("target.substeps", str(substeps))]
    assert runs.cost(config(batch=96, settings=settings)) == each


def test_objectives_of_points_and_images_train(tmp_path: Path):
    for inner in (
        networks.MLP(3, 3, width=8, depth=1),
        networks.DiT((1, 4, 4), 3, width=16, depth=1, heads=2),
    ):
        for parameter in inner.parameters():
            nn.init.normal_(parameter, std=0.2)
        objective: Objective = methods.amed().for_run(20).with_teacher(FlowMap(inner))
        flow = objective.flow_map(MeanDirection(inner))
        shape = (3,) if isinstance(inner, networks.MLP) else (1, 4, 4)
        objective(flow, batch=Batch(torch.zeros(8, *shape), torch.arange(8) % 3)).mean().backward()
        assert all(weight.grad is None for weight in inner.parameters())
        assert all(weight.grad is not None for weight in flow.network.predictor.parameters())
    assert Teacher().guidance is None
