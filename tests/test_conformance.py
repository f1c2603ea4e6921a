"""Every objective held to exactly known flows, in float64, in the classes of docs/extending.md.

1. Pointwise: with the exact velocity, prediction and target agree at every point.
2. In the mean: with the conditional velocity, the target averaged over x | x_t is the exact one.
3. Discrete: the population optimum in closed form, and the stated order as the step halves.

A new objective adds its name to OBJECTIVES, or to EXEMPT where another file holds it to exact flows. A spoilt map must
leave a residual everywhere a perfect one leaves none.
"""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from flowleap import FlowMap, Objective, methods
from flowleap.derivatives import CentralDifference, Derivative, ExactJVP, TwoPass
from flowleap.objectives import Annealed, Consistency, Eulerian, GridEMA, Lagrangian, Self, SelfConsistency
from flowleap.oracles import FiniteData, Gaussian, TwoPoints
from flowleap.parameterization import (
    EDM,
    AverageVelocity,
    ConsistencyEDM,
    Endpoint,
    Noise,
    Parameterization,
    Preconditioned,
    Velocity,
)
from flowleap.paths import LinearPath, Path, TrigPath, VEPath, VPPath
from flowleap.point import Point
from flowleap.tensors import like
from flowleap.times import (
    Adjacent,
    Curriculum,
    DyadicGrid,
    FullJump,
    Gap,
    Gradual,
    Halving,
    Jumps,
    LogitNormal,
    LogNormal,
    NoiseGrid,
    OneTime,
    Particles,
    Ratio,
    SortedPair,
    Split,
    ToData,
)
from flowleap.velocities import Conditional, PlugIn, Teacher, VelocitySource

PATHS: dict[str, Path] = {
    "linear": LinearPath(),
    "linear-scaled": LinearPath(noise_scale=0.7, sigma_min=1e-3),
    "trig": TrigPath(noise_scale=0.5),
    "vp": VPPath(),
    "ve": VEPath(t_max=20.0),
}
MEANINGS: dict[str, Parameterization] = {
    "average-velocity": AverageVelocity(),
    "velocity": Velocity(),
    "endpoint": Endpoint(),
    "noise": Noise(),
    "edm": EDM(sigma_data=0.5),
    "per-angle": Preconditioned(Velocity(), sigma_data=0.5, gain=math.pi / 4),
    "consistency-edm": ConsistencyEDM(sigma_data=0.5),
}
OBJECTIVES = (
    "flow_matching",
    "diffusion",
    "reflow",
    "shortcut",
    "shortcut_repo",
    "shortcut_esc",
    "progressive_distillation",
    "meanflow",
    "esc",
    "best",
    "imf",
    "de_cm",
    "lsd",
    "esd",
    "temf",
    "v_first",
    "alpha_flow",
    "soflow",
    "psd",
    "psd_midpoint",
    "split_meanflow",
    "tvm",
    "tim",
    "pmf",
    "dmf",
    "sct",
    "sct_linear",
    "consistency_training",
    "consistency_training_original",
    "consistency_training_esc",
    "consistency_training_esc_linear",
    "ict",
    "ect",
    "ect_tuned",
    "consistency_distillation",
    "live_reflow",
    "imm",
)
EXEMPT = {
    "ctm": ("test_ctm.py", "its target has the error of a solver, which straight lines alone are without"),
    "ctm_self": ("test_ctm.py", "as ctm"),
    "sid": ("test_sid.py", "it compares two laws, and no map with its target"),
    "energy_distance": ("test_drift.py", "as sid"),
    "w_flow": ("test_drift.py", "as sid"),
    "drifting": ("test_drift.py", "as sid"),
    "amed": ("test_amed.py", "it trains the steps of a solver around the velocity of its teacher"),
    "tcm": ("test_tcm.py", "it is ect from a boundary on, and below that another map"),
}
"""Methods that are held to exact flows in a file of their own, and why."""
INFINITE = tuple(itertools.product(("linear", "trig"), ("endpoint", "edm")))
"""Where the velocity of a network is infinite at the data."""
GRIDS = DyadicGrid | Curriculum | Adjacent | Halving | ToData | Particles


