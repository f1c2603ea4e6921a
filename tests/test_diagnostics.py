"""Diagnoses: exact flows are healthy and have the numbers of closed forms; every planted fault has its finding."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from flowleap import data, methods, networks, pictures, runs
from flowleap.cli import diagnose as command
from flowleap.cli.group import OneLine
from flowleap.evaluation import diagnosis
from flowleap.evaluation.diagnosis import diagnose, judge_run, run_facts
from flowleap.flow_map import FlowMap
from flowleap.oracles import Gaussian
from flowleap.parameterization import EDM, AverageVelocity
from flowleap.paths import TrigPath, VEPath, VPPath
from flowleap.point import Batch
from flowleap.times import LogNormal, SortedPair, Uniform

WIDTH, CLASSES, DIMS = 0.5, 4, 6


def means() -> torch.Tensor:
    """One mean for each class, and one for the null class."""
    return torch.randn(CLASSES + 1, DIMS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def blobs(width: float = WIDTH, dtype: torch.dtype = torch.float64) -> data.Dataset:
    label = torch.arange(2000) % CLASSES
    noise = torch.randn(2000, DIMS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (means()[label] + width * noise).to(dtype)
    return data.Dataset("blobs", x, label, CLASSES, kind="points")


def cloud(width: float = 0.6, mean: float = 0.3) -> data.Dataset:
    noise = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return data.Dataset("cloud", mean + width * noise, kind="points")


class Perfect(nn.Module):
    """What a network trained without end answers on the blobs: the exact average velocity of its class."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, t, r, label=None):
        centers = means().to(x)[torch.full((len(x),), CLASSES) if label is None else label]
        return self.gain * FlowMap.of(Gaussian(centers, WIDTH)).network(x, t, r, None)


class Faulty(Perfect):
    """The perfect network with a fault, a function of (network, x, t, r, label)."""

    def __init__(self, fault) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x, t, r, label=None):
        return self.fault(super().forward, x, t, r, label)


def method(name: str = "meanflow", **changes):
    return replace(methods.get(name), label_dropout=0.0, **changes)


def examine(network, objective=None, dataset=None, num=512, **rest) -> diagnosis.Diagnosis:
    objective = method() if objective is None else objective
    dataset = blobs() if dataset is None else dataset
    return diagnose(objective.flow_map(network), objective, dataset, num=num, **rest)


def titles(found: diagnosis.Diagnosis) -> list[str]:
    """The titles of what is not a mere note."""
    return [finding.title for finding in found.findings if finding.severity != "note"]


@pytest.fixture(scope="module")
def healthy() -> diagnosis.Diagnosis:
    return examine(Perfect())


# ---------------------------------------------------------------- exact flows


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meanflow", "flow_matching", "esc_unweighted", "shortcut"])
def test_a_perfect_network_is_healthy(name):
    objective = method("esc", loss=methods.meanflow().loss) if name == "esc_unweighted" else method(name)
    assert titles(examine(Perfect(), objective)) == []


@pytest.mark.parametrize("width", [1.0, 0.5, 0.1, 0.02])
@pytest.mark.parametrize("name", ["meanflow", "shortcut", "flow_matching"])
def test_exact_flows_of_wide_and_narrow_data_are_healthy(name, width):
    found = diagnose(FlowMap.of(Gaussian(0.3, width)), method(name), cloud(width), num=256)
    assert titles(found) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "meaning", "times"),
    [
        (VEPath(), EDM(), SortedPair(LogNormal())),
        (TrigPath(), AverageVelocity(), SortedPair(Uniform())),
        (VPPath(), AverageVelocity(), SortedPair(Uniform())),
    ],
)
def test_exact_flows_of_other_paths_are_healthy_and_agree_with_themselves(path, meaning, times):
    objective = method(path=path, parameterization=meaning, times=times)
    found = diagnose(FlowMap.of(Gaussian(0.3, 0.6, path), meaning), objective, cloud(), num=512)
    assert titles(found) == []
    assert found.semigroup.overall <= 1e-8
    assert all(value <= 1e-8 for value in found.semigroup.by_time.value)
    assert found.error.diagonal.edges[0] == pytest.approx(path.t_min)
    assert found.error.diagonal.edges[-1] == pytest.approx(path.t_max)


