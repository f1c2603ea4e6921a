"""Consistency training on grids of noise levels: its optimum in closed form, its average, its start from a run."""

from __future__ import annotations

import io
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path as File

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from flowleap import Batch, networks, runs, serialize
from flowleap import methods as compositions
from flowleap.losses import WEIGHTS, LearnedVariance, Squared, Weighted
from flowleap.objectives import EMA, Consistency, Eulerian, GridEMA, Objective, Self
from flowleap.oracles import Gaussian
from flowleap.parameterization import EDM, ConsistencyEDM, Parameterization, Velocity
from flowleap.paths import LinearPath, Path, TrigPath, VEPath, VPPath
from flowleap.randomness import RowGenerator
from flowleap.tensors import like
from flowleap.times import LogNormal, NoiseGrid, Ratio
from flowleap.training.state import new_trained_network

D = torch.float64
TINY = [("network.width", "16"), ("network.depth", "1"), ("network.heads", "2")]
GRIDDED = ("consistency_training_original", "consistency_training_esc", "ict", "ect")


# the population optimum


@dataclass
class Table:
    """A network that knows one time, F = gain·x + shift for each time of a grid."""

    oracle: Gaussian
    meaning: Parameterization
    rows: dict[float, tuple[float, float]]

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        found = []
        for row, time in zip(x, t.tolist(), strict=True):
            gain, shift = self.rows[time]
            found.append(gain * row + shift)
        return torch.stack(found)


def optimum(objective: Objective, oracle: Gaussian, levels: Tensor) -> tuple[float, float]:
    """(gain, shift) of the map from the highest time, each filled with the mean of the objective's own targets."""
    landing = 0.0 if objective.path.t_max <= 1 else objective.path.t_min
    table = Table(oracle, objective.parameterization, {})
    flow, path = objective.flow_map(table), objective.path
    ends = torch.tensor([[0.0], [1.0]], dtype=D)
    r = torch.full((2,), landing, dtype=D)
    for i, time in enumerate(levels.tolist()):
        t = torch.full((2,), time, dtype=D)
        if time == landing:
            continue
        if i == 0:
            landed = oracle(ends, t, r)  # the lowest time is never left in training
        else:
            clean = oracle.mean + path.alpha(t) * oracle.std**2 / oracle.scale(t).square() * (
                ends[:, 0] - path.alpha(t) * oracle.mean
            )
            noise = (ends[:, 0] - path.alpha(t) * clean) / (path.sigma(t) * path.noise_scale)
            s = torch.full((2,), float(levels[i - 1]), dtype=D)
            point = objective.point(clean[:, None], noise[:, None], t, s, r)
            point = replace(point, v=path.velocity(point.x, point.noise, t))
            landed = Consistency(space="map")._landing(flow, point)
        scale = objective.parameterization.input_scale(path, t)
        seen = ends if scale is None else ends * like(scale, ends)
        output = flow.output_for(landed, ends, t, r)
        gain = float((output[1] - output[0]) / (seen[1] - seen[0]))
        table.rows[time] = (gain, float(output[0] - gain * seen[0]))
    low, high = flow(ends, float(levels[-1]), landing)[:, 0].tolist()
    return high - low, low


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "clock"),
    [(VEPath(), "levels"), (TrigPath(), "trigonometric"), (TrigPath(noise_scale=0.5), "trigonometric"),
     (LinearPath(), "linear")],
)  # fmt: skip
def test_the_optimum_is_the_product_of_slopes(path: Path, clock: str) -> None:
    """Π ρ, ρ_ts = (α_t α_s c² + σ_t σ_s κ²)/s_t², and first order in the step towards the true slope s_r/s_t."""
    oracle, errors = Gaussian(mean=0.4, std=0.6, path=path), []
    for cells in (40, 80, 160):
        law = NoiseGrid(start=cells, end=cells, growth="doubling", clock=clock)
        base = compositions.consistency_training("original" if clock == "levels" else "esc")
        objective = replace(base, path=path, times=law, frozen=Self())
        levels = law.levels(1.0)
        times = {
            "levels": levels,
            "trigonometric": torch.atan(levels) * 2 / math.pi,
            "linear": levels / (1 + levels),
        }[clock]
        t, s = times[1:], times[:-1]
        shared = path.alpha(t) * path.alpha(s) * 0.6**2 + path.sigma(t) * path.sigma(s) * path.noise_scale**2
        landing = torch.zeros(1, dtype=D) if path.t_max <= 1 else times[:1]
        last = oracle.scale(landing) / oracle.scale(times[:1])
        closed = float((shared / oracle.scale(t).square()).prod() * last)
        gain, shift = optimum(objective, oracle, times)
        assert gain == pytest.approx(closed, rel=1e-9)
        exact = float(oracle.scale(landing) / oracle.scale(times[-1:]))
        errors.append(abs(gain - exact) / exact)
        middle = (
            float(path.alpha(times[-1:])) * 0.4
        )  # the mean of the noise end is sent to the mean of the data
        assert gain * middle + shift == pytest.approx(0.4 * float(path.alpha(landing)), rel=1e-8)
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