def on(objective: Objective, path: Path, meaning: Parameterization) -> Objective:
    """The objective moved to another path and parameterization, sCM-weighted where ∂_t b vanishes.

    Identities are held to maps of every landing, so networks are told where they land.
    """
    target = objective.target
    if isinstance(target, Eulerian) and meaning.eulerian_singularity(path):
        target = replace(target, weighting="cos2", through_time=False)  # which changes no value
    if isinstance(target, Annealed) and meaning.eulerian_singularity(path):
        target = replace(target, weighting="cos2")
    if isinstance(target, Eulerian) and target.derivative.follows_pair:
        target = replace(
            target, derivative=TwoPass()
        )  # along any velocity, without the error of a difference
    if isinstance(target, SelfConsistency):
        target = replace(target, clip=None)
    times, frozen = objective.times, objective.frozen
    if isinstance(times, NoiseGrid | Ratio):
        times = NoiseGrid(low=path.t_min, high=path.t_max) if path.t_max > 1 else Adjacent(16)
        frozen = Self() if isinstance(frozen, GridEMA) else frozen
    if isinstance(times, FullJump | Gap):
        times = SortedPair(LogitNormal())  # maps of every landing, on every path
    if isinstance(path, VEPath):
        law = LogNormal()
        if isinstance(times, OneTime):
            times = OneTime(law)
        elif isinstance(times, Gradual | Jumps | SortedPair):
            times = SortedPair(law)
        elif isinstance(times, Split):
            times = Split(SortedPair(law), times.at)
    parts = {
        "parameterization": meaning,
        "target": target,
        "times": times,
        "frozen": frozen,
        "conditioning": "t,r",
    }
    return replace(objective, path=path, **parts)


def pairs() -> list[tuple[str, str]]:
    """Every path × parameterization that is regular somewhere; the others are refused (see test_refused)."""
    return [
        (path, meaning)
        for path, meaning in itertools.product(PATHS, MEANINGS)
        if MEANINGS[meaning].singularity(PATHS[path]) is None
    ]