@pytest.mark.slow
def test_the_semigroup_residual_of_an_exact_flow_vanishes():
    found = diagnose(FlowMap.of(Gaussian(0.3, 0.6)), method(), cloud(), num=512).semigroup
    for curve in (found.by_time, found.by_span, found.to_data):
        assert all(value <= 1e-8 for value in curve.value if value is not None)
    assert max(found.overall, found.short, found.long) <= 1e-8
    assert sum(found.by_time.count) == 512 and sum(found.by_span.count) == 1024


@pytest.mark.slow
def test_the_semigroup_residual_of_euler_steps_is_the_closed_form():
    """u(x, t, r) = x: X_{t→r} = (1 + r − t) x, two jumps leave (t − s)(s − r) x, the jump is (t − r) x long."""
    flow = FlowMap(lambda x, t, r, label: x)
    found = diagnose(flow, method("flow_matching"), cloud(), num=4096).semigroup
    # for r = 0 and s uniform below t: E[(t − s)² s²]/t² = t²/30
    # each row counts by the square of the length of its jump, t x
    for index, value in enumerate(found.to_data.value):
        t = torch.linspace(index / 10, (index + 1) / 10, 101, dtype=torch.float64)
        weight = t.square() * ((0.6 * (1 - t)).square() + t.square() + (0.3 * (1 - t)).square())
        expected = ((t.square() / 30 * weight).sum() / weight.sum()).sqrt()
        assert value == pytest.approx(float(expected), rel=0.1)


@pytest.mark.slow
def test_the_raw_error_of_an_exact_flow_is_the_irreducible_variance():
    oracle = Gaussian(0.3, 0.6)
    objective = method("flow_matching")
    curve = diagnose(FlowMap.of(oracle), objective, cloud(), num=4096, batch=256).error.diagonal
    assert sum(curve.count) == 4096
    for low, high, count, value, error in zip(
        curve.edges, curve.edges[1:], curve.count, curve.value, curve.error, strict=False
    ):
        if count >= 30:
            inside = torch.linspace(low, high, 50, dtype=torch.float64)
            variance = oracle.velocity_variance(inside)
            slack = 5 * error
            assert float(variance.min()) - slack < value < float(variance.max()) + slack


@pytest.mark.slow
def test_the_raw_error_of_jumps_is_the_irreducible_variance_carried_to_the_landing():
    """The residual of the MeanFlow identity is ∇X_{t→r}(v_c − v), and ∇X = s_r/s_t for a Gaussian."""
    oracle, t, r = Gaussian(0.3, 0.6), 0.55, 0.25
    law = SortedPair(Uniform(t, t + 1e-4), diagonal=0.25, landing=Uniform(r, r + 1e-4))
    error = diagnose(FlowMap.of(oracle), method(times=law), cloud(), num=4096, batch=256).error
    time, landing = torch.tensor([t]), torch.tensor([r])
    variance = float(oracle.velocity_variance(time))
    carried = variance * float(oracle.scale(landing) / oracle.scale(time)) ** 2
    assert error.diagonal.count[5] == 1024 and error.jumps.count[5] == 3072
    assert error.diagonal.value[5] == pytest.approx(variance, abs=5 * error.diagonal.error[5])
    assert error.jumps.value[5] == pytest.approx(carried, abs=5 * error.jumps.error[5])
    assert error.share == 0.25
    assert error.ratio == pytest.approx(error.diagonal.value[5] / error.jumps.value[5])
    assert error.behind == pytest.approx(1.0, abs=0.03)


