"""Paths against closed forms of their papers, finite differences, scipy quadrature and naive softmaxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from flowleap import oracles
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath

PATHS = [
    LinearPath(),
    LinearPath(noise_scale=0.5),
    LinearPath(sigma_min=0.01),
    TrigPath(),
    TrigPath(noise_scale=0.5),
    VPPath(),
    VPPath(beta_min=0.2, beta_max=12.0, t_min=0.01, noise_scale=2.0),
    VEPath(),
    VEPath(noise_scale=0.5),
]
SHARES = st.floats(0.0, 1.0)


@pytest.fixture(params=PATHS, ids=repr)
def path(request):
    return request.param


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def between(path, share: float) -> torch.Tensor:
    """A time of the path's domain; geometric where the time is a noise level."""
    if path.t_max > 1:
        return f64(path.t_min * (path.t_max / path.t_min) ** share)
    return f64(path.t_min + (path.t_max - path.t_min) * share)


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))


# schedules


@pytest.mark.parametrize(
    ("path", "alpha", "sigma"),
    [
        (LinearPath(), lambda t: 1 - t, lambda t: t),
        (LinearPath(sigma_min=1e-5), lambda t: 1 - t, lambda t: 1 - (1 - 1e-5) * (1 - t)),
        (TrigPath(), lambda t: math.cos(math.pi * t / 2), lambda t: math.sin(math.pi * t / 2)),
        (VEPath(), lambda t: 1.0, lambda t: t),
    ],
    ids=["linear", "linear with kvfrans' floor", "trigonometric", "exploding"],
)
@pytest.mark.parametrize("t", [0.002, 0.3, 0.77, 1.0])
def test_schedules_are_those_of_the_papers(path, alpha, sigma, t):
    assert float(path.alpha(f64(t))) == pytest.approx(alpha(t), abs=1e-15)
    assert float(path.sigma(f64(t))) == pytest.approx(sigma(t), abs=1e-15)


@pytest.mark.parametrize("t", [1e-3, 0.02, 0.4, 1.0])
def test_variance_preserving_schedule_integrates_its_noise_rate(t):
    """α = exp(−½ ∫₀ᵗ β), β(τ) = β_min + τ (β_max − β_min), α² + σ² = 1; α' = −½ βα, σ' = ½ βα²/σ."""
    path = VPPath(beta_min=0.1, beta_max=20.0)

    def beta(tau):
        return 0.1 + tau * 19.9

    alpha = math.exp(-0.5 * integrate.quad(beta, 0, t)[0])
    sigma = math.sqrt(1 - alpha**2)
    time = f64(t)
    assert float(path.alpha(time)) == pytest.approx(alpha, rel=1e-12)
    assert float(path.sigma(time)) == pytest.approx(sigma, rel=1e-10)
    assert float(path.d_alpha(time)) == pytest.approx(-0.5 * beta(t) * alpha, rel=1e-12)
    assert float(path.d_sigma(time)) == pytest.approx(0.5 * beta(t) * alpha**2 / sigma, rel=1e-10)


@given(share=st.floats(0.03, 0.97), seed=st.integers(0, 99))
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_velocity_is_the_derivative_of_the_point(path, share, seed):
    """Four-point central differences of t ↦ x_t at a fixed (x, ε)."""
    x, noise = pair((1, 3), seed)
    t = between(path, share)
    h = 1e-4 * t
    far = path.point(x, noise, t + 2 * h) - path.point(x, noise, t - 2 * h)
    near = path.point(x, noise, t + h) - path.point(x, noise, t - h)
    torch.testing.assert_close(path.velocity(x, noise, t), (8 * near - far) / (12 * h), rtol=1e-8, atol=1e-8)