# the average that follows the grid


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


def test_the_target_network_is_averaged_by_mu_of_k() -> None:
    objective = compositions.consistency_training("original").for_run(6)
    network = net()
    trained = new_trained_network(
        network, objective, lr=0.1, betas=(0.9, 0.9), weight_decay=0.0, decays=(0.9,)
    )
    assert trained.target is not None
    expected = network.weight.detach().clone()
    for k in range(6):
        with torch.no_grad():
            network.weight.add_(1.0 + k)
        trained.update_averages()
        points = math.ceil(math.sqrt(k / 6 * (151**2 - 4) + 4) - 1) + 1
        mu = math.exp(2 * math.log(0.95) / points)
        expected = mu * expected + (1 - mu) * network.weight.detach()
        torch.testing.assert_close(trained.target.module.weight, expected)
    trained.target.updates = 2
    before = trained.target.module.weight.clone()
    trained.update_averages()
    mu = objective.target_decay(2)
    torch.testing.assert_close(trained.target.module.weight, mu * before + (1 - mu) * network.weight)


@pytest.mark.slow
@pytest.mark.parametrize("method", GRIDDED)
def test_a_resumed_run_is_the_uninterrupted_one(method: str, tmp_path: File) -> None:
    options = {"steps": 12, "batch": 16, "eval_num": 0, "online_share": 0}
    config = runs.configure(method, "digits", settings=TINY, checkpoint_every=5, **options)
    quiet = Console(file=io.StringIO())
    whole = runs.train(config, tmp_path / "whole", console=quiet).folder
    place = tmp_path / "half"
    runs.train(config, place, console=quiet)
    # as a run that was stopped after its checkpoint at step 10
    (place / "checkpoints" / "latest").write_text("step-00000010\n")
    shutil.rmtree(place / "checkpoints" / "step-00000012")
    for name in ("network.safetensors", "ema.safetensors"):
        (place / name).unlink(missing_ok=True)
    runs.train(config, place, resume=True, console=quiet)
    files = sorted(path.name for path in (whole / "checkpoints" / "step-00000012").glob("*.safetensors"))
    assert ("target.safetensors" in files) == (method == "consistency_training_original")
    for name in files:
        first, second = (load_file(p / "checkpoints" / "step-00000012" / name) for p in (whole, place))
        assert first and all(torch.equal(first[key], second[key]) for key in first), name


# from a run


def test_a_method_that_starts_from_weights_alone_needs_a_run() -> None:
    tuned = compositions.ect_tuned()
    assert tuned.starts_from_teacher and tuned.needs_run and not tuned.needs_teacher
    assert not compositions.ect().needs_run and compositions.reflow().needs_run
    assert compositions.get("ect-tuned") == tuned == serialize.from_dict(serialize.to_dict(tuned))
    assert replace(compositions.meanflow(), starts_from_teacher=True).needs_run


@pytest.mark.slow
def test_tuning_begins_as_the_run_it_starts_from(tmp_path: File) -> None:
    quiet = {"eval_num": 0, "online_share": 0, "batch": 16}
    first = runs.train(
        runs.configure("flow_matching", "digits", settings=TINY, steps=3, **quiet),
        tmp_path / "fm",
        console=Console(file=io.StringIO()),
    ).folder
    config = runs.configure("ect_tuned", settings=[("lr", "1e-12")], steps=1, teacher=first, **quiet)
    place = runs.train(config, tmp_path / "tuned", console=Console(file=io.StringIO())).folder
    teacher, student = runs.load_run(first), runs.load_run(place, weights="raw")
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 0.4, 0.7, 0.99])
    label = torch.arange(4)
    expected = teacher.flow.denoised(x, t, label)
    made = student.flow(x, t, torch.zeros(4), label)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert runs.read_config(place).teacher.path == str(first)


@pytest.mark.slow
def test_without_a_run_the_first_half_of_the_steps_makes_one(tmp_path: File) -> None:
    config = runs.configure(
        "ect_tuned", "digits", settings=TINY, steps=7, batch=16, eval_num=0, online_share=0
    )
    assert [phase.name for phase in runs.phases(config, 1797)] == ["teacher", "student"]
    assert runs.length(config) == 4 and runs.own_teacher(config)
    place = runs.train(config, tmp_path / "run", console=Console(file=io.StringIO())).folder
    assert (place / "teacher" / "ema.safetensors").exists()
    with pytest.raises(ValueError, match="ect has no teacher"):
        runs.train(runs.configure("ect", "digits", teacher=place / "teacher"), tmp_path / "other")