@pytest.mark.slow
def test_the_tangent_of_an_exact_flow_is_the_closed_form():
    """v = a(t) x for a centered Gaussian, so that dv/dt = (a' + a²) x along the flow."""
    oracle = Gaussian(0.0, 0.6)
    found = diagnose(FlowMap.of(oracle), method("flow_matching"), cloud(mean=0.0), num=2048).tangent
    assert found.strategy == "exact JVP" and found.gap < 0.01
    for index, value in enumerate(found.relative.value):
        t = torch.linspace(index / 10, (index + 1) / 10, 101, dtype=torch.float64).requires_grad_()
        rate = oracle.velocity(torch.ones(101, 1, dtype=torch.float64), t)[:, 0]
        slope = torch.autograd.grad(rate.sum(), t)[0]
        size = oracle.scale(t).square()
        ratio = ((slope + rate.square()).square() * size).sum() / (rate.square() * size).sum()
        expected = ratio.sqrt().detach()
        assert value == pytest.approx(float(expected), rel=0.06)
    assert all(
        m <= p <= top
        for m, p, top in zip(found.median.value, found.p95.value, found.largest.value, strict=True)
    )


@pytest.mark.slow
def test_samples_of_an_exact_flow_have_the_variance_of_the_data(healthy):
    one, many = healthy.spread
    assert (one.steps, many.steps) == (1, 16)
    assert one.spread == pytest.approx(1.0, abs=0.1) and one.diversity == pytest.approx(1.0, abs=0.1)
    assert one.offset < 0.05 and one.gap < 1e-5 and many.gap is None


@pytest.mark.slow
def test_the_gradient_norm_is_that_of_backward():
    objective, dataset, network = method(), blobs(), Perfect()
    with torch.no_grad():
        network.gain.fill_(0.7)
    norms = []
    for step in range(1, 9):
        batch = dataset.x[objective.batching.indices(dataset.label, 2000, 96, step, 3)]
        label = dataset.label[objective.batching.indices(dataset.label, 2000, 96, step, 3)]
        network.gain.grad = None
        objective(objective.flow_map(network), None, Batch(batch, label), step, 3).mean().backward()
        norms.append(network.gain.grad.abs())
    found = examine(network, objective, dataset, seed=3).gradient
    assert found.mean == pytest.approx(float(torch.stack(norms).mean()), rel=1e-5)
    assert found.largest == pytest.approx(float(torch.stack(norms).max()), rel=1e-5)
    assert found.spread == pytest.approx(
        float(torch.stack(norms).std() / torch.stack(norms).mean()), rel=1e-4
    )


# ---------------------------------------------------------------- planted faults


def ignores_t(network, x, t, r, label):
    return network(x, torch.ones_like(t), r, label)


def ignores_times(network, x, t, r, label):
    half = torch.full_like(t, 0.5)
    return network(x, half, half, label)


def ignores_r(network, x, t, r, label):
    return network(x, t, t, label)


def ignores_label(network, x, t, r, label):
    """The flow of one Gaussian in the place of all classes."""
    x_0 = blobs().x
    whole = Gaussian(x_0.mean(0), float(x_0.var(0).mean().sqrt()))
    return FlowMap.of(whole).network(x, t, r, None) + 0 * network(x, t, r, label)


def rough(network, x, t, r, label):
    return network(x, t, r, label) + 0.05 * torch.sin(1000 * t)[:, None]


def steep_at_the_noise(network, x, t, r, label):
    return network(x, t, r, label) * (1 + torch.exp((t - 1) / 0.01))[:, None]


def steep_at_the_data(network, x, t, r, label):
    return network(x, t, r, label) * (1 + 3 * torch.exp(-t / 0.003))[:, None]


def collapsed(network, x, t, r, label):
    """Jumps all the way land on the mean of the class."""
    centers = means().to(x)[label]
    mean = (x - centers) / (t - r).clamp_min(1e-3)[:, None]
    return torch.where(((t > 0.8) & (r < 0.02))[:, None], mean, network(x, t, r, label))


def astray_at_the_end(network, x, t, r, label):
    """Jumps that land at r = 0 exactly go elsewhere; all others are right."""
    return torch.where((r == 0)[:, None], -network(x, t, r, label), network(x, t, r, label))


