"""Samplers on exactly known flows: exactness, closed-form slopes, order, marginals, counted evaluations."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flowleap import FlowMap, methods, oracles, samplers
from flowleap.guidance import guide
from flowleap.parameterization import EDM, AverageVelocity, Endpoint, Noise, Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.tensors import like

D = torch.float64
PATHS = [LinearPath(), LinearPath(noise_scale=0.5), TrigPath(), VPPath(), VEPath()]
EACH = pytest.mark.parametrize("path", PATHS, ids=repr)
MEAN, STD = 0.3, 0.6
ALL = [samplers.chain, samplers.gamma, samplers.ddim, samplers.euler, samplers.heun]


def oracle(path, std: float = STD) -> oracles.Gaussian:
    return oracles.Gaussian(mean=MEAN, std=std, path=path)


def schedules(path, t: float) -> tuple[float, float]:
    """α and κσ as plain numbers."""
    time = torch.tensor([t], dtype=D)
    return float(path.alpha(time)), float(path.sigma(time)) * path.noise_scale


def exact_end(path, noise: torch.Tensor) -> torch.Tensor:
    """α_r m + (s_r/s_t)(x − α_t m) from t_max to t_min, written out."""
    (a_t, s_t), (a_r, s_r) = schedules(path, path.t_max), schedules(path, path.t_min)
    spread = [math.hypot(a * STD, s) for a, s in ((a_t, s_t), (a_r, s_r))]
    return a_r * MEAN + spread[1] / spread[0] * (noise * s_t - a_t * MEAN)


@pytest.fixture
def noise():
    return torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=D)


class Counting:
    """A network that counts the rows it is asked for, and calls."""

    num_classes = 3

    def __init__(self) -> None:
        self.calls = self.rows = 0

    def __call__(self, x, t, r, label):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        return 0.1 * x


# exactness


@EACH
@given(steps=st.integers(1, 9))
def test_a_chain_of_exact_maps_is_exact_in_any_number_of_steps(path, steps):
    start = torch.linspace(-2, 2, 5, dtype=D)[:, None]
    found = samplers.chain(FlowMap.of(oracle(path)), start, steps)
    torch.testing.assert_close(found, exact_end(path, start), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("times", [(1, 0), (1.0, 0.6, 0.0), (1, 0.9, 0.2, 0.01, 0)], ids=str)
def test_a_chain_over_given_times_is_exact_too(times, noise):
    found = samplers.chain(FlowMap.of(oracle(LinearPath())), noise, times=times)
    torch.testing.assert_close(found, exact_end(LinearPath(), noise), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("path", "meaning"),
    [
        (LinearPath(), AverageVelocity()),
        (LinearPath(noise_scale=0.5), Velocity()),
        (LinearPath(), Endpoint()),
        (TrigPath(), Velocity()),
        (TrigPath(), EDM()),
        (VPPath(), Velocity()),
        (VPPath(), Noise()),
        (VEPath(), AverageVelocity()),
        (VEPath(), EDM()),
    ],
    ids=repr,
)
@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_ddim_has_the_product_of_the_one_step_slopes(path, meaning, steps, noise):
    """E[x_r | x_t] = α_r m + ρ (x_t − α_t m), ρ = (α_t α_r c² + σ_t σ_r κ²)/s_t², on every path."""
    found = samplers.ddim(FlowMap.of(oracle(path), meaning), noise, steps)
    if path.t_max > 1:  # Karras' spacing, ρ = 7
        stops = [
            (80 ** (1 / 7) + i / steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(steps + 1)
        ]
    else:
        stops = [1 + i / steps * (path.t_min - 1) for i in range(steps + 1)]
    x = noise * schedules(path, stops[0])[1]
    for t, r in pairwise(stops):
        (a_t, s_t), (a_r, s_r) = schedules(path, t), schedules(path, r)
        slope = (a_t * a_r * STD**2 + s_t * s_r) / (a_t**2 * STD**2 + s_t**2)
        x = a_r * MEAN + slope * (x - a_t * MEAN)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [LinearPath(), VEPath()], ids=repr)
def test_on_straight_paths_euler_is_ddim(path, noise):
    flow = FlowMap.of(oracle(path))
    torch.testing.assert_close(
        samplers.euler(flow, noise, 6), samplers.ddim(flow, noise, 6), rtol=1e-11, atol=1e-11
    )


def test_one_euler_step_of_flow_matching_is_the_mean_of_the_data(noise):
    found = samplers.euler(FlowMap.of(oracle(LinearPath())), noise, 1)
    torch.testing.assert_close(found, torch.full_like(noise, MEAN), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "path", "order"),
    [
        (samplers.euler, LinearPath(), 1),
        (samplers.ddim, LinearPath(), 1),
        (samplers.ddim, TrigPath(), 1),
        (samplers.heun, LinearPath(), 2),
        (samplers.heun, TrigPath(), 2),
        (samplers.heun, VEPath(), 2),
    ],
    ids=lambda v: getattr(v, "__name__", repr(v)),
)
def test_solvers_converge_at_their_order(sampler, path, order, noise):
    """Doubling the steps divides the error by 2^order."""
    flow = FlowMap.of(oracle(path), Velocity())
    errors = [float((sampler(flow, noise, n) - exact_end(path, noise)).abs().max()) for n in (64, 128)]
    assert errors[1] > 1e-9
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.euler])
@pytest.mark.parametrize("path", [TrigPath(), VPPath()], ids=repr)
def test_euler_steps_along_curved_paths_are_refused(sampler, path, noise):
    """An average velocity, stepped as if instantaneous, leaves a curved path even where it is exact."""
    with pytest.raises(ValueError, match=r"curved path.*samplers\.heun"):
        sampler(FlowMap.of(oracle(path), AverageVelocity()), noise, 4)
    if sampler is samplers.euler:
        with pytest.raises(ValueError, match="curved path"):
            sampler(FlowMap.of(oracle(path), Velocity()), noise, 4)


# γ


@EACH
@pytest.mark.parametrize("steps", [1, 4])
def test_gamma_zero_is_the_chain(path, steps, noise):
    """For an arbitrary network."""
    flow = FlowMap(lambda x, t, r, label: torch.sin(x) + (t + 2 * r)[:, None], AverageVelocity(), path)
    found = samplers.gamma(flow, noise, steps, strength=0.0)
    torch.testing.assert_close(found, samplers.chain(flow, noise, steps), rtol=1e-9, atol=1e-9)


@EACH
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_renoising_preserves_the_marginals(path, strength):
    """The exact map and fresh noise in the right proportion: N(m, c²) at the end (Kolmogorov–Smirnov).

    At a stop r the correlation with what came before falls by √(1 − γ² κ²σ_r²/s_r²), and by no other cause.
    """
    start = torch.randn(400, 50, generator=torch.Generator().manual_seed(1), dtype=D)
    a, s = schedules(path, path.t_max)
    exact = (a * MEAN + math.hypot(a * STD, s) * start) / s  # a trace of the data is left where α(t_max) > 0
    found = samplers.gamma(FlowMap.of(oracle(path)), exact, 5, strength=strength, seed=3)
    a, s = schedules(path, path.t_min)
    assert (
        stats.kstest(found.flatten().numpy(), stats.norm(a * MEAN, math.hypot(a * STD, s)).cdf).pvalue > 1e-3
    )
    expected = 1.0
    for stop in samplers.grid(path, 5)[1:-1]:
        a, s = schedules(path, stop)
        expected *= math.sqrt(1 - strength**2 * s**2 / (a**2 * STD**2 + s**2))
    correlation = float(torch.corrcoef(torch.stack([start.flatten(), found.flatten()]))[0, 1])
    assert correlation == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("path", [*PATHS, LinearPath(sigma_min=0.01)], ids=repr)
@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
def test_fresh_noise_makes_up_the_noise_level_of_its_stop(path, strength):
    """x_r of data that are one point has the standard deviation κσ(r), however near to the data r is."""
    low = path.t_min if path.t_min else 0.005
    for stop in (1.02 * low, 2 * low, 10 * low):
        seen = []
        flow = FlowMap.of(oracle(path, std=0.0), Velocity())

        def network(x, t, r, label, flow=flow, seen=seen):
            seen.append(x)
            return flow.network(x, t, r, label)

        start = torch.randn(1, 40_000, generator=torch.Generator().manual_seed(2), dtype=D)
        samplers.gamma(flow.with_network(network), start, times=(path.t_max, stop, 0), strength=strength)
        alpha, sigma = schedules(path, stop)
        assert float(seen[1].std()) == pytest.approx(sigma, rel=0.015)
        assert float(seen[1].mean()) == pytest.approx(alpha * MEAN, abs=0.02 * sigma)


@EACH
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_last_step_adds_no_noise(path, steps, noise):
    """A map that sends everything to zero ends at exactly zero."""

    def to_zero(x, t, r, label):
        return x / (t - r)[:, None]

    found = samplers.gamma(FlowMap(to_zero, AverageVelocity(), path), noise, steps, strength=1.0)
    torch.testing.assert_close(found, torch.zeros_like(noise), rtol=0, atol=1e-9)


def test_gamma_depends_on_its_seed_and_its_noise_and_on_nothing_else(noise):
    flow = FlowMap.of(oracle(LinearPath()))
    first = samplers.gamma(flow, noise, 3, seed=1)
    torch.manual_seed(5)
    assert torch.equal(samplers.gamma(flow, noise, 3, seed=1), first)
    assert not torch.equal(samplers.gamma(flow, noise, 3, seed=2), first)


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_a_strength_outside_the_unit_interval_is_refused(strength, noise):
    with pytest.raises(ValueError, match="strength"):
        samplers.gamma(FlowMap.of(oracle(LinearPath())), noise, 2, strength=strength)


# evaluations


@pytest.mark.parametrize("sampler", ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_number_of_evaluations_is_the_documented_one(sampler, steps, noise):
    """N, for Heun 2N − 1; guidance doubles the rows, not the calls."""
    expected = 2 * steps - 1 if sampler is samplers.heun else steps
    network, label = Counting(), torch.zeros(7, dtype=torch.int64)
    sampler(FlowMap(network), noise, steps, label=label)
    assert (network.calls, network.rows) == (expected, 7 * expected)
    network = Counting()
    sampler(guide(FlowMap(network), 2.0), noise, steps, label=label)
    assert (network.calls, network.rows) == (expected, 14 * expected)


@pytest.mark.parametrize("sampler", ALL, ids=lambda f: f.__name__)
def test_labels_and_the_prior_reach_the_network(sampler):
    seen = []

    def network(x, t, r, label):
        seen.append((x.clone(), t, label))
        return torch.zeros_like(x)

    start, label = torch.ones(2, 3), torch.tensor([4, 5])
    sampler(FlowMap(network, AverageVelocity(), VEPath(noise_scale=0.5)), start, 2, label=label)
    assert torch.equal(seen[0][0], torch.full((2, 3), 40.0)) and seen[0][1].tolist() == [80.0, 80.0]
    assert all(torch.equal(asked, label) for *_, asked in seen)


@pytest.mark.parametrize("sampler", ALL, ids=lambda f: f.__name__)
def test_rows_do_not_mix(sampler, noise):
    """Each row of a batch is what it is alone; γ draws fresh noise for each row by what the row begins with."""
    flow = FlowMap.of(oracle(LinearPath()))
    whole = sampler(flow, noise, 3)
    torch.testing.assert_close(whole[2:3], sampler(flow, noise[2:3], 3), rtol=1e-14, atol=1e-14)


# grids


@EACH
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 128])
def test_grids_fall_from_noise_to_data_exactly(path, steps):
    stops = samplers.grid(path, steps)
    assert len(stops) == steps + 1
    assert stops[0] == path.t_max and stops[-1] == path.t_min, "to the last bit"
    assert all(t > r for t, r in pairwise(stops))


def test_uniform_and_karras_spacing():
    assert samplers.grid(LinearPath(), 4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert samplers.grid(VPPath(), 2) == pytest.approx([1.0, 0.5005, 1e-3], rel=1e-12)
    steps, rho = 18, 7
    karras = [
        (80 ** (1 / rho) + i / 18 * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(steps + 1)
    ]
    assert samplers.grid(VEPath(), steps) == pytest.approx(karras, rel=1e-9)


def test_given_times_are_taken_as_they_are():
    assert samplers.grid(LinearPath(), 99, times=[1, 0.6, 0]) == [1.0, 0.6, 0.0]
    assert samplers.grid(VEPath(), times=(80, 1.5, 0)) == [80.0, 1.5, 0.002], "the data end is t_min"


@pytest.mark.parametrize(
    "times",
    [[], [1], [1, 1, 0], [0, 1], [1, 0.2, 0.5, 0], [1.5, 0], [0.6, 0], [1, 0.5], [1, -0.1], [1, math.nan, 0]],
)
def test_times_that_do_not_lead_from_noise_to_data_are_refused(times):
    with pytest.raises(ValueError, match=r"from 1 \(noise\) to 0 \(data\)"):
        samplers.grid(LinearPath(), times=times)


STARTS = {name: methods.get(name).start or methods.get(name).path.t_max for name in methods.names()}
"""The time that each method is sampled from."""


@pytest.mark.parametrize("name", STARTS)
def test_every_method_is_sampled_over_times_from_its_printed_start(name):
    """The digits that a message prints are enough, the given ones are replaced by the exact, 0 ends on every path."""
    objective, start = methods.get(name), STARTS[name]
    printed, middle = float(f"{start:g}"), start / 3
    stops = samplers.grid(objective.path, times=(printed, middle, 0), start=objective.start)
    assert stops == [start, middle, objective.path.t_min]
    flow, asked = objective.flow_map(lambda x, t, r, label: torch.zeros_like(x)), torch.zeros(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert objective.sample(flow, asked, times=(printed, middle, 0)).shape == asked.shape


@pytest.mark.parametrize("name", [name for name, start in STARTS.items() if start < 1])
def test_times_from_above_the_start_of_a_method_are_refused_with_its_start(name):
    start = f"{STARTS[name]:g}"
    flow = methods.get(name).flow_map(lambda x, t, r, label: x)
    for high in (1.0, STARTS[name] + 1e-4, STARTS[name] - 1e-4):
        with pytest.raises(ValueError) as caught:
            methods.get(name).sampling.sample(flow, torch.zeros(1, 2), times=(high, 0.5, 0))
        assert f"falling times from {start} (noise) to 0 (data) are expected, such as {start}," in str(
            caught.value
        )
        assert f"; this method samples from {start}, not from 1" in str(caught.value)
    assert {name for name, start in STARTS.items() if start < 1} == {
        "consistency_training_esc", "consistency_training_esc_linear", "imm", "sid", "ect_tuned",
    }  # fmt: skip


@pytest.mark.parametrize("steps", [0, -3])
@pytest.mark.parametrize("sampler", ALL, ids=lambda f: f.__name__)
def test_fewer_than_one_step_is_refused(sampler, steps, noise):
    with pytest.raises(ValueError, match="at least one step"):
        sampler(FlowMap.of(oracle(LinearPath())), noise, steps)


# noise


def test_a_row_of_noise_depends_on_the_seed_and_its_index_bit_for_bit():
    many = samplers.noise(3, range(40), (1, 4, 4))
    assert many.shape == (40, 1, 4, 4) and many.dtype == torch.float32
    for index in (0, 17, 39):
        assert torch.equal(samplers.noise(3, [index], (1, 4, 4))[0], many[index])
    picked = samplers.noise(3, torch.tensor([17, 5, 17]), (1, 4, 4))
    assert torch.equal(picked, many[[17, 5, 17]])
    assert len({row.numpy().tobytes() for row in many}) == 40
    assert not torch.equal(samplers.noise(4, [0], (1, 4, 4))[0], many[0])
    assert samplers.noise(3, [], (1, 4, 4)).shape == (0, 1, 4, 4)


def test_noise_is_standard_normal():
    values = samplers.noise(0, range(200), (100,)).double().flatten()
    assert stats.kstest(values.numpy(), stats.norm.cdf).pvalue > 1e-3


# how a method is meant to be sampled


def test_budgets_choose_their_sampler(noise):
    """Maps below `finest` steps, the instantaneous output from there on."""
    asked = []

    def network(x, t, r, label):
        asked.append(bool((t == r).all()))
        return torch.zeros_like(x)

    sampling = samplers.Sampling().with_base(8)
    assert sampling.trained == (1, 2, 4, 8) and sampling.finest == 8
    for steps, instantaneous in [(1, False), (4, False), (7, False), (8, True), (9, True)]:
        asked.clear()
        sampling.sample(FlowMap(network), noise, steps)
        assert asked == [instantaneous] * steps
    asked.clear()
    samplers.Sampling(finest=1).sample(FlowMap(network), noise, times=(1, 0.3, 0))
    assert asked == [True, True]


@pytest.mark.parametrize(
    ("name", "equal", "other"),
    [
        ("shortcut", (1, 0.5, 0), (1, 0.6, 0)),
        ("sid", (0.714286, 0), (0.714286, 0.3, 0)),
        ("amed", (1, 0.5, 0), (1, 0.4, 0)),
        ("progressive_distillation", (1, 0), (1, 0.5, 0)),
    ],
)
def test_equal_steps_are_what_a_method_is_trained_for_also_where_their_times_are_given(name, equal, other):
    assert methods.get(name).advice(times=equal) == []
    assert "it is trained for" in methods.get(name).advice(times=other)[0]


@dataclass(frozen=True)
class Lines(oracles.Gaussian):
    """The map of a Gaussian, but along straight lines between its two ends, as reflow leaves them."""

    def scale(self, t):
        return self.path.alpha(t) * self.std + self.path.sigma(t) * self.path.noise_scale

    def velocity(self, x, t, label=None):
        path = self.path
        rate = (path.d_alpha(t) * self.std + path.d_sigma(t) * path.noise_scale) / self.scale(t)
        return like(path.d_alpha(t), x) * self.mean + like(rate, x) * (x - like(path.alpha(t), x) * self.mean)


@dataclass(frozen=True)
class Generator(oracles.Gaussian):
    """A map of one step from noise of level κσ(start), without any data in it."""

    start: float = 1.0

    def __call__(self, x, t, r, label=None):
        return self.mean + self.std * x / (
            self.path.noise_scale * float(self.path.sigma(torch.tensor(self.start)))
        )


def perfect(name: str) -> FlowMap:
    """What a method learns of N(0.4, 0.6²) when it learns it perfectly, told what its network is told."""
    objective = methods.get(name)
    exact = oracles.Gaussian(0.4, 0.6, objective.path)
    if name in ("reflow", "live_reflow"):
        exact = Lines(0.4, 0.6, objective.path)
    if name == "sid":
        exact = Generator(0.4, 0.6, objective.path, objective.start)
    known = FlowMap.of(exact, objective.parameterization).network

    class Network:
        def __call__(self, x, t, r, label):
            landing = torch.full_like(t, objective.path.t_min) if objective.conditioning == "t" else r
            return known(x, t, landing, label)

    network = Network()
    if objective.sampling.evaluations == 2:
        network.solver_step = lambda flow, x, t, r, label: exact(x, t, r)
    return objective.flow_map(network)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", methods.names())
def test_a_method_that_is_learned_perfectly_gives_the_data_in_any_number_of_steps_it_is_made_for(name):
    """Mean 0.4, standard deviation 0.6; a solver of first order, which has no map, comes to them as 1/steps."""
    objective, flow = methods.get(name), perfect(name)
    noise = torch.randn(40, 400, generator=torch.Generator().manual_seed(1), dtype=D)
    noise = (noise - noise.mean()) / noise.std()
    made_for = [steps for steps in (1, 2, 3, 4, 7, 16) if not objective.advice(steps)]
    for steps in made_for:
        found = objective.sample(flow, noise, steps)
        left = 2.5 / steps if name in ("flow_matching", "diffusion") else 0.02
        assert float(found.mean()) == pytest.approx(0.4, abs=0.015), steps
        assert float(found.std()) == pytest.approx(0.6, rel=left), steps
    some = {
        "flow_matching": [16], "diffusion": [16], "amed": [4], "sid": [1], "progressive_distillation": [1],
        "consistency_distillation": [1], "energy_distance": [1], "w_flow": [1], "drifting": [1],
    }  # fmt: skip
    dyadic = [1, 2, 4, 16] if name.startswith("shortcut") else [1, 2, 3, 4, 7, 16]
    assert made_for == some.get(name, dyadic)


@pytest.mark.parametrize(
    "name", ["consistency_training", "ict", "ect", "sct", "tcm", "consistency_distillation"]
)
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_map_to_the_data_alone_is_not_made_for_a_chain(name, strength):
    """Learned perfectly, chained in 4 steps, its samples have another spread; fresh noise between steps mends it."""
    objective = methods.get(name)
    chained = replace(objective, sampling=replace(objective.sampling, renoise=strength))
    (said,) = chained.advice(4)
    assert "trained to go to the data only" in said and "--renoise 1" in said and chained.advice(1) == []
    noise = torch.randn(20, 400, generator=torch.Generator().manual_seed(1), dtype=D)
    flow = perfect(name)
    with pytest.warns(UserWarning, match="go to the data only"):
        assert not 0.55 < float(chained.sample(flow, noise, 4).std()) < 0.7
    fresh = replace(objective, sampling=replace(objective.sampling, renoise=1.0))
    assert fresh.advice(4) == [] and float(fresh.sample(flow, noise, 4).std()) == pytest.approx(0.6, rel=0.03)


def test_lines_of_pairs_are_not_made_for_fresh_noise():
    """What live reflow learns holds on its own lines, where points with other noise do not lie."""
    objective = methods.live_reflow()
    fresh = replace(objective, sampling=replace(objective.sampling, renoise=1.0))
    assert "straight lines, which fresh noise leaves" in fresh.advice(4)[0] and objective.advice(4) == []
    noise = torch.randn(20, 400, generator=torch.Generator().manual_seed(1), dtype=D)
    with pytest.warns(UserWarning, match="fresh noise leaves"):
        assert float(fresh.sample(perfect("live_reflow"), noise, 4).std()) < 0.57


@pytest.mark.parametrize(
    ("sampling", "steps", "uniform", "said"),
    [
        (samplers.Sampling(), 1, True, None),
        (samplers.Sampling(), 77, False, None),
        (samplers.Sampling(finest=1, least=16), 1, True, "needs many steps (16 or more)"),
        (samplers.Sampling(finest=1, least=16), 16, True, None),
        (samplers.Sampling().with_base(8), 3, True, "trained for 1, 2, 4, 8 uniform steps"),
        (samplers.Sampling().with_base(8), 4, True, None),
        (samplers.Sampling().with_base(8), 2, False, "trained for 1, 2, 4, 8 uniform steps"),
    ],
    ids=str,
)
def test_advice_names_the_budgets_a_method_was_trained_for(sampling, steps, uniform, said):
    advice = sampling.advice(steps, uniform)
    assert advice is None if said is None else said in advice