# levels


def test_networks_may_be_told_of_the_data_itself() -> None:
    read = networks.NoiseTime(networks.MLP(2, width=8, depth=1))
    t, r = read.times(torch.tensor([80.0, 0.002]), torch.tensor([0.0, 1e-9]))
    torch.testing.assert_close(t, torch.tensor([80.0, 0.002]).log() / 4)
    torch.testing.assert_close(r, torch.full((2,), math.log(1e-6) / 4))
    assert bool(read(torch.zeros(2, 2), torch.ones(2), torch.zeros(2)).isfinite().all())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("steps", [1, 2, 4, 128])
def test_levels_down_to_0_sample_without_trouble(steps: int) -> None:
    objective = compositions.ect()
    network = networks.NoiseTime(networks.MLP(2, width=8, depth=1))
    flow, noise = objective.flow_map(network), torch.randn(5, 2)
    for renoise in (0.0, 0.5, 1.0):
        made = replace(objective, sampling=replace(objective.sampling, renoise=renoise)).sample(
            flow, noise, steps
        )
        assert bool(made.isfinite().all())
    landed = flow(noise, 2.0, 0.0)
    level = torch.full((5,), 2.0)
    torch.testing.assert_close(landed, flow.denoised(noise, level))


def test_an_exact_edm_network_lands_where_the_mean_of_the_data_is() -> None:
    """X_{t→0} of EDM() with F told t alone is the denoiser, c·x/(…) on a Gaussian, down to t = 0."""
    path = VEPath(t_min=0.0)
    oracle = Gaussian(mean=0.0, std=0.5, path=path)
    objective = compositions.ect()
    flow = objective.flow_map(lambda x, t, r, label: torch.zeros_like(x))  # σ_d = c: F = 0 is exact
    x, t = torch.randn(6, 2, dtype=D), torch.tensor([1e-9, 1e-3, 0.1, 1.0, 10.0, 80.0], dtype=D)
    torch.testing.assert_close(
        flow(x, t, torch.zeros_like(t)), oracle.path.mean_from_velocity(x, t, oracle.velocity(x, t))
    )


# weights


@pytest.mark.parametrize("path", [VEPath(), LinearPath(), TrigPath(noise_scale=0.5)])
def test_named_weights(path: Path) -> None:
    if path.t_max > 1:
        objective = compositions.consistency_training("original")
    else:
        clock = "linear" if isinstance(path, LinearPath) else "trigonometric"
        objective = replace(compositions.consistency_training("esc"), path=path, times=NoiseGrid(clock=clock))
    t, s = torch.tensor([0.9, 0.5, 0.3], dtype=D), torch.tensor([0.8, 0.2, 0.05], dtype=D)
    x = torch.ones(3, 2, dtype=D)
    point = objective.point(x, x, t, s, torch.full_like(t, path.t_min))

    def level(u: Tensor) -> Tensor:
        return path.sigma(u) / path.alpha(u)

    torch.testing.assert_close(WEIGHTS["1/(t - s)"](point), 1 / (t - s))
    torch.testing.assert_close(WEIGHTS["1/(level(t) - level(s))"](point), 1 / (level(t) - level(s)))
    torch.testing.assert_close(
        WEIGHTS["alpha/(kappa sigma)"](point), path.alpha(t) / (path.noise_scale * path.sigma(t))
    )
    if isinstance(path, TrigPath):
        tangent = 1 / (0.5 * torch.tan(t * math.pi / 2))
        torch.testing.assert_close(WEIGHTS["alpha/(kappa sigma)"](point), tangent)
    for by in WEIGHTS:
        regression = objective.regress(objective.flow_map(lambda x, t, r, label: 0 * x), None, point)
        plain = Squared()(regression, point)
        expected = (
            plain if by == "min(SNR, 5)/(SNR + 1)" else WEIGHTS[by](point) * plain
        )  # that is for rows r = t
        torch.testing.assert_close(Weighted(by=by)(regression, point), expected)


def test_weights_are_for_rows_that_jump_and_wide_numbers() -> None:
    objective = replace(compositions.consistency_training("esc"), loss=Weighted())
    t = torch.tensor([0.5, 0.7])
    point = objective.point(
        torch.ones(2, 2), torch.ones(2, 2), t, torch.tensor([0.4, 0.7]), torch.tensor([0.0, 0.7])
    )
    regression = objective.regress(objective.flow_map(lambda x, t, r, label: 0 * x), None, point)
    found, plain = Weighted()(regression, point), Squared()(regression, point)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, plain * torch.tensor([1 / (t[0] - 0.4), 1.0]))
    half = replace(point, t=point.t.bfloat16(), s=point.s.bfloat16())
    assert WEIGHTS["1/(t - s)"](half).dtype == torch.float32