def no_flow(network, x, t, r, label):
    """Jumps of every length that do not follow one another."""
    off = torch.where(t - r > 1e-6, 1.5 * torch.sin(9 * (t + 2 * r)), 0 * t)
    return network(x, t, r, label) * (1 + off)[:, None]


def no_diagonal(network, x, t, r, label):
    """The rows r = t answer what the network was born with."""
    return torch.where((t - r < 1e-6)[:, None], torch.sin(3 * x), network(x, t, r, label))


def scattered(network, x, t, r, label):
    return 0.2 * network(x, t, r, label)


FAULTS = [
    (ignores_t, "Time t is ignored"),
    (ignores_r, "Landing time r is ignored"),
    (ignores_r, "Collapsed r = 0: one-step samples lack variety"),
    (ignores_label, "Label is ignored"),
    (rough, "Time scale too large: the derivative is rough"),
    (steep_at_the_noise, "Tangent blow-up near t = 1"),
    (steep_at_the_data, "Tangent blow-up near t = 0"),
    (collapsed, "Collapsed r = 0: one-step samples lack variety"),
    (astray_at_the_end, "Collapsed r = 0: jumps to the data contradict themselves"),
    (no_flow, "Jumps contradict themselves"),
    (no_diagonal, "Too little r = t"),
    (scattered, "One-step samples are scattered"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "title"), FAULTS, ids=lambda v: getattr(v, "__name__", None))
def test_a_planted_fault_has_its_finding(healthy, fault, title):
    assert title not in titles(healthy)
    assert any(found.startswith(title) for found in titles(examine(Faulty(fault))))


@pytest.mark.slow
def test_a_class_mean_is_called_one():
    text = next(f.text for f in examine(Faulty(collapsed)).findings if "lack variety" in f.title)
    assert "collapse to the mean of their class" in text


@pytest.mark.slow
@pytest.mark.parametrize("fault", [ignores_times, rough, steep_at_the_noise, ignores_label])
def test_a_fault_of_a_method_without_jumps_has_its_finding_too(fault):
    title = dict(FAULTS).get(fault, "Time t is ignored")
    assert title in titles(examine(Faulty(fault), method("flow_matching")))


@pytest.mark.slow
def test_one_step_of_flow_matching_is_not_accused():
    """One Euler step ends at the class mean, by right: its map is trained on its diagonal only."""
    found = examine(Perfect(), method("flow_matching"))
    assert found.spread[0].spread < 0.01
    assert titles(found) == []
    note = next(f for f in found.findings if f.title == "Trained on r = t only")
    assert "16 steps" in note.text
    assert found.error.jumps is None and found.sensitivity.landing is None


@pytest.mark.slow
def test_a_perfect_consistency_model_is_not_accused_of_knowing_one_time():
    """Its jumps to the data are exact; that it answers alike for every r, and has no velocity, is by design."""

    def to_data(network, x, t, r, label):
        return network(x, t, torch.zeros_like(t), label)

    found = examine(Faulty(to_data), method("consistency_training"), seed=1)
    assert titles(found) == [] and found.error.share == 0
    assert "Conditioned on t only" in [finding.title for finding in found.findings]
    told = replace(found, settings={**found.settings, "conditioning": "t,r"})
    accused = [finding.title for finding in diagnosis.judge(told)]
    assert "Landing time r is ignored" in accused and "Conditioned on t only" not in accused


@pytest.mark.slow
def test_means_of_a_consistency_model_are_not_laid_to_a_second_time():
    """It knows no r and has no rows r = t: what helps is shorter steps."""
    found = examine(Faulty(collapsed), method("consistency_training"))
    text = next(f.text for f in found.findings if "lack variety" in f.title)
    assert "while those steps are long" in text and "r < t" not in text