def jumps(path: Path, dims: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Data, noise and times t > s > r all over the domain (r ≥ 0.05), then rows r = t."""
    random = torch.Generator().manual_seed(3)
    levels = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]
    if path.t_max > 1:
        levels = [0.05, 0.2, 0.6, 1.5, 4.0, 10.0, 19.0]
    couples = [(t, r) for t in levels for r in levels if r < t]
    t = torch.tensor([t for t, _ in couples] + levels, dtype=torch.float64)
    r = torch.tensor([r for _, r in couples] + levels, dtype=torch.float64)
    x = torch.randn(len(t), dims, dtype=torch.float64, generator=random)
    noise = torch.randn(len(t), dims, dtype=torch.float64, generator=random)
    return x, noise, t, (t + r) / 2, r


@dataclass(frozen=True)
class Spoilt:
    """A network that is wrong everywhere, by a factor and a term that depend on the times."""

    network: Callable[..., Tensor]

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        wrong = self.network(x, t, r, label) * like(1.2 + 0.3 * torch.tanh(t - r), x)
        return wrong + 0.3 * torch.sin(2 * x + like(3 * t, x))


@dataclass(frozen=True)
class ExactStep(VelocitySource):
    """The velocity whose DDIM step t → s is exact, v = (X_{t→s}(x_t) − a x_t)/b; the marginal one where s = t."""

    flow: FlowMap

    def __call__(self, point: Point, flow: FlowMap | None = None) -> Tensor:
        exact, x, t, s = self.flow, point.x_t, point.t, point.s
        a, b = (like(c, x) for c in point.path.transfer(t, s))
        still = like(s == t, x)
        step = (exact(x, t, s) - a * x) / torch.where(still, torch.ones_like(b), b)
        return torch.where(still, exact.velocity(x, t), step)


def residual(objective: Objective, flow: FlowMap) -> Tensor:
    """|prediction − target| relative to the scale of the outputs, (rows, dims)."""
    draws = jumps(objective.path)
    if isinstance(objective.times, OneTime):  # flow matching lives on the diagonal
        draws = (*draws[:3], draws[2], draws[2])
    point = objective.point(*draws)
    regression = objective.regress(flow, flow, point)
    scale = regression.prediction.detach().abs().clamp_min(1.0)
    return (regression.prediction - regression.target).detach().abs() / scale


def oracle_on(name: str, path: Path) -> Gaussian | TwoPoints:
    return Gaussian(mean=0.4, std=0.6, path=path) if name == "gaussian" else TwoPoints(path)


def test_every_method_is_held_to_exact_flows() -> None:
    assert len({*OBJECTIVES, *EXEMPT}) == len(OBJECTIVES) + len(EXEMPT)
    assert {*OBJECTIVES, *EXEMPT} == set(methods.names()), (
        "add a new method to OBJECTIVES, or to EXEMPT with a reason"
    )
    assert all(pathlib.Path(__file__).with_name(file).is_file() for file, _ in EXEMPT.values())


def fast_third(row: int, column: int, *values: object) -> ParameterSet:
    """A case of a table; the fast tests take one in three, of each row and of each column."""
    return pytest.param(*values, marks=() if (row + column) % 3 == 0 else pytest.mark.slow)


def pointwise() -> list[ParameterSet]:
    """Every method on every path in every parameterization, one oracle and the other in turn as on a chessboard."""
    oracles, places = ("gaussian", "two-points"), enumerate(pairs())
    return [
        fast_third(row, column, method, *place, oracles[(row + column) % 2])
        for (column, place), (row, method) in itertools.product(places, enumerate(OBJECTIVES))
    ]


def in_the_mean() -> list[ParameterSet]:
    """Methods whose target is linear in the velocity, on every path in every parameterization."""
    rows = enumerate(("meanflow", "esc", "sct", "imf"))
    return [
        fast_third(row, column, method, *place)
        for (row, method), (column, place) in itertools.product(rows, enumerate(pairs()))
    ]


# 1. Pointwise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "meaning", "oracle_name"), pointwise())
def test_exact_map_is_a_fixed_point(method: str, path: str, meaning: str, oracle_name: str) -> None:
    oracle = oracle_on(oracle_name, PATHS[path])
    flow = FlowMap.of(oracle, MEANINGS[meaning])
    objective = methods.get(method)
    in_times = method in ("v_first", "tim")  # their weights are functions of times in [0, 1]
    if (isinstance(objective.times, GRIDS) or in_times) and PATHS[path].t_max > 1:
        with pytest.raises(ValueError, match="noise levels"):
            on(objective, PATHS[path], MEANINGS[meaning])
        return
    if isinstance(objective.target, SelfConsistency):
        refusal = MEANINGS[meaning].euler_refusal(PATHS[path])
        if refusal is not None:
            with pytest.raises(ValueError, match=r"curved|no DDIM step"):
                on(objective, PATHS[path], MEANINGS[meaning])
            return
    if isinstance(objective.target, Lagrangian) and (path, meaning) in INFINITE:
        with pytest.raises(ValueError, match="no finite velocity at t = 0, near which jumps land"):
            on(objective, PATHS[path], MEANINGS[meaning])
        return
    exact = ExactStep(flow) if isinstance(objective.target, Annealed | Consistency) else Teacher(flow)
    objective = replace(on(objective, PATHS[path], MEANINGS[meaning]), velocity=exact).with_teacher(flow)
    assert not objective.needs_teacher
    assert residual(objective, flow).max() <= 1e-9
    spoilt = flow.with_network(Spoilt(flow.network))
    assert residual(objective, spoilt).amax(dim=1).median() >= 1e-2


@pytest.mark.parametrize("path", ["linear", "trig", "vp"])
def test_annealed_without_a_step_is_the_eulerian_identity(path: str) -> None:
    """α-Flow at the end of its run: the exact map, and on any map the regression of MeanFlow."""
    flow = FlowMap.of(Gaussian(0.4, 0.6, PATHS[path]))
    objective = replace(on(methods.alpha_flow(), PATHS[path], AverageVelocity()), velocity=Teacher(flow))
    x, noise, t, _, r = jumps(PATHS[path])
    point = objective.point(x, noise, t, t, r)
    found = objective.regress(flow, flow, point)
    assert (found.prediction - found.target).abs().max() <= 1e-9 * found.prediction.abs().max()
    spoilt = flow.with_network(Spoilt(flow.network))
    eulerian = replace(objective, target=Eulerian(), times=SortedPair(), loss=methods.meanflow().loss)
    assert torch.equal(
        objective.regress(spoilt, spoilt, point).target, eulerian.regress(spoilt, spoilt, point).target
    )


@pytest.mark.parametrize("derivative", [ExactJVP(), TwoPass(), CentralDifference(eps=1e-5)])
@pytest.mark.parametrize("path", ["linear", "trig", "vp"])
def test_every_derivative_strategy_finds_the_exact_target(derivative: Derivative, path: str) -> None:
    flow = FlowMap.of(Gaussian(0.4, 0.6, PATHS[path]))
    objective = replace(on(methods.meanflow(), PATHS[path], AverageVelocity()), target=Eulerian(derivative))
    tolerance = 1e-8 if isinstance(derivative, CentralDifference) else 1e-9
    assert residual(replace(objective, velocity=Teacher(flow)), flow).max() <= tolerance


def test_refused() -> None:
    """Singular pairs are refused with the reason and a way out, never silently infinite."""
    for path in (LinearPath(), TrigPath()):
        with pytest.raises(ValueError, match="infinite at"):
            replace(methods.meanflow(), path=path, parameterization=Noise())
    with pytest.raises(ValueError, match=r"∂_t b vanishes.*cos2"):
        replace(methods.meanflow(), path=TrigPath(), parameterization=Velocity())
    with pytest.raises(ValueError, match="curved"):
        replace(methods.shortcut(), path=TrigPath())


# 2. In the mean -------------------------------------------------------------------------------------------------


def mean_target(objective: Objective, flow: FlowMap, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """The target with the conditional velocity, averaged over x = ±1 given x_t = z with the exact weights."""
    path, total = objective.path, torch.zeros_like(z)
    amplitude = like(path.sigma(t) * path.noise_scale, z)
    for sign in (-1.0, 1.0):
        x = torch.full_like(z, sign)
        noise = (z - like(path.alpha(t), z) * x) / amplitude
        weight = torch.sigmoid(2 * sign * like(path.alpha(t), z) * z / amplitude.square())
        point = objective.point(x, noise, t, t, r)
        total = total + weight * objective.regress(flow, flow, point).target
    return total


@pytest.mark.parametrize(("method", "path", "meaning"), in_the_mean())
def test_conditional_velocity_is_right_in_the_mean(method: str, path: str, meaning: str) -> None:
    """(E) is linear in v, so E[target | x_t] with the pair's velocity is the exact target; a normalized one is not."""
    oracle = TwoPoints(PATHS[path])
    flow = FlowMap.of(oracle, MEANINGS[meaning])
    objective = replace(on(methods.get(method), PATHS[path], MEANINGS[meaning]), velocity=Conditional())
    assert isinstance(objective.target, Eulerian)
    objective = replace(objective, target=replace(objective.target, normalize=None))
    _, _, t, _, r = jumps(objective.path, dims=1)
    high = objective.path.alpha(t) + 2 * objective.path.sigma(t) * objective.path.noise_scale
    z = (torch.linspace(-1, 1, len(t), dtype=torch.float64) * high)[:, None]
    exact = flow.output(z, t, r)
    scale = exact.abs().clamp_min(1.0)
    assert ((mean_target(objective, flow, z, t, r) - exact).abs() / scale).max() <= 1e-9


def test_a_difference_along_the_path_of_each_pair_is_right_in_the_mean() -> None:
    """To second order in its step: averaged over x | x_t, where the velocities of the pairs are those of the flow."""
    flow, errors = FlowMap.of(TwoPoints(LinearPath())), []
    _, _, t, _, r = jumps(LinearPath(), dims=1)
    keep = (t - r > 0.1) & (t < 0.9)
    t, r, z = t[keep], r[keep], torch.linspace(-1, 1, int(keep.sum()), dtype=torch.float64)[:, None]
    for eps in (2e-3, 1e-3):
        target = Eulerian(CentralDifference(eps, along="path"))
        found = mean_target(replace(methods.tim(), target=target), flow, z, t, r)
        errors.append(float((found - flow.output(z, t, r)).abs().max()))
    assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_plug_in_over_the_whole_set_is_exact() -> None:
    """The plug-in velocity of the whole ±1 set is its marginal velocity."""
    path, t = LinearPath(), torch.linspace(0.1, 0.95, 8, dtype=torch.float64)
    x = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)[:, None]
    noise = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    point = methods.flow_matching().point(x, noise, t, t, t)
    expected = TwoPoints(path).velocity(point.x_t, t)
    assert torch.allclose(PlugIn(1.0)(point), expected, atol=1e-12)
    assert torch.allclose(FiniteData(x).velocity(point.x_t, t), expected, atol=1e-12)


