"""Truncated consistency models: two stages in one network, targets on the boundary, runs, refusals."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from flowleap import FlowMap, methods, networks, runs, samplers, serialize
from flowleap.data import Dataset
from flowleap.evaluation import diagnosis
from flowleap.losses import Boundary, Norm, Squared
from flowleap.networks import Truncated
from flowleap.objectives import EMA, FirstStage, Self
from flowleap.oracles import Gaussian
from flowleap.parameterization import Endpoint
from flowleap.paths import VEPath
from flowleap.point import Batch, Point, Regression
from flowleap.randomness import RowGenerator
from flowleap.runs import teachers
from flowleap.studies import plan
from flowleap.times import StudentT, Truncation
from flowleap.velocities import VelocitySource

D = torch.float64
TINY = [("network.width", "8"), ("network.depth", "1"), ("online_share", "0")]


def mlp(seed: int = 0, classes: int | None = 3) -> nn.Module:
    torch.manual_seed(seed)
    network = networks.MLP(2, classes, width=8, depth=1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    return network.double()


def levels(*t: float) -> Tensor:
    return torch.tensor(t, dtype=D)


# ---------------------------------------------------------------- the network


def test_each_row_is_answered_by_the_stage_of_its_time():
    network = Truncated(mlp(0), 1.0)
    network.first.load_state_dict(mlp(1).state_dict())
    x, label = torch.randn(6, 2, dtype=D), torch.arange(6) % 3
    t = levels(0.5, 1.0, 2.0, 0.999, 80.0, 0.01)
    found = network(x, t, t, label)
    for row, level in enumerate(t.tolist()):
        stage = network.network if level >= 1 else network.first
        one = slice(row, row + 1)
        torch.testing.assert_close(found[one], stage(x[one], t[one], t[one], label[one]))
    assert torch.equal(network(x, t, t), network(x, t, t, None)) and network.num_classes == 3
    for each in (levels(*[2.0] * 6), levels(*[0.2] * 6)):
        stage = network.network if each[0] > 1 else network.first
        torch.testing.assert_close(network(x, each, each, label), stage(x, each, each, label))
    single = torch.tensor([1.3], dtype=torch.float32).to(D)
    assert torch.equal(
        Truncated(network.network, 1.3)(x[:1], single, single), network.network(x[:1], single, single)
    )


def test_no_gradient_runs_through_the_first_stage():
    network = Truncated(mlp(), 1.0)
    x = torch.randn(4, 2, dtype=D, requires_grad=True)
    t = levels(0.5, 1.0, 2.0, 0.1)
    network(x, t, t).square().sum().backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in network.first.parameters())
    assert any(bool(weight.grad.any()) for weight in network.network.parameters() if weight.grad is not None)
    assert x.grad is not None and not bool(x.grad[[0, 3]].any()) and bool(x.grad[[1, 2]].any())
    assert not network(x, levels(*[0.5] * 4), levels(*[0.5] * 4)).requires_grad


def test_a_network_of_two_stages_is_built_again_from_its_config_and_its_state():
    network = Truncated(networks.NoiseTime(mlp()), 2.0)
    network.first.load_state_dict(networks.NoiseTime(mlp(5)).state_dict())
    twin = networks.build(network.config).double()
    assert (
        twin.config
        == network.config
        == {"kind": "Truncated", "network": network.network.config, "boundary": 2.0}
    )
    twin.load_state_dict(network.state_dict())
    x, t = torch.randn(4, 2, dtype=D), levels(0.5, 1.0, 2.0, 30.0)
    assert torch.equal(twin(x, t, t), network(x, t, t))
    weights = mlp(7).state_dict()
    networks.take_over(staged := Truncated(mlp()), weights)
    for stage in (staged.network, staged.first):
        assert all(torch.equal(stage.state_dict()[name], weight) for name, weight in weights.items())
    assert networks.inside(staged) is staged.network
    with pytest.raises(ValueError, match="boundary=0"):
        Truncated(mlp(), 0.0)
    heads = Truncated(networks.WithLogVariance(mlp(), 8).double())
    assert heads.log_variance(t, t).shape == (4,) and not hasattr(Truncated(mlp()), "log_variance")


# ---------------------------------------------------------------- the objective


def ready(**changes: object):
    objective = replace(methods.tcm(), **changes)
    stage = mlp(1)
    objective = objective.with_teacher(objective.flow_map(stage.requires_grad_(False)))
    return objective, objective.flow_map(mlp(2)), stage


def test_targets_below_the_boundary_come_from_the_first_stage():
    """Rows on t' and a little above it step below it; the others are held to the network as it stands."""
    objective, flow, stage = ready()
    data = Batch(torch.randn(64, 2, dtype=D), torch.arange(64) % 3)
    point = objective.draw(data, 0, 0)
    assert int((point.t == 1).sum()) == 16 and float(point.t.min()) == 1 and bool((point.r == 0).all())
    assert bool((point.s[point.t == 1] < 1).all()) and bool((point.s >= 1).any())
    regression = objective.regress(flow, None, point)
    x_s = point.x + point.s[:, None] * point.noise
    first = flow.with_network(stage)(x_s, point.s, point.r, point.label)
    own = flow(x_s, point.s, point.r, point.label).detach()
    lower = (point.s < 1)[:, None]
    torch.testing.assert_close(regression.target, torch.where(lower, first, own))
    torch.testing.assert_close(regression.prediction, flow(point.x_t, point.t, point.r, point.label))
    objective.per_sample(regression, point).mean().backward()
    assert all(weight.grad is None for weight in stage.parameters())
    whole = flow.with_network(Truncated(flow.network))
    whole.network.first.load_state_dict(stage.state_dict())
    torch.testing.assert_close(objective.regress(whole, None, point).target, regression.target)