@pytest.mark.slow
def test_no_rows_with_r_equal_to_t_are_noticed():
    """A share of 0 draws none; the diagonal is measured all the same."""
    law = SortedPair(diagonal=0.0)
    found = examine(Faulty(no_diagonal), method(times=law))
    assert found.error.share == 0 and sum(found.error.diagonal.count) >= 512
    finding = next(f for f in found.findings if f.title.startswith("Too little r = t"))
    assert finding.severity == "problem" and "times.diagonal" in finding.text
    note = next(f for f in examine(Perfect(), method(times=law)).findings if "r = t" in f.title)
    assert (note.severity, note.title) == ("note", "Few rows with r = t")


@pytest.mark.slow
def test_a_network_that_multiplies_its_times_by_a_thousand_is_rough_and_told_so():
    gaps = {}
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        network = networks.DiT((1, 4, 4), 3, width=32, depth=1, heads=2, time_scale=scale)
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.2)
        x = torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        dataset = data.Dataset("noise", x, torch.arange(200) % 3, 3)
        found = examine(network, dataset=dataset, num=128)
        gaps[scale] = found.tangent.gap
        assert found.settings["time_scale"] == scale
    assert gaps[1.0] < 0.05 and gaps[1000.0] > 0.5
    told = examine(Faulty(rough))
    spoken = diagnosis.judge(replace(told, settings={**told.settings, "time_scale": 1000.0}))
    assert any("time_scale=1" in finding.text for finding in spoken)


@pytest.mark.slow
def test_untrained_networks_are_called_so():
    zero = networks.MLP(DIMS, CLASSES, width=16, depth=1).double()
    assert titles(examine(zero))[0] == "The network outputs zero"
    torch.manual_seed(0)
    nn.init.normal_(zero.final_layer.weight, std=0.1)
    assert titles(examine(zero))[0] == "Nothing learned yet"


@pytest.mark.slow
def test_a_network_that_is_not_finite_is_called_so_and_leaves_numbers_none():
    def broken(network, x, t, r, label):
        return torch.where((t > 0.5)[:, None], torch.nan, network(x, t, r, label))

    found = examine(Faulty(broken))
    assert titles(found)[0] == "Output not finite" and found.not_finite > 0.2
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.error.diagonal.value[8] is None and found.error.diagonal.value[2] is not None


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.slow
def test_a_network_without_forward_mode_is_measured_by_differences():
    exact = examine(Perfect(), method("flow_matching"))
    found = examine(
        Faulty(lambda network, x, t, r, label: NoForwardMode.apply(network(x, t, r, label))),
        method("flow_matching"),
    )
    assert found.tangent.strategy == "central difference" and found.tangent.gap is None
    assert found.tangent.relative.value == pytest.approx(exact.tangent.relative.value, rel=0.02)
    assert any(f.title == "No exact derivative" for f in found.findings) and titles(found) == []


# ---------------------------------------------------------------- trends


def course(**changes):
    """Forty rows of a run that went well, with columns replaced: a list, or a function of the row's number."""
    rows = []
    for i in range(40):
        row = {
            "step": 50 * (i + 1),
            "raw_error": 0.4 + 0.6 * 0.8**i,
            "grad_norm": 1.0 + 0.2 * (i % 3),
            "derivative_norm": 1.1,
            "lr": 1e-3,
            "skipped": 0,
        }
        rows.append(row | {name: change(i) for name, change in changes.items()})
    return rows


TRENDS = [
    ({"grad_norm": lambda i: 30.0 if i == 20 else 1.0}, "Gradient spikes"),
    ({"grad_norm": lambda i: 6.0 if i in (10, 20, 30) else 1.0}, "Gradient spikes"),
    ({"skipped": lambda i: 3 if i > 30 else 0}, "Steps were skipped"),
    ({"raw_error": lambda i: 1.0 / (1 + i)}, "Under-trained: the error is still falling"),
    ({"raw_error": lambda i: 0.5 if i < 30 else 0.8}, "The error rises"),
    ({"derivative_norm": lambda i: 1.0 if i < 20 else 5.0}, "Tangent blow-up: ‖du/dt‖ grows in training"),
]