# 3. Discrete ----------------------------------------------------------------------------------------------------


@dataclass
class AffineTable:
    """A network F = gain·x + shift with coefficients of its own for every (t, r): the Gaussian population optimum."""

    oracle: Gaussian
    meaning: Parameterization
    table: dict[tuple[float, float], tuple[float, float]]

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None) -> Tensor:
        rows = []
        for row, start, end in zip(x, t.tolist(), r.tolist(), strict=True):
            if start == end:
                exact = FlowMap.of(self.oracle, self.meaning)
                time = torch.tensor([start], dtype=x.dtype)
                rows.append(exact.output(row[None], time, time)[0])
            else:
                gain, shift = self.table[(start, end)]
                rows.append(gain * row + shift)
        return torch.stack(rows)


def shortcut_optimum(path: Path, meaning: Parameterization, base_steps: int) -> tuple[float, float]:
    """Fill the table level by level with the objective's own targets; return (gain, shift) of the map 1 → 0."""
    oracle = Gaussian(mean=0.4, std=0.6, path=path)
    network = AffineTable(oracle, meaning, {})
    base = replace(methods.shortcut(base_steps=base_steps), path=path, parameterization=meaning)
    flow = base.flow_map(network)
    for level in range(base_steps.bit_length() - 2, -1, -1):
        count = 2**level
        t = 1 - torch.arange(count, dtype=torch.float64) / count
        r = t - 1 / count
        found = []
        for value in (0.0, 1.0):  # two states fix an affine output
            z = torch.full((count, 1), value, dtype=torch.float64)
            amplitude = like(path.sigma(t) * path.noise_scale, z)
            point = base.point(torch.zeros_like(z), z / amplitude, t, (t + r) / 2, r)
            found.append(base.target(flow, flow, point).value[:, 0])
        for i in range(count):
            gain = float(found[1][i] - found[0][i])
            network.table[(float(t[i]), float(r[i]))] = (gain, float(found[0][i]))
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    low, high = flow(ends, 1.0, 0.0)[:, 0].tolist()
    return high - low, low


