"""Coefficients (a, b) against what each output is said to mean, their rates against finite differences."""

from __future__ import annotations

import pytest
import torch

from flowleap.parameterization import EDM, AverageVelocity, Endpoint, Noise, Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath

MEANINGS = [AverageVelocity(), Velocity(), Endpoint(), Noise(), EDM(), EDM(sigma_data=1.3)]
PATHS = [
    LinearPath(),
    LinearPath(noise_scale=0.5),
    TrigPath(noise_scale=0.7),
    VPPath(),
    VPPath(noise_scale=2.0),
    VEPath(noise_scale=0.5),
]
SINGULAR = {(Noise, LinearPath), (Noise, TrigPath)}
REGULAR = [(m, p) for m in MEANINGS for p in PATHS if (type(m), type(p)) not in SINGULAR]
ALL = pytest.mark.parametrize(("meaning", "path"), REGULAR, ids=lambda v: repr(v))
FIRST, SECOND = (
    torch.rand(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.9 + 0.05
)
FIRST[:4], SECOND[:4] = (
    torch.tensor(ends, dtype=torch.float64) for ends in ((0.95, 0.95, 0.05, 0.5), (0.05, 0.95, 0.05, 0.501))
)


def between(path, share: float | torch.Tensor) -> torch.Tensor:
    share = torch.as_tensor(share, dtype=torch.float64).reshape(-1)
    if path.t_max > 1:
        return path.t_min * (path.t_max / path.t_min) ** share
    return path.t_min + (path.t_max - path.t_min) * share


def jumps(path) -> tuple[torch.Tensor, torch.Tensor]:
    """Times t ≥ r all over the domain of a path."""
    return between(path, torch.maximum(FIRST, SECOND)), between(path, torch.minimum(FIRST, SECOND))


def slope(function, t: torch.Tensor) -> torch.Tensor:
    """Four-point central difference."""
    h = 1e-4 * t
    return (8 * (function(t + h) - function(t - h)) - function(t + 2 * h) + function(t - 2 * h)) / (12 * h)


@ALL
def test_a_jump_of_length_zero_stays(meaning, path):
    t = between(path, FIRST)
    a, b = meaning.coefficients(path, t, t)
    assert float((a - 1).abs().max()) < 1e-13 and float(b.abs().max()) < 1e-13


@ALL
def test_rates_are_the_derivatives_of_the_coefficients(meaning, path):
    t, r = jumps(path)
    departure = meaning.departure_rates(path, t, r)
    landing = meaning.landing_rates(path, t)
    for which in (0, 1):
        by_t = slope(lambda time, w=which: meaning.coefficients(path, time, r)[w], t)
        by_r = slope(lambda time, w=which: meaning.coefficients(path, t, time)[w], t)
        torch.testing.assert_close(departure[which], by_t, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(landing[which], by_r, rtol=1e-7, atol=1e-8)
    assert bool((landing[1] != 0).all()), (
        "∂_r b must not vanish on the diagonal: F could not be read off a velocity"
    )


def output_of_pair(meaning, path, x, noise, t, r):
    """What the network ought to say at the point of one (x, ε), from the words of the table alone."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    x_t = alpha * x + sigma * path.noise_scale * noise
    x_r = path.alpha(r) * x + path.sigma(r) * path.noise_scale * noise
    match meaning:
        case AverageVelocity():
            return (x_t - x_r) / (t - r)
        case Velocity():
            return path.d_alpha(t) * x + path.d_sigma(t) * path.noise_scale * noise
        case Endpoint():
            return x
        case Noise():
            return noise
        case EDM(sigma_data=data):
            # Karras et al. for the rescaled point x_t/α with noise level s = κσ/α
            s = sigma * path.noise_scale / alpha
            skip, out = data**2 / (s**2 + data**2), s * data / (s**2 + data**2).sqrt()
            return (x - skip * x_t / alpha) / out
    raise AssertionError(meaning)


@ALL
def test_the_output_means_what_its_name_says(meaning, path):
    """With the output of one known (x, ε), a·x_t + b·F is x_r."""
    t, r = jumps(path)
    t, r = t[far := (FIRST - SECOND).abs() >= 1e-3], r[far]
    x, noise = torch.randn(2, len(t), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b = meaning.coefficients(path, t, r)
    arrived = a * path.point(x, noise, t) + b * output_of_pair(meaning, path, x, noise, t, r)
    torch.testing.assert_close(arrived, path.point(x, noise, r), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 3.0, 80.0])
def test_edm_on_the_exploding_path_is_karras_table(sigma):
    """A = r/σ + (1 − r/σ) c_skip, B = (1 − r/σ) c_out, c_in = 1/√(σ² + σ_d²)."""
    sigma_d, landing = 0.5, 0.004
    t, r = torch.tensor([sigma], dtype=torch.float64), torch.tensor([landing], dtype=torch.float64)
    a, b = EDM(sigma_d).coefficients(VEPath(), t, r)
    total = sigma**2 + sigma_d**2
    keep = landing / sigma
    assert float(a) == pytest.approx(keep + (1 - keep) * sigma_d**2 / total, rel=1e-12)
    assert float(b) == pytest.approx((1 - keep) * sigma * sigma_d / total**0.5, rel=1e-12)
    assert float(EDM(sigma_d).input_scale(VEPath(), t)) == pytest.approx(total**-0.5, rel=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_edm_inputs_have_unit_variance(path):
    """Var(c_in x_t) = 1 for data of standard deviation σ_d; the others leave the input alone."""
    for share in (0.1, 0.5, 1.0):
        t = between(path, share)
        variance = (path.alpha(t) * 0.5) ** 2 + (path.sigma(t) * path.noise_scale) ** 2
        assert float(EDM(0.5).input_scale(path, t) ** 2 * variance) == pytest.approx(1, rel=1e-12)
    for meaning in (AverageVelocity(), Velocity(), Endpoint(), Noise()):
        assert meaning.input_scale(path, t) is None


@ALL
def test_regular_pairs_are_accepted(meaning, path):
    assert meaning.singularity(path) is None


@pytest.mark.parametrize("path", [LinearPath(), LinearPath(noise_scale=0.5), TrigPath()], ids=repr)
def test_noise_is_singular_where_no_signal_is_left(path):
    """1/α(t) at t = 1."""
    assert "(t, r) = (1, " in Noise().singularity(path)


def least_rate(meaning, path) -> float:
    """min |∂_t b| relative to its largest over a fine grid of jumps; negative where it changes sign."""
    low, high = path.t_min, path.t_max
    t = torch.linspace(low, high, 200, dtype=torch.float64)[1:]
    r = torch.linspace(low, high, 199, dtype=torch.float64)
    t, r = (v.flatten() for v in torch.meshgrid(t, r, indexing="ij"))
    t, r = t[t > r + 1e-3 * high], r[t > r + 1e-3 * high]
    rate = slope(lambda time: meaning.coefficients(path, time, r)[1], t)
    return float((rate * torch.sign(rate[0])).min() / rate.abs().max())


@pytest.mark.parametrize(
    ("meaning", "path"), [(m, p) for m, p in REGULAR if type(p) is not VEPath], ids=lambda v: repr(v)
)
def test_eulerian_targets_are_refused_exactly_where_their_divisor_vanishes(meaning, path):
    """F* divides by ∂_t b: the verdict agrees with a fine scan that knows nothing of it."""
    reason = meaning.eulerian_singularity(path)
    assert (reason is not None) == (least_rate(meaning, path) < 1e-7), reason
    if reason is not None:
        assert "∂_t b vanishes at (t, r) = (1, 0)" in reason


def test_the_full_trigonometric_jump_is_the_singular_one():
    assert "(1, 0)" in Velocity().eulerian_singularity(TrigPath())
    assert AverageVelocity().eulerian_singularity(TrigPath()) is None
    assert Velocity().eulerian_singularity(LinearPath()) is None


@ALL
def test_only_an_average_velocity_on_a_curved_path_is_refused_as_a_step(meaning, path):
    """Every other meaning steps exactly with its output of one (x, ε), Euler on straight paths only."""
    refusal = meaning.euler_refusal(path)
    curved = isinstance(path, TrigPath | VPPath)
    assert (refusal is not None) == (isinstance(meaning, AverageVelocity) and curved)
    if refusal is not None:
        assert "AverageVelocity on " in refusal and "Velocity()" in refusal