@pytest.mark.parametrize(("changes", "title"), TRENDS, ids=[title for _, title in TRENDS])
def test_a_bad_course_of_training_has_its_finding(healthy, changes, title):
    assert (
        titles(
            replace(healthy, findings=diagnosis.judge(replace(healthy, trends=diagnosis.trends(course()))))
        )
        == []
    )
    judged = diagnosis.judge(replace(healthy, trends=diagnosis.trends(course(**changes))))
    assert [f.title for f in judged if f.severity != "note"] == [title]


@pytest.mark.slow
def test_metrics_reach_the_findings():
    found = examine(Perfect(), num=64, metrics=course(grad_norm=lambda i: 30.0 if i == 20 else 1.0))
    assert found.trends.worst == 30.0 and found.trends.worst_step == 1050 and found.trends.spikes == 1
    assert titles(found) == ["Gradient spikes"]


def test_short_and_empty_metrics_tell_no_trend():
    assert diagnosis.trends([]) is None
    few = diagnosis.trends([{"step": 1, "raw_error": 1.0, "grad_norm": None, "skipped": 0}])
    assert few.fall is None and few.growth is None and few.spikes == 0


# ---------------------------------------------------------------- quality table and length of a run


def table_row(steps: int, distance: float | None, **rest) -> dict:
    """A row of the table.json of a digits run."""
    known = {
        "steps": steps, "nfe": steps, "times": None, "distance": distance, "agreement": 0.98, "precision": 0.7,
        "recall": 0.6, "nearest_ratio": 1.0, "copies": 0.0, "features": "pixel", "metric": "FD-pixel", "floor": 0.316,
        "judge": 0.992, "num": 1000, "reference_size": 1797, "reference_seen": True, "weights": "ema-0.999@3600",
    }  # fmt: skip
    return known | rest


def facts(name: str, rows: list[dict], steps: int = 3600, batch: int = 96, images: int = 1797):
    dataset = data.Dataset("digits", torch.zeros(images, 1, 8, 8), torch.arange(images) % 10, 10)
    return run_facts(
        methods.get(name), dataset, batch=batch, steps=steps, planned=steps, classes=10, table=rows,
        weights=rows[0]["weights"] if rows else "",
    )  # fmt: skip


def judged(*args, **rest) -> list[str]:
    return [f.title for f in judge_run(facts(*args, **rest)) if f.severity != "note"]


# (Fréchet distance, label accuracy, memorization ratio) in 1, 2, 4 and 128 steps, of benchmarks/digits.md
DIGITS = {
    "flow_matching": [(5.70, 0.996, 1.03), (1.72, 0.999, 0.87), (0.61, 0.999, 0.91), (0.15, 0.993, 1.05)],
    "shortcut": [(0.70, 0.980, 1.21), (0.46, 0.978, 1.19), (0.35, 0.977, 1.19), (0.19, 0.990, 1.11)],
    "meanflow": [(0.32, 0.982, 1.09), (0.29, 0.996, 0.99), (0.23, 0.995, 0.99), (0.23, 0.995, 0.99)],
    "esc": [(0.30, 0.975, 1.11), (0.24, 0.996, 1.01), (0.20, 0.995, 1.00), (0.22, 0.994, 1.01)],
}


@pytest.mark.parametrize("name", DIGITS)
def test_the_runs_of_the_digits_benchmark_have_no_finding(name):
    rows = [
        table_row(steps, distance, agreement=accuracy, nearest_ratio=ratio)
        for steps, (distance, accuracy, ratio) in zip((1, 2, 4, 128), DIGITS[name], strict=True)
    ]
    assert judge_run(facts(name, rows)) == []