@pytest.mark.parametrize(("path", "meaning"), [("linear", AverageVelocity()), ("trig", Velocity())])
def test_shortcut_optimum_is_the_composition_of_base_steps(path: str, meaning: Parameterization) -> None:
    """Slope Π ρ, ρ_ts = (α_tα_s c² + σ_tσ_s κ²)/s_t²; first order in the step towards s_0/s_1."""
    where = PATHS[path]
    oracle = Gaussian(mean=0.4, std=0.6, path=where)
    exact = float(oracle.scale(torch.zeros(1).double()) / oracle.scale(torch.ones(1).double()))
    errors = []
    for base_steps in (8, 16, 32):
        times = torch.linspace(1, 0, base_steps + 1, dtype=torch.float64)
        t, s = times[:-1], times[1:]
        shared = where.alpha(t) * where.alpha(s) * 0.6**2
        shared = shared + where.sigma(t) * where.sigma(s) * where.noise_scale**2
        closed_form = float((shared / oracle.scale(t).square()).prod())
        gain, _ = shortcut_optimum(where, meaning, base_steps)
        assert gain == pytest.approx(closed_form, rel=1e-9)
        errors.append(abs(gain - exact))
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.15)


def two_step_bias(z: float, t: float, r: float, delta: float) -> tuple[float, float]:
    """E[X̂ | x_t] − X_{t→r}: a first step of length δ with the marginal or the conditional velocity, then the map."""
    oracle = TwoPoints()
    state = torch.tensor([[z]], dtype=torch.float64)
    start, end = torch.tensor([t], dtype=torch.float64), torch.tensor([r], dtype=torch.float64)
    exact = oracle(state, start, end)
    marginal = oracle(state - delta * oracle.velocity(state, start), start - delta, end)
    conditional = torch.zeros_like(state)
    for sign in (-1.0, 1.0):
        velocity = (state - (1 - t) * sign) / t - sign
        weight = torch.sigmoid(2 * sign * (1 - t) * state / t**2)
        conditional += weight * oracle(state - delta * velocity, start - delta, end)
    return float(marginal - exact), float(conditional - exact)


def test_conditional_velocity_biases_discrete_targets() -> None:
    """The framework's central finding (arXiv 2512.11831): O(δ²) per step with either velocity, but
    several times larger with the conditional one, by ½δ² Var(v | x_t) ∂²X/∂x², because the second step is curved.
    """
    z, t, r, delta = 0.4, 0.9, 0.3, 1e-3
    marginal, conditional = two_step_bias(z, t, r, delta)
    for coarse, fine in zip(two_step_bias(z, t, r, 2 * delta), (marginal, conditional), strict=True):
        assert coarse / fine == pytest.approx(4.0, rel=0.02)
    assert conditional / marginal == pytest.approx(3.7, rel=0.05)
    states = torch.tensor([[z - 1e-3], [z], [z + 1e-3]], dtype=torch.float64)
    landed = TwoPoints()(states, torch.full((3,), t).double(), torch.full((3,), r).double())[:, 0]
    curvature = float(landed[0] - 2 * landed[1] + landed[2]) / 1e-6
    mean = math.tanh((1 - t) * z / t**2)
    variance = (1 - mean**2) / t**2  # of v = (z − x)/t given x_t = z, x = ±1
    assert conditional - marginal == pytest.approx(0.5 * delta**2 * variance * curvature, rel=0.01)