@dataclass(frozen=True)
class ExactStep(VelocitySource):
    """The velocity whose step t → s is exact, v = (X_{t→s}(x_t) − x_t)/(s − t) on this path."""

    oracle: Gaussian

    def __call__(self, point: Point, flow: FlowMap | None = None) -> Tensor:
        return (self.oracle(point.x_t, point.t, point.s) - point.x_t) / (point.s - point.t)[:, None]


def test_exact_stages_are_a_fixed_point_and_a_spoilt_first_stage_is_not():
    oracle = Gaussian(0.4, 0.6, methods.tcm().path)
    exact = FlowMap.of(oracle, methods.tcm().parameterization)
    objective = replace(methods.tcm(), conditioning="t,r", velocity=ExactStep(oracle))
    objective = objective.with_teacher(exact)
    data = Batch(torch.randn(64, 2, dtype=D, generator=torch.Generator().manual_seed(0)))
    point = objective.draw(data, 0, 0)
    found = objective.regress(exact, None, point)
    torch.testing.assert_close(found.prediction, found.target, rtol=1e-8, atol=1e-8)
    wrong = exact.with_network(lambda x, t, r, label: exact.network(x, t, r, label) + 0.1)
    spoilt = replace(objective, frozen=FirstStage()).with_teacher(wrong)
    apart = spoilt.regress(exact, None, point).raw > 1e-6
    assert torch.equal(apart, point.s < 1), "only rows that step below the boundary ask the first stage"


@pytest.mark.parametrize(("size", "rows"), [(96, 24), (64, 16), (5, 1)])
def test_the_share_of_rows_on_the_boundary_is_fixed(size, rows):
    for seed in range(3):
        draw = Truncation().draw(RowGenerator(seed, "times", total=size), 0.0)
        assert int((draw.t == 1).sum()) == rows and draw.num_jumps == size
        assert bool((draw.s < draw.t).all()) and bool((draw.r == 0).all())
    drawn = [
        int((Truncation().draw(RowGenerator(i, "times", total=2), 0.0).t == 1).sum()) for i in range(400)
    ]
    assert sum(drawn) / 800 == pytest.approx(0.25, abs=0.06), "by chance where there is no whole one"


def test_the_weight_of_the_boundary_is_that_of_a_set():
    objective, _, _ = ready()
    t = levels(1.0, 1.0, 2.0, 3.0, 4.0)
    x = torch.zeros(5, 2, dtype=D)
    point = objective.point(x, x, t, 0.9 * t, 0 * t)
    regression = Regression(torch.arange(10, dtype=D).reshape(5, 2), torch.zeros(5, 2, dtype=D), space="map")
    inner = Norm()
    plain = inner(regression, point)
    found = Boundary(inner, 1.0, share=0.4, weight=0.1)(regression, point)
    assert float(found.mean()) == pytest.approx(float(plain[2:].mean() + 0.1 * plain[:2].mean()))
    alone = objective.point(x[:2], x[:2], t[:2], 0.9 * t[:2], 0 * t[:2])
    part = Regression(regression.prediction[:2], regression.target[:2], space="map")
    alike = Boundary(inner, share=0.4)(part, alone)
    torch.testing.assert_close(alike, found[:2], msg="a row weighs the same whoever shares its process")


