"""Exact flows against scipy: quadrature for velocities, an ODE solver for maps; golden numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import norm

from flowleap.oracles import FiniteData, Gaussian, TwoPoints
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath

D = torch.float64
PATHS = [LinearPath(), LinearPath(noise_scale=0.5), TrigPath(), TrigPath(noise_scale=0.5), VPPath(), VEPath()]
JUMPS = {LinearPath: (0.9, 0.15), TrigPath: (0.9, 0.15), VPPath: (0.8, 0.1), VEPath: (6.0, 0.2)}
EACH = pytest.mark.parametrize("path", PATHS, ids=repr)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=D)


def scalars(path, t: float) -> tuple[float, float, float, float]:
    """α, κσ, α', κσ' as plain numbers."""
    time, kappa = f64(t), path.noise_scale
    found = path.alpha(time), path.sigma(time) * kappa, path.d_alpha(time), path.d_sigma(time) * kappa
    return tuple(float(v) for v in found)


def posterior_moments(path, t: float, z: float, mean: float, std: float) -> tuple[float, float, float]:
    """E[x | z], E[v_c | z], Var(v_c | z) for Gaussian data by quadrature over x, ε = (z − αx)/κσ."""
    alpha, sigma, d_alpha, d_sigma = scalars(path, t)

    def weight(x):
        return norm.pdf(x, mean, std) * norm.pdf(z, alpha * x, sigma)

    def velocity(x):
        return d_alpha * x + d_sigma * (z - alpha * x) / sigma

    def integral(f):
        return integrate.quad(f, mean - 12 * std, mean + 12 * std, epsabs=1e-14, epsrel=1e-12, limit=400)[0]

    total = integral(weight)
    first = integral(lambda x: weight(x) * x) / total
    v = integral(lambda x: weight(x) * velocity(x)) / total
    variance = integral(lambda x: weight(x) * (velocity(x) - v) ** 2) / total
    return first, v, variance


@EACH
@pytest.mark.parametrize("z", [-1.2, 0.4])
def test_gaussian_posterior_by_quadrature(path, z):
    t = JUMPS[type(path)][0] / 2
    oracle = Gaussian(mean=0.3, std=0.6, path=path)
    mean, velocity, variance = posterior_moments(path, t, z, 0.3, 0.6)
    time, x = f64(t), f64(z)[:, None]
    assert float(oracle.posterior_mean(x, time)) == pytest.approx(mean, rel=1e-8)
    assert float(oracle.velocity(x, time)) == pytest.approx(velocity, rel=1e-8)
    assert float(oracle.velocity_variance(time)) == pytest.approx(variance, rel=1e-7)


def solved(oracle, x: float, t: float, r: float) -> float:
    """The map by an eighth-order Runge–Kutta method on the oracle's own velocity."""

    def slope(time, z):
        return oracle.velocity(f64(*z)[:, None], f64(time).expand(len(z))).numpy().ravel()

    return float(integrate.solve_ivp(slope, (t, r), [x], method="DOP853", rtol=1e-11, atol=1e-12).y[0, -1])


@EACH
@pytest.mark.parametrize("kind", ["gaussian", "two points"])
@pytest.mark.parametrize("x", [-0.8, 0.03, 2.1])
def test_maps_solve_the_differential_equation_of_their_velocity(path, kind, x):
    t, r = JUMPS[type(path)]
    oracle = Gaussian(mean=0.3, std=0.6, path=path) if kind == "gaussian" else TwoPoints(path)
    found = float(oracle(f64(x)[:, None], f64(t), f64(r)))
    assert found == pytest.approx(solved(oracle, x, t, r), rel=1e-8, abs=1e-8)


def mass_inside(path, t: float, z: float) -> float:
    """P(0 < x_t < |z|): in the valley between the modes a position is lost in rounding."""
    alpha, sigma, _, _ = scalars(path, t)
    high, low = (
        norm.cdf([(abs(z) - alpha) / sigma, -alpha / sigma]),
        norm.cdf([(abs(z) + alpha) / sigma, alpha / sigma]),
    )
    return float((high[0] - high[1] + low[0] - low[1]) / 2)