def test_garbage_is_named_first_with_its_cause(healthy):
    """Every probe of the map is well; the table and the length of the run are not."""
    rows = [
        table_row(steps, distance, agreement=accuracy, judge=0.82, floor=10.2, precision=0.1, recall=0.04)
        for steps, distance, accuracy in ((1, 61.6, 0.40), (4, 64.0, 0.41))
    ]
    run = facts("esc", rows, steps=400, batch=128, images=60_000)
    found = diagnosis.judge(replace(healthy, run=replace(run, real=run.floor)))
    assert [(f.severity, f.title) for f in found[:5]] == [
        ("problem", "Images are far from the data"),
        ("problem", "Low label accuracy"),
        ("warning", "Low precision"),
        ("warning", "Low recall"),
        ("warning", "Short training"),
    ]
    assert "In 1 step FD-pixel is 61.6, 6 times the 10.2 between two halves of the data" in found[0].text
    assert "0.40 of the samples of 1 step and 0.41 in 4 steps, where real images reach 0.82" in found[1].text
    assert "400 steps of 128 are 0.85 passes over the 60,000 images" in found[4].text
    assert "Nothing wrong was found" not in [f.title for f in found]


def test_one_bad_number_of_steps_is_named_with_a_better_one():
    one = [table_row(1, 3.0), table_row(4, 0.3)]
    assert judged("esc", one) == ["Images of 1 step are far from the data"]
    assert "sample in 4 steps" in judge_run(facts("esc", one))[0].text
    assert judged("esc", [table_row(1, 0.3), table_row(128, 3.0)]) == [
        "Images of 128 steps are far from the data"
    ]
    assert judged("esc", [table_row(1, None), table_row(4, 0.3)]) == ["Samples are not finite"]
    assert judged("esc", [table_row(1, 0.3, nearest_ratio=0.5)]) == ["Samples are close to training images"]


def test_fewer_samples_than_images_are_compared_with_as_many_real_images():
    """1,000 real images of 60,000 are 15 times as far from all as halves are from one another."""
    rows = [table_row(1, 1.5, floor=0.1, reference_size=60_000)]
    assert facts("esc", rows).real == pytest.approx(0.1 * 61 / 4) and judged("esc", rows) == []
    far = [table_row(1, 15.0, floor=0.1, reference_size=60_000, agreement=None)]
    assert "9.8 times the 1.53 that 1,000 real images would have" in judge_run(facts("esc", far))[0].text


def test_quality_that_is_not_known_is_not_praised(healthy):
    unknown = diagnosis.judge(replace(healthy, run=facts("esc", [])))
    assert [f.title for f in unknown] == [
        "The probes found nothing wrong",
        "The quality of samples is not known",
    ]
    others = run_facts(
        methods.get("esc"), blobs(), batch=96, steps=3600, table=[table_row(1, 90.0)], weights="raw@3600"
    )
    assert others.rows == () and "weights ema-0.999@3600" in judge_run(others)[-1].text


# ---------------------------------------------------------------- the value


@pytest.mark.slow
def test_the_same_diagnosis_twice_and_another_with_another_seed(healthy):
    again = examine(Perfect())
    assert json.dumps(again.to_dict()) == json.dumps(healthy.to_dict())
    assert examine(Perfect(), seed=1).to_dict() != healthy.to_dict()


@pytest.mark.slow
def test_the_network_and_the_random_state_are_left_alone():
    torch.manual_seed(5)
    network = networks.MLP(DIMS, CLASSES, width=16, depth=1, log_variance=True).double()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    network.x_embedder.requires_grad_(False)
    network.final_layer.weight.grad = torch.full_like(network.final_layer.weight, 7.0)
    network.train()
    before, state = copy.deepcopy(network), torch.get_rng_state()
    filled = [weight.grad is not None for weight in network.parameters()]
    found = examine(network, method("esc"), num=64)
    assert found.gradient.mean > 0
    assert network.training and torch.equal(torch.get_rng_state(), state)
    for new, old in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old) and new.requires_grad == old.requires_grad
    assert [weight.grad is not None for weight in network.parameters()] == filled
    assert bool((network.final_layer.weight.grad == 7.0).all())


@pytest.mark.slow
def test_a_network_cut_off_from_its_weights_is_told_so():
    found = examine(Faulty(lambda network, x, t, r, label: network(x, t, r, label).detach()), num=64)
    assert found.gradient.mean == 0 and titles(found) == ["No gradient"]


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="at least 64 rows"):
        examine(Perfect(), num=10)