@given(first=SHARES, second=SHARES, seed=st.integers(0, 99))
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_ddim_transfer_keeps_the_pair(path, first, second, seed):
    """a x_t + b v_c = α_r x + κ σ_r ε for every (t, r), also upwards."""
    x, noise = pair((1, 4), seed)
    t, r = between(path, first), between(path, second)
    a, b = path.transfer(t, r)
    arrived = a * path.point(x, noise, t) + b * path.velocity(x, noise, t)
    expected = float(path.alpha(r)) * x + float(path.sigma(r)) * path.noise_scale * noise
    size = float(path.point(x, noise, t).abs().max()) + 1
    torch.testing.assert_close(arrived, expected, rtol=1e-11, atol=1e-12 * size)


@given(share=st.floats(0.0, 0.999))
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_time_at_inverts_the_noise_to_signal_ratio(path, share):
    t = between(path, share)
    torch.testing.assert_close(path.time_at(path.sigma(t) / path.alpha(t)), t, rtol=1e-10, atol=1e-12)


def test_time_at_stays_in_the_domain(path):
    found = path.time_at(f64(0.0, 1e-9, 1e9))
    assert bool(((found >= path.t_min) & (found <= path.t_max)).all())


def test_prior_has_the_standard_deviation_of_the_noise_end(path):
    """κ σ(t_max): κ where σ(1) = 1, 80 κ for the exploding path."""
    expected = {LinearPath: 1.0, TrigPath: 1.0, VEPath: 80.0, VPPath: None}[type(path)]
    if expected is None:
        expected = math.sqrt(1 - math.exp(-path.beta_min - (path.beta_max - path.beta_min) / 2))
    torch.testing.assert_close(path.prior(f64(1.0, -2.0)), f64(1.0, -2.0) * expected * path.noise_scale)


def test_times_broadcast_over_the_rows_of_images(path):
    """A batch of images is as good as its rows one by one."""
    x, noise = pair((3, 2, 4, 5))
    t = torch.cat([between(path, share) for share in (0.2, 0.5, 0.9)])
    for method in (path.point, path.velocity, path.velocity_from_mean):
        args = (x, noise, t) if method != path.velocity_from_mean else (x, t, noise)
        whole = method(*args)
        for i in range(3):
            torch.testing.assert_close(
                whole[i : i + 1], method(*(a[i : i + 1] for a in args)), rtol=0, atol=0
            )


@given(share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_velocity_from_a_mean_is_the_velocity_of_the_implied_pair(path, share, seed):
    x_t, mean = pair((1, 3), seed)
    t = between(path, share)
    implied = (x_t - path.alpha(t) * mean) / (path.sigma(t) * path.noise_scale)
    expected = path.d_alpha(t) * mean + path.d_sigma(t) * path.noise_scale * implied
    torch.testing.assert_close(path.velocity_from_mean(x_t, t, mean), expected, rtol=1e-10, atol=1e-10)


# the same flow under other clocks


@pytest.mark.parametrize("kind", ["gaussian", "two points"])
@pytest.mark.parametrize(
    ("path", "departure", "landing"),
    [
        (TrigPath(), 0.85, 0.35),
        (TrigPath(), 0.6, 0.1),
        (VEPath(), 7.0, 0.3),
        (VEPath(), 1.5, 0.2),
        (VPPath(), 0.6, 0.2),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else f"{value:g}",
)
def test_all_paths_are_the_linear_one_after_rescaling(kind, path, departure, landing):
    """x/(α + σ) on any path is a point of the linear path at time σ/(α + σ), and exact maps agree."""
    schedules = {
        TrigPath: lambda t: (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)),
        VEPath: lambda t: (1.0, t),
        VPPath: lambda t: (
            math.exp(-0.05 * t - 4.975 * t**2),
            math.sqrt(1 - math.exp(-0.1 * t - 9.95 * t**2)),
        ),
    }[type(path)]

    def oracle(path):
        if kind == "gaussian":
            return oracles.Gaussian(mean=0.7, std=0.4, path=path)
        return oracles.TwoPoints(path=path)

    (a_t, s_t), (a_r, s_r) = schedules(departure), schedules(landing)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    ones = torch.ones(9, dtype=torch.float64)
    straight = oracle(LinearPath())(x, ones * s_t / (a_t + s_t), ones * s_r / (a_r + s_r))
    curved = oracle(path)(x * (a_t + s_t), ones * departure, ones * landing)
    torch.testing.assert_close(curved / (a_r + s_r), straight, rtol=1e-9, atol=1e-10)


# posterior means


def naive_posterior_mean(path, x_t, t, data, member=None):
    """Σ_j w_ij x_j with every difference x_t,i − α_i x_j written out: (B, M, D)."""
    alpha, sigma = path.alpha(t)[:, None, None], path.sigma(t)[:, None, None] * path.noise_scale
    differences = (x_t.flatten(1)[:, None] - alpha * data.flatten(1)[None]) / sigma
    logits = -0.5 * differences.square().sum(2)
    if member is not None:
        logits = torch.where(member, logits, -math.inf)
    weights = torch.exp(logits - logits.amax(1, keepdim=True))
    weights = weights / weights.sum(1, keepdim=True)
    return (weights[:, :, None] * data.flatten(1)[None]).sum(1).reshape(x_t.shape)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 3)])