@EACH
@pytest.mark.parametrize("kind", ["gaussian", "two points"])
def test_maps_form_a_semigroup_with_the_identity(path, kind):
    """X_{s→r} ∘ X_{t→s} = X_{t→r}, X_{t→t} = x."""
    oracle = Gaussian(mean=0.3, std=0.6, path=path) if kind == "gaussian" else TwoPoints(path)
    random = torch.Generator().manual_seed(0)
    times = (0.06 + 0.89 * torch.rand(60, 3, generator=random, dtype=D)).sort(dim=1).values
    r, s, t = (times * path.t_max if path.t_max <= 1 else 0.1 + 5 * times).unbind(1)
    x = (6 * torch.rand(60, generator=random, dtype=D) - 3) * (
        path.alpha(t) + path.sigma(t) * path.noise_scale
    )
    if kind == "two points":
        inside = torch.tensor(
            [mass_inside(path, *row) > 1e-6 for row in zip(t.tolist(), x.tolist(), strict=True)]
        )
        r, s, t, x = r[inside], s[inside], t[inside], x[inside]
        assert len(x) > 20
    x = x[:, None]
    direct = oracle(x, t, r)
    torch.testing.assert_close(oracle(oracle(x, t, s), s, r), direct, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(oracle(x, t, t), x, rtol=1e-9, atol=1e-9)


# golden numbers


def test_golden_exploding_endpoint():
    """c x/√(c² + σ²), c = 0.5, σ = 2, x = 3."""
    found = Gaussian(std=0.5, path=VEPath())(f64(3.0)[:, None], f64(2.0), f64(0.0))
    assert float(found) == pytest.approx(0.7276068751, abs=5e-11)


def test_golden_velocity_variance():
    """c²κ²/s² on the linear path; 0.742874 belongs to c = 0.7, κ = 1, t = 0.8: 0.49/0.6596."""
    assert float(Gaussian(std=0.7).velocity_variance(f64(0.8))) == pytest.approx(0.742874, abs=5e-7)


def test_a_rotation_of_data_as_wide_as_the_noise_stands_still():
    oracle = Gaussian(mean=0.0, std=0.5, path=TrigPath(noise_scale=0.5))
    x, t = torch.linspace(-3, 3, 7, dtype=D)[:, None], torch.linspace(0.1, 1, 7, dtype=D)
    torch.testing.assert_close(oracle.velocity(x, t), torch.zeros_like(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(oracle(x, t, t / 3), x, rtol=1e-14, atol=0)


@EACH
def test_data_without_spread_is_reached_from_everywhere(path):
    """c = 0: X_{t→r} → m where no noise is left."""
    oracle, x = Gaussian(mean=0.7, std=0.0, path=path), f64(-2.0, 0.0, 5.0)[:, None]
    end = f64(0.0).expand(3)
    if not isinstance(path, VPPath):  # σ'(0) is infinite there, the map is not
        torch.testing.assert_close(oracle(x, f64(0.5).expand(3), end), torch.full_like(x, 0.7))
    torch.testing.assert_close(oracle.posterior_mean(x, f64(0.5).expand(3)), torch.full_like(x, 0.7))


def test_one_euler_step_of_flow_matching_is_the_mean():
    oracle, noise = Gaussian(mean=0.7, std=0.4), f64(-1.0, 0.0, 2.0)[:, None]
    arrived = noise - oracle.velocity(noise, torch.ones(3, dtype=D))
    torch.testing.assert_close(arrived, torch.full_like(noise, 0.7), rtol=1e-14, atol=1e-14)


def test_the_mean_may_be_an_image():
    mean = torch.arange(6.0, dtype=D).reshape(1, 2, 3)
    whole = Gaussian(mean=mean, std=0.6)
    x = torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    t, r = torch.full((4,), 0.8, dtype=D), torch.full((4,), 0.3, dtype=D)
    found, velocity = whole(x, t, r), whole.velocity(x, t)
    for i, j in [(0, 0), (1, 2)]:
        single = Gaussian(mean=float(mean[0, i, j]), std=0.6)
        torch.testing.assert_close(found[:, 0, i, j, None], single(x[:, 0, i, j, None], t, r))
        torch.testing.assert_close(velocity[:, 0, i, j, None], single.velocity(x[:, 0, i, j, None], t))


# two points


@EACH
@pytest.mark.parametrize("z", [-2.0, -0.3, 0.0, 1.1])
def test_two_points_posterior_is_bayes_rule(path, z):
    t = JUMPS[type(path)][0] / 2
    alpha, sigma, d_alpha, d_sigma = scalars(path, t)
    x = np.array([-1.0, 1.0])
    weight = norm.pdf(z, alpha * x, sigma)
    mean = (weight * x).sum() / weight.sum()
    velocity = (weight * (d_alpha * x + d_sigma * (z - alpha * x) / sigma)).sum() / weight.sum()
    oracle, point, time = TwoPoints(path), f64(z)[:, None], f64(t)
    assert float(oracle.posterior_mean(point, time)) == pytest.approx(mean, abs=1e-12)
    assert float(oracle.velocity(point, time)) == pytest.approx(velocity, abs=1e-11)


@pytest.mark.parametrize("x", [-6.0, -2.5, -0.2, 0.7, 4.0, 7.0])
@pytest.mark.parametrize(("t", "r"), [(1.0, 0.05), (0.9, 0.5), (0.3, 0.1)])
def test_two_points_keep_the_cumulative_probability(x, t, r):
    """P(x_t > |z|) = ½ S((|z| − α)/σ) + ½ S((|z| + α)/σ), by scipy in logarithms, before and after."""

    def log_survival(z, time):
        terms = [norm.logsf((z - (1 - time)) / time), norm.logsf((z + (1 - time)) / time)]
        return np.logaddexp(*terms)

    landed = float(TwoPoints()(f64(x)[:, None], f64(t), f64(r)))
    assert math.copysign(1, landed) == math.copysign(1, x)
    # compare positions, not probabilities: slope of the logarithm at the landing point
    slope = (log_survival(abs(landed) + 1e-6, r) - log_survival(abs(landed) - 1e-6, r)) / 2e-6
    assert abs((log_survival(abs(landed), r) - log_survival(abs(x), t)) / slope) < 1e-8


@pytest.mark.parametrize("variable", ["x", "t", "r"])
@pytest.mark.parametrize("x", [-1.3, 0.4, 2.0])
def test_two_points_map_is_differentiable_once(variable, x):
    """Forward-mode derivatives in x, t and r against four-point differences."""
    start = {"x": f64(x), "t": f64(0.8), "r": f64(0.3)}
    oracle = TwoPoints()

    def along(value):
        inputs = {**start, variable: value}
        return oracle(inputs["x"][:, None], inputs["t"], inputs["r"])[:, 0]

    rate = torch.func.jvp(along, (start[variable],), (torch.ones(1, dtype=D),))[1]
    h, at = 1e-3, start[variable]
    difference = (8 * (along(at + h) - along(at - h)) - along(at + 2 * h) + along(at - 2 * h)) / (12 * h)
    torch.testing.assert_close(rate, difference, rtol=1e-7, atol=1e-7)


def test_two_points_treat_every_dimension_alone():
    oracle = TwoPoints()
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    t, r = torch.linspace(0.5, 1, 5, dtype=D), torch.linspace(0.1, 0.4, 5, dtype=D)
    whole = oracle(x, t, r)
    torch.testing.assert_close(whole[:, 1, 2, None], oracle(x[:, 1, 2, None], t, r), rtol=0, atol=0)
    torch.testing.assert_close(oracle(-x, t, r), -whole, rtol=0, atol=1e-12)


# finite data


@pytest.mark.parametrize("path", [LinearPath(), TrigPath(), VEPath()], ids=repr)
def test_finite_data_of_two_points_has_their_velocity(path):
    """The whole set {−1, 1} reproduces tanh."""
    x = torch.linspace(-2, 2, 9, dtype=D)[:, None]
    t = torch.linspace(0.2, 0.9, 9, dtype=D)
    found = FiniteData(f64(-1.0, 1.0)[:, None], path=path).velocity(x, t)
    torch.testing.assert_close(found, TwoPoints(path).velocity(x, t), rtol=1e-11, atol=1e-12)


def test_finite_data_given_a_class_is_that_class_alone():
    random = torch.Generator().manual_seed(0)
    data, x = torch.randn(12, 3, generator=random, dtype=D), torch.randn(5, 3, generator=random, dtype=D)
    label, asked = torch.arange(12) % 3, torch.tensor([0, 1, 2, 1, 0])
    t = torch.linspace(0.3, 1, 5, dtype=D)
    whole = FiniteData(data, label).velocity(x, t, asked)
    for i in range(5):
        alone = FiniteData(data[label == asked[i]]).velocity(x[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(FiniteData(data, label).velocity(x, t), FiniteData(data).velocity(x, t))