def test_the_method_is_a_plain_value_and_says_what_it_waits_for():
    objective = methods.tcm()
    assert serialize.from_dict(json.loads(json.dumps(serialize.to_dict(objective)))) == objective
    assert objective.needs_teacher and objective.starts_from_teacher and objective.taught_by == "ect"
    assert methods.esc().taught_by == methods.consistency_distillation().taught_by == "flow_matching"
    taught, _, _ = ready()
    assert (
        not taught.needs_teacher
        and taught.with_teacher(FlowMap(mlp(), taught.parameterization, taught.path, "t")) == taught
    )
    stage = methods.get(objective.taught_by)
    for name in ("path", "parameterization", "conditioning", "target", "sampling"):
        assert getattr(stage, name) == getattr(objective, name), name
    assert stage.loss == objective.loss.inner, (
        "a stage and the next differ in times, in targets below t', in weight"
    )
    assert methods.tcm(2.0).times.boundary == methods.tcm(2.0).loss.boundary == 2.0
    keys = [paper.key for paper in methods.citations("tcm")]
    assert "lee2024truncated" in keys and "geng2024consistency" in keys


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: replace(methods.tcm(), frozen=Self()), r"above 1 only.*frozen=FirstStage\(\).*with_teacher"),
        (lambda: replace(methods.tcm(), frozen=EMA()), r"frozen=FirstStage\(\)"),
        (
            lambda: replace(methods.get("ect"), frozen=FirstStage(), starts_from_teacher=True),
            r"Ratio has none: use times=Truncation\(\)",
        ),
        (
            lambda: replace(methods.tcm(), times=Truncation(StudentT(low=2.0))),
            r"Boundary\(boundary=1\).*which is 2",
        ),
        (
            lambda: replace(methods.meanflow(), loss=Boundary(Squared())),
            r"boundary of the times, which is none",
        ),
        (lambda: replace(methods.tcm(), starts_from_teacher=False), "use starts_from_teacher=True"),
        (
            lambda: replace(methods.tcm(), path=VEPath(t_min=0.0, t_max=50.0)),
            r"use VEPath\(t_min=0.0, t_max=80\)",
        ),
        (lambda: replace(methods.tcm(), times=Truncation(StudentT(high=500.0))), r"t_max=500\)"),
        (lambda: replace(methods.tcm(), times=Truncation(share=0.5)), "give both the same"),
        (lambda: Boundary(share=0.0), "share=0"),
        (lambda: Truncation(share=1.0), r"share=1"),
        (lambda: Truncation(ratio=1.0), r"ratio=1"),
        (lambda: StudentT(df=0.0), r"df=0"),
        (lambda: StudentT(low=80.0), r"0 < low < high"),
        (lambda: Boundary(weight=0.0), r"weight=0"),
    ],
)
def test_nonsense_is_refused_at_construction(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_second_stage_without_a_first_is_refused_with_the_way_out():
    objective, data = methods.tcm(), Batch(torch.zeros(8, 2))
    flow = objective.flow_map(mlp().float())
    with pytest.raises(
        ValueError, match=r"finished first stage below it, and none is given.*with_teacher\(flow\)"
    ):
        objective(flow, batch=data)
    with pytest.raises(ValueError, match="give both the same, as a run of ect has"):
        objective.with_teacher(FlowMap(mlp(), Endpoint(), objective.path, "t"))
    with pytest.raises(ValueError, match=r"conditioning='t'.*first stage 't,r'"):
        objective.with_teacher(replace(flow, conditioning="t,r"))
    with pytest.raises(ValueError, match="on the same path"):
        objective.with_teacher(FlowMap(mlp()))


# ---------------------------------------------------------------- runs


def cloud() -> Dataset:
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
    return Dataset("cloud", x, torch.arange(40) % 3, 3, kind="points")


def config(method: str = "tcm", **options: object) -> runs.TrainConfig:
    usual = {
        "steps": 24,
        "batch": 16,
        "log_every": 4,
        "sample_every": 0,
        "eval_num": 0,
        "checkpoint_every": 5,
    }
    settings = [*TINY, *options.pop("settings", [])]  # type: ignore[misc]
    return runs.configure(method, cloud(), settings=settings, **{**usual, **options})  # type: ignore[arg-type]


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def train(
    console: Console, settings: runs.TrainConfig | None, out: Path, **options: object
) -> runs.RunResult:
    return runs.train(settings, out, dataset=cloud(), console=console, **options)  # type: ignore[arg-type]


def test_the_network_of_a_run_is_in_two_stages_at_the_boundary():
    wrapped = config(
        settings=[("times.law.low", "2"), ("loss.boundary", "2"), ("network.width", "12")]
    ).network
    assert (wrapped["kind"], wrapped["boundary"]) == ("Truncated", 2.0)
    assert wrapped["network"]["kind"] == "NoiseTime" and wrapped["network"]["network"]["width"] == 12
    own = runs.phases(config(), 40)
    assert [(phase.name, phase.steps) for phase in own] == [("teacher", 12), ("student", 12)]
    assert own[0].text == "ect, 12 of 24 steps, into teacher/"
    assert runs.cost(config()) == pytest.approx(4.0), "one pass with a gradient, and one of either stage"


@pytest.mark.slow
def test_both_stages_in_one_run(quiet, tmp_path):
    """The first half is the first stage, from whose average both begin; samples need no teacher any more."""
    place = train(quiet, config(), tmp_path / "run").folder
    stage = runs.load_run(place / "teacher")
    assert (stage.config.method, stage.config.network["kind"]) == ("ect", "NoiseTime")
    run = runs.load_run(place)
    first, weights = run.network.first.state_dict(), stage.network.state_dict()
    assert all(torch.equal(first[name], weight) for name, weight in weights.items()), (
        "averages leave it bit for bit"
    )
    assert any(
        not torch.equal(run.network.network.state_dict()[name], weight) for name, weight in weights.items()
    )
    (place / "teacher").rename(tmp_path / "gone")
    alone = runs.load_run(place)
    noise = samplers.noise(0, range(5), (2,))
    one, two = (alone.objective.sample(alone.flow, noise, n, label=torch.arange(5) % 3) for n in (1, 2))
    assert bool(one.isfinite().all()) and bool(two.isfinite().all()) and not torch.equal(one, two)
    low = alone.flow(noise * 0.5, 0.5, 0.0)
    torch.testing.assert_close(low, stage.flow(noise * 0.5, 0.5, 0.0))
    timed = alone.objective.sample(alone.flow, noise, times=(80.0, 0.8, 0.0))
    assert bool(timed.isfinite().all())
    found = diagnosis.diagnose(alone.flow, alone.objective, cloud(), num=64, batch=20)
    assert found.error is not None


@pytest.mark.slow
def test_with_a_finished_first_stage_it_resumes_bit_for_bit(quiet, tmp_path):
    stage = train(quiet, config("ect", steps=10), tmp_path / "stage").folder
    settings = config(teacher=stage, steps=20)
    whole = train(quiet, settings, tmp_path / "whole").folder

    class After:
        signal = None

        def __init__(self) -> None:
            self.left = 8

        def __enter__(self) -> After:
            return self

        def __exit__(self, *error: object) -> None: ...

        def __call__(self) -> bool:
            self.left -= 1
            return self.left <= 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowleap.runs.trainer.Interruption", After)
        part = train(quiet, settings, tmp_path / "part")
    assert part.step == 8
    train(quiet, None, tmp_path / "part", resume=True)
    for weights in ("raw", "ema"):
        one, other = (
            runs.load_run(place, weights).network.state_dict() for place in (whole, tmp_path / "part")
        )
        assert all(torch.equal(one[name], other[name]) for name in one), weights


@pytest.mark.slow
def test_teachers_that_are_no_first_stage_are_refused(quiet, tmp_path):
    flow = train(quiet, config("flow_matching", steps=4), tmp_path / "flow").folder
    with pytest.raises(ValueError, match=r"lives on VEPath.*but its teacher on LinearPath"):
        train(quiet, config(teacher=flow), tmp_path / "run")
    edm = [("path", '{"type": "VEPath", "t_min": 0.0}'), ("parameterization", "EDM"), ("conditioning", "t"),
           ("times.law", '{"type": "LogNormal"}')]  # fmt: skip
    diffusion = train(quiet, config("flow_matching", steps=4, settings=edm), tmp_path / "edm").folder
    with pytest.raises(ValueError, match=r"not trained to go to the data in one step.*give a run of ect"):
        train(quiet, config(teacher=diffusion), tmp_path / "run")
    stage = train(quiet, config("ect", steps=4), tmp_path / "stage").folder
    with pytest.raises(ValueError, match=r"network of .* has .* is asked for: leave out --network"):
        train(quiet, config(teacher=stage, settings=[("network.width", "12")]), tmp_path / "run")
    with pytest.raises(ValueError, match="not trained for the instantaneous velocity"):
        teachers.find(config("reflow", teacher=stage, settings=edm), cloud())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_comparison_counts_the_first_stage_as_what_it_is(tmp_path):
    request = plan.Request(
        ("tcm", "flow-matching"), data="two-moons", budget="200 steps", settings=tuple(TINY[:2])
    )
    dataset = runs.run.data_sets.load("two-moons")
    rows = {row.method: row for row in plan.resolve(request, dataset).rows}
    assert rows["tcm"].config.schedule.steps == 200
    assert [bill.per_image for bill in runs.bill(rows["tcm"].config, 100)] == pytest.approx(
        [4.0, 4.0], abs=0.3
    )