def test_posterior_mean_in_gram_form_is_the_naive_one(path, shape, masked):
    x, noise = pair((12, *shape), 1)
    data = pair((17, *shape), 2)[0]
    t = torch.cat([between(path, 0.4 + 0.6 * i / 11) for i in range(12)])
    member = torch.rand(12, 17, generator=torch.Generator().manual_seed(3)) < 0.5 if masked else None
    x_t = path.point(x, noise, t)
    found = path.posterior_mean(x_t, t, data, member)
    torch.testing.assert_close(found, naive_posterior_mean(path, x_t, t, data, member), rtol=0, atol=1e-12)


def test_posterior_mean_ignores_rows_that_are_no_members(path):
    x, noise = pair((6, 4), 1)
    t = torch.cat([between(path, 0.9)] * 6)
    x_t = path.point(x, noise, t)
    label = torch.tensor([0, 1, 0, 1, 1, 2])
    found = path.posterior_mean(x_t, t, x, label[:, None] == label[None])
    for value in range(3):
        own = label == value
        alone = path.posterior_mean(x_t[own], t[own], x[own])
        torch.testing.assert_close(found[own], alone, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found[5], x[5], rtol=0, atol=1e-13)


def test_posterior_mean_is_bayes_rule():
    """Σ_j x_j p(x_t | x_j) / Σ_j p(x_t | x_j) with scipy's normal density, in one dimension."""
    data, t, z = np.array([-1.0, 0.2, 1.5]), 0.6, 0.35
    density = norm.pdf(z, loc=0.4 * data, scale=0.6 * 0.5)
    expected = float((density * data).sum() / density.sum())
    found = LinearPath(noise_scale=0.5).posterior_mean(f64(z)[:, None], f64(t), f64(*data)[:, None])
    assert float(found) == pytest.approx(expected, rel=1e-13)


def test_posterior_mean_of_pure_noise_is_the_mean_of_the_data():
    x, noise = pair((20, 3))
    found = LinearPath().posterior_mean(noise, torch.ones(20, dtype=torch.float64), x)
    torch.testing.assert_close(found, x.mean(0).expand(20, 3), rtol=0, atol=1e-14)


def test_posterior_mean_near_the_data_is_the_row_itself_and_finite_in_single_precision():
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    t = torch.cat([torch.zeros(8), torch.full((8,), 1e-6), torch.full((16,), 1e-3)])
    found = LinearPath().posterior_mean(LinearPath().point(x, x.flip(0), t), t, x)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


def test_posterior_mean_of_a_row_without_members_is_nan_and_of_the_others_is_not():
    x, noise = pair((2, 3))
    member = torch.tensor([[True, True], [False, False]])
    found = LinearPath().posterior_mean(noise, f64(0.5, 0.5), x, member)
    assert bool(found[0].isfinite().all()) and bool(found[1].isnan().all())