@pytest.mark.slow
def test_unlabeled_networks_and_points_are_diagnosed():
    network = networks.MLP(2, None, width=16, depth=1).double()
    nn.init.normal_(network.final_layer.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    labeled = replace(blobs(), x=blobs().x[:, :2])
    found = examine(network, dataset=labeled, num=64)
    assert found.sensitivity.label is None and found.spread[0].spread is not None


@pytest.mark.slow
def test_panels_draw_a_picture_and_refuse_what_does_not_fit(healthy, tmp_path):
    path = pictures.panels(healthy.panels(), tmp_path / "a.png", xlabel="t")
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="at least one panel"):
        pictures.panels({}, path)
    with pytest.raises(ValueError, match="2 positions for 1 values"):
        pictures.panels({"a": {"b": ([0.0, 1.0], [1.0])}}, path)


# ---------------------------------------------------------------- the command


app = typer.Typer(cls=OneLine)
app.command("diagnose")(command.diagnose)
app.callback()(lambda: None)


def call(*words: object):
    return CliRunner(env={"COLUMNS": None}).invoke(app, ["diagnose", *map(str, words)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = [("network.width", "32"), ("network.depth", "1")]
    config = runs.configure(
        "meanflow", "two-moons", network="mlp", settings=settings, steps=4, batch=20, eval_num=0, sample_every=0,
        checkpoint_every=0, device="cpu",
    )  # fmt: skip
    return runs.train(config, tmp_path_factory.mktemp("runs") / "moons").folder


@pytest.mark.slow
def test_the_command_tells_and_writes_the_same_twice(run, tmp_path):
    told = call(run, "--num", 64, "--device", "cpu")
    assert told.exit_code == 0, told.stderr
    assert told.stdout.startswith("meanflow on two-moons, ema-0.999@4 of 4 steps")
    assert told.stdout.index("problem:") < told.stdout.index("0–0.1")
    written = (run / "diagnosis.json").read_text()
    assert (run / "diagnosis.png").read_bytes()[:4] == b"\x89PNG"
    again = call(run, "--num", 64, "--device", "cpu", "--json", "--out", tmp_path / "new")
    assert again.stdout == written == (tmp_path / "new" / "diagnosis.json").read_text()
    assert json.loads(written)["weights"] == "ema-0.999@4" and json.loads(written)["num"] == 64


@pytest.mark.slow
def test_the_command_judges_the_table_of_the_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    row = table_row(
        1,
        0.9,
        agreement=0.5,
        judge=1.0,
        features="point",
        metric="FD-point",
        floor=1e-3,
        weights="ema-0.999@4",
    )
    (tmp_path / "run" / "table.json").write_text(json.dumps([row]))
    told = call(tmp_path / "run", "--num", 64, "--device", "cpu").stdout
    assert "problem: Points are far from the data" in told and "problem: Low label accuracy" in told
    written = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert written["run"]["steps"] == 4 and written["run"]["rows"][0]["distance"] == 0.9


def refused(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 2 and result.stdout == "", (result.exit_code, result.output)
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.slow
def test_the_command_refuses_what_cannot_be_diagnosed(run, tmp_path):
    assert "holds no run" in refused(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    assert "give --out a folder" in refused(run, "--out", tmp_path / "file")
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.json").write_text((run / "config.json").read_text())
    error = refused(tmp_path / "young")
    assert "no weights yet" in error and f"flowleap train --resume --out {tmp_path / 'young'}" in error


def test_the_command_points_to_python_for_data_given_as_tensors(run, tmp_path):
    for name, old, new in (("unknown", '"two-moons"', '"mine"'), ("other", '"two-moons"', '"digits"')):
        place = tmp_path / name
        place.mkdir()
        for file in run.iterdir():
            if file.is_file():
                (place / file.name).write_bytes(file.read_bytes())
        (place / "config.json").write_text((run / "config.json").read_text().replace(old, new))
        assert "diagnosis.diagnose(run.flow, run.objective, dataset)" in refused(place)