def test_the_finest_grids_keep_their_steps_apart_in_single_precision() -> None:
    law = compositions.ict().times
    for clock, most in (("levels", 1e-3), ("trigonometric", 0.05), ("linear", 0.02)):
        t, s, _, _ = replace(law, clock=clock).draw(RowGenerator(0, "times", total=20_000), 1.0)
        assert bool((t > s).all())
        levels = law.levels(1.0)
        times = {"levels": levels, "linear": levels / (1 + levels)}.get(
            clock, torch.atan(levels) * 2 / math.pi
        )
        exact = times.diff()
        rounded = times.float().diff().double()
        assert float(((rounded - exact).abs() / exact).max()) < most


# refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": LinearPath()}, r'NoiseGrid\(clock="levels"\).*path is LinearPath: use clock="linear"'),
        (
            {"path": VEPath(t_max=20.0)},
            "from 0.002 to 80, and VEPath from 0.002 to 20: give both the same ends",
        ),
        ({"times": Ratio()}, r"use VEPath\(t_min=0.0, t_max=80\)"),
        ({"path": VPPath(), "times": NoiseGrid(clock="linear")}, r"the path is VPPath: use LinearPath\(\)"),
        (
            {"path": TrigPath(), "times": NoiseGrid(clock="trigonometric")},
            "ConsistencyEDM cannot be used on TrigPath",
        ),
        ({"times": NoiseGrid(), "loss": Weighted(), "target": Eulerian()}, "infinitely short"),
        (
            {"frozen": GridEMA(), "path": VEPath(t_min=0.0), "parameterization": EDM(), "times": Ratio()},
            "GridEMA: its",
        ),
    ],
)
def test_combinations_that_mean_nothing_are_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(compositions.consistency_training("original"), **change)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NoiseGrid(growth="linear"), '"root" or "doubling"'),
        (lambda: NoiseGrid(start=1), "2 ≤ start ≤ end"),
        (lambda: NoiseGrid(low=0.0), "0 < low < high"),
        (lambda: NoiseGrid(clock="hours"), 'expected one of "levels"'),
        (lambda: Ratio(base=1.0), "a base above 1"),
        (lambda: Ratio(reach=-1.0), "reach and slope from 0 up"),
        (lambda: Ratio(slope=-1.0), "slope=-1.0"),
        (lambda: GridEMA(0.0), r"a decay in \(0, 1\)"),
        (lambda: ConsistencyEDM(0.0), "a positive number"),
        (lambda: Weighted(by="1/(t-s)"), "unknown weight; did you mean"),
        (lambda: Weighted(LearnedVariance()), r"use LearnedVariance\(Weighted"),
    ],
)
def test_numbers_out_of_range_are_refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_variants_are_one_replace_apart() -> None:
    esc = compositions.consistency_training("esc")
    linear = replace(esc, path=LinearPath(), times=replace(esc.times, clock="linear"))
    point = linear.for_run(10).draw(Batch(torch.randn(8, 2)), 5, 0)
    assert bool((point.s < point.t).all()) and linear.loss == esc.loss == Squared("mean")
    for objective in (esc, linear):
        target = Eulerian(weighting="cos2") if objective is esc else Eulerian()
        assert replace(objective, target=target).times == objective.times
    original = compositions.consistency_training("original")
    without = replace(original, frozen=Self(), loss=compositions.ict().loss, times=compositions.ict().times)
    assert replace(without, name=compositions.ict().name) == compositions.ict()
    assert replace(original, frozen=EMA(0.99)).target_decay(10_000) == 0.99
    assert esc.parameterization == Velocity() and esc.path == TrigPath() and esc.frozen == Self()
    assert compositions.ict().times.law == LogNormal(-1.1, 2.0)


def test_diagnoses_count_levels_from_0_on() -> None:
    from flowleap.evaluation.diagnosis.probes import TimeRange

    clock = TimeRange(VEPath(t_min=0.0))
    edges = clock.edges()
    assert (
        bool(edges.isfinite().all())
        and float(edges[0]) == pytest.approx(0.002)
        and float(edges[-1]) == pytest.approx(80)
    )
    torch.testing.assert_close(clock.time(clock.share(edges)), edges)
    assert float(clock.share(torch.zeros(1))) == 0
    assert float(TimeRange(VEPath()).edges()[0]) == pytest.approx(0.002)
