"""Losses against their formulas, gradients against theirs, the learned weight against a minimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from flowleap.losses import AdaptivePower, LearnedVariance, PseudoHuber, Squared, Weighted
from flowleap.paths import LinearPath, TrigPath
from flowleap.point import Point, Regression
from flowleap.tensors import like, squared_norm

D = torch.float64
SHAPE = (5, 2, 3)
DIMS = 6


def point(batch: int = 5) -> Point:
    x, t = torch.zeros(batch, 1, dtype=D), torch.zeros(batch, dtype=D)
    return Point(LinearPath(), x, x, t, t, t, x, 0)


def regression(seed: int = 0, dtype=D, log_variance=None) -> Regression:
    random = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, *SHAPE, generator=random, dtype=D).to(dtype)
    return Regression(prediction.requires_grad_(), target, log_variance)


def norms(r: Regression) -> np.ndarray:
    """‖Δ‖² of each row, in numpy."""
    return ((r.prediction.detach().double() - r.target.double()).numpy() ** 2).sum((1, 2))


@pytest.mark.parametrize(("dims", "least", "most"), [(2, 0.0, 0.01), (200, 0.95, 1.0)])
def test_power_one_pulls_to_the_mean_of_its_targets_only_in_many_dimensions(dims, least, most):
    """Targets on a sphere around their mean 0, a prediction off their mean: its pull to the mean, relative to ‖Δ‖².

    In two dimensions E ln ‖Δ‖² is the same all over the disk, so that there is no pull at all.
    """
    random = torch.Generator().manual_seed(0)
    if dims == 2:
        angle = torch.arange(64, dtype=D) * (2 * math.pi / 64)
        target = torch.stack([angle.cos(), angle.sin()], dim=1)
    else:
        target = torch.randn(20_000, dims, dtype=D, generator=random)
        target = torch.cat([target, -target])
        target = target / target.norm(dim=1, keepdim=True)
    start = torch.zeros(dims, dtype=D)
    start[0] = 0.1 if dims > 2 else 0.5
    pulls = []
    for loss in (AdaptivePower(1.0, 1e-6), Squared("sum")):
        guess = start.clone().requires_grad_()
        found = Regression(guess.expand_as(target), target)
        x, t = torch.zeros(len(target), 1, dtype=D), torch.zeros(len(target), dtype=D)
        loss(found, Point(LinearPath(), x, x, t, t, t, x, 0)).mean().backward()
        pulls.append(float(guess.grad[0]))
    assert least <= pulls[0] / pulls[1] <= most


CLOSED = [
    (Squared("sum"), lambda m: m),
    (Squared(), lambda m: m / DIMS),
    (PseudoHuber(c=0.3), lambda m: np.sqrt(m + 0.09) - 0.3),
    (PseudoHuber(), lambda m: np.sqrt(m + 0.00054**2 * DIMS) - 0.00054 * math.sqrt(DIMS)),
    (PseudoHuber(c=0.3, reduce="mean"), lambda m: np.sqrt(m / DIMS + 0.09) - 0.3),
    (AdaptivePower(), lambda m: m / (m + 0.01)),
    (AdaptivePower(power=0.5, eps=0.1, reduce="mean"), lambda m: m / DIMS / np.sqrt(m / DIMS + 0.1)),
    (AdaptivePower(power=0.0), lambda m: m),
]


@given(seed=st.integers(0, 999))
@pytest.mark.parametrize(("loss", "formula"), CLOSED, ids=[repr(loss) for loss, _ in CLOSED])
def test_losses_are_their_formulas(loss, formula, seed):
    found = regression(seed)
    value = loss(found, point())
    assert value.shape == (5,)
    np.testing.assert_allclose(value.detach().numpy(), formula(norms(found)), rtol=1e-12)


@pytest.mark.parametrize("dims", [1, 64, 3072])
def test_pseudo_hubers_default_constant_grows_with_the_dimension(dims):
    """c = 0.00054 √D: at ‖Δ‖ = c the loss is (√2 − 1) c."""
    c = 0.00054 * math.sqrt(dims)
    prediction = torch.full((1, dims), c / math.sqrt(dims), dtype=D)
    value = PseudoHuber()(Regression(prediction, torch.zeros(1, dims, dtype=D)), point(1))
    assert float(value) == pytest.approx((math.sqrt(2) - 1) * c, rel=1e-10)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5])
def test_the_adaptive_weight_takes_no_gradient(power):
    """∂/∂F = 2Δ/(‖Δ‖² + c)^p: of norm 2/‖Δ‖ at p = 1, that of ‖Δ‖² at p = 0."""
    found = regression(1)
    AdaptivePower(power, eps=1e-3)(found, point()).sum().backward()
    delta, m = found.prediction.detach() - found.target, torch.from_numpy(norms(found))
    torch.testing.assert_close(found.prediction.grad, 2 * delta / like((m + 1e-3) ** power, delta))
    gradient = found.prediction.grad.flatten(1).norm(dim=1)
    if power == 1.0:
        torch.testing.assert_close(gradient, 2 / m.sqrt(), rtol=2e-3, atol=0)


def test_at_power_zero_the_adaptive_loss_is_the_squared_one_bit_for_bit():
    found = regression(2)
    assert torch.equal(AdaptivePower(power=0.0)(found, point()), Squared("sum")(found, point()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [Squared("sum"), AdaptivePower(), PseudoHuber()], ids=repr)
def test_half_precision_is_widened_before_it_is_squared(loss, dtype):
    """300² overflows fp16; the sum over dimensions is exact in fp32."""
    found = Regression(torch.full((2, 100), 300.0, dtype=dtype), torch.zeros(2, 100, dtype=dtype))
    value = loss(found, point(2))
    assert value.dtype == torch.float32 and bool(value.isfinite().all())
    if isinstance(loss, Squared):
        assert value.tolist() == [9e6, 9e6]


# the learned weight


@pytest.mark.parametrize("inner", [Squared(), AdaptivePower()], ids=repr)
def test_learned_weight_and_its_gradient(inner):
    """e^{−ℓ} m + ℓ, ∂/∂ℓ = 1 − e^{−ℓ} m, ∂/∂F = e^{−ℓ} ∂m/∂F."""
    level = torch.linspace(-1, 2, 5, dtype=D).requires_grad_()
    found = regression(3, log_variance=level)
    m = inner(found, point()).detach()
    value = LearnedVariance(inner)(found, point())
    torch.testing.assert_close(value.detach(), torch.exp(-level.detach()) * m + level.detach())
    value.sum().backward()
    torch.testing.assert_close(level.grad, 1 - torch.exp(-level.detach()) * m)
    weighted, plain = found.prediction.grad.clone(), regression(3)
    inner(plain, point()).sum().backward()
    torch.testing.assert_close(weighted, plain.prediction.grad * like(torch.exp(-level.detach()), weighted))


@pytest.mark.parametrize(
    ("inner", "near"), [(AdaptivePower(power=0.0), None), (AdaptivePower(power=1.0), 0.0)]
)
def test_the_learned_weight_settles_at_the_logarithm_of_the_mean(inner, near):
    """argmin_ℓ E[e^{−ℓ} m + ℓ] = ln E[m]: nearly 0 around the normalized loss (p = 1), inert there."""
    random = torch.Generator().manual_seed(4)
    prediction = torch.randn(4000, 8, generator=random, dtype=D) * torch.rand(
        4000, 1, generator=random, dtype=D
    )
    fixed = Regression(prediction, torch.zeros_like(prediction))

    def mean_loss(level: float) -> float:
        found = Regression(fixed.prediction, fixed.target, torch.full((4000,), level, dtype=D))
        return float(LearnedVariance(inner)(found, point(4000)).mean())

    settled = optimize.minimize_scalar(mean_loss, bracket=(-2, 4), options={"xtol": 1e-10}).x
    m = prediction.square().sum(1).numpy()
    expected = math.log(m.mean()) if near is None else math.log((m / (m + 0.01)).mean())
    assert settled == pytest.approx(expected, abs=1e-6)
    if near is not None:
        assert abs(settled) < 0.1


def test_a_learned_weight_without_a_head_names_the_wrapper():
    with pytest.raises(ValueError, match=r"WithLogVariance\(network\)"):
        LearnedVariance()(regression(), point())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: PseudoHuber(c=0.0), "PseudoHuber"),
        (lambda: PseudoHuber(c=-1.0), "PseudoHuber"),
        (lambda: AdaptivePower(power=-0.5), "AdaptivePower"),
        (lambda: AdaptivePower(eps=0.0), "AdaptivePower"),
        (lambda: Squared("max")(regression(), point()), "reduce='max'"),
    ],
)
def test_losses_that_make_no_sense_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


# what losses and reports share


def test_norms_of_rows():
    x = torch.tensor([[[3.0, 4.0]], [[1.0, 1.0]]])
    assert squared_norm(x).tolist() == [25.0, 2.0] and squared_norm(x, "mean").tolist() == [12.5, 1.0]


def test_the_raw_error_is_unweighted_and_without_a_graph():
    """Mean squared residual over dimensions, whatever the loss."""
    found = regression(5)
    assert not found.raw.requires_grad and found.raw.shape == (5,)
    np.testing.assert_allclose(found.raw.numpy(), norms(found) / DIMS, rtol=1e-6)


@pytest.mark.parametrize(("path", "scale"), [(LinearPath(), 1.0), (TrigPath(0.5), 0.5)], ids=repr)
def test_known_weights_multiply_any_loss(path, scale):
    t, s = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.1], dtype=D), torch.tensor([0.9, 0.1, 0.0, 0.1, 0.05], dtype=D)
    at, found = Point(path, t, t, t, s, s, t, 5), regression()
    ratio = (1 / (scale * torch.tan(t * math.pi / 2)) if scale != 1 else (1 - t) / t).clamp_min(1e-4)
    for by, weight in (("1/(t - s)", 1 / (t - s)), ("alpha/(kappa sigma)", ratio)):
        for inner in (Squared(), PseudoHuber(), AdaptivePower(0.5)):
            expected = weight * inner(found, at)
            torch.testing.assert_close(Weighted(inner, by)(found, at), expected, rtol=1e-9, atol=1e-12)


def test_unknown_weights_are_refused_by_the_known_ones():
    with pytest.raises(ValueError, match=r"by='snr'.*1/\(t - s\), .*alpha/\(kappa sigma\)"):
        Weighted(by="snr")


# what a loss learns where one point belongs to several data


def learned(loss, x: torch.Tensor, t: float, share: float) -> torch.Tensor:
    """Return the velocity of least expected loss at x_t = x: data 1 and −1, this share at −1, noise N(0, 1)."""
    ends = torch.tensor([1.0, -1.0], dtype=D)
    velocity = (x[:, None] - ends) / t
    weight = torch.log_softmax(
        torch.tensor([1 - share, share], dtype=D).log() - (((x[:, None] - (1 - t) * ends) / t) ** 2) / 2,
        dim=1,
    )
    asked = velocity[:, 1:] + (velocity[:, :1] - velocity[:, 1:]) * torch.linspace(0, 1, 301, dtype=D)
    found = torch.zeros_like(asked)
    for end in range(2):
        prediction = asked.flatten()[:, None].requires_grad_()
        target = velocity[:, end, None].expand_as(asked).reshape(-1, 1)
        held = point(len(prediction))
        (slope,) = torch.autograd.grad(loss(Regression(prediction, target), held).sum(), prediction)
        found += weight[:, end, None].exp() * slope.view_as(
            asked
        )  # the loss itself is held fixed where it weighs
    steps = asked.diff(dim=1)
    risk = torch.cumsum((found[:, 1:] + found[:, :-1]) / 2 * steps, dim=1)
    place = torch.cat([torch.zeros(len(x), 1, dtype=D), risk], 1).argmin(1, keepdim=True)
    return asked.gather(1, place)[:, 0].detach()


@pytest.mark.parametrize(
    ("loss", "least", "most"),
    [(Squared(), 0.18, 0.22), (AdaptivePower(0.5), 0.03, 0.08), (AdaptivePower(1.0), 0.03, 0.08)],
)
def test_a_weight_by_the_error_of_a_row_drops_what_is_rare(loss, least, most):
    """Of data at 1 and −1, a fifth at −1, the flow of least squared error makes a fifth; weighed by the error of each
    row it makes a twentieth: a row of the rarer kind has a large error, and so a small weight."""
    x = torch.randn(600, dtype=D, generator=torch.Generator().manual_seed(0))
    for step in range(32):
        x = x - learned(loss, x, 1 - step / 32, share=0.2) / 32
    assert least < float((x < 0).double().mean()) < most
