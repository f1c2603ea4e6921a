"""The pivot: its map, its velocity and the diagonal limit, its inverses and its refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowleap import FlowMap, oracles
from flowleap.parameterization import EDM, AverageVelocity, Endpoint, Noise, Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath

D = torch.float64
PATHS = [LinearPath(), LinearPath(noise_scale=0.5), TrigPath(), VPPath(), VEPath()]
MEANINGS = [AverageVelocity(), Velocity(), Endpoint(), Noise(), EDM()]
REGULAR = [
    (m, p)
    for m in MEANINGS
    for p in PATHS
    if not (isinstance(m, Noise) and isinstance(p, LinearPath | TrigPath))
]
ALL = pytest.mark.parametrize(("meaning", "path"), REGULAR, ids=lambda v: repr(v))


def oracle(path):
    return oracles.Gaussian(mean=0.3, std=0.6, path=path)


def between(path, *shares: float) -> torch.Tensor:
    share = torch.tensor(shares, dtype=D)
    if path.t_max > 1:
        return path.t_min * (path.t_max / path.t_min) ** share
    return path.t_min + (path.t_max - path.t_min) * share


def image(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=D)


def zero(x, t, r, label):
    return torch.zeros_like(x)


@ALL
@given(first=st.floats(0.05, 0.95), second=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_a_perfect_network_makes_the_exact_map(meaning, path, first, second, seed):
    """FlowMap.of inverts X = a·x + b·F exactly, for every meaning of the output."""
    flow, exact = FlowMap.of(oracle(path), meaning), oracle(path)
    t, r = between(path, max(first, second)), between(path, min(first, second))
    x = image(1, seed) * float(exact.scale(t))
    torch.testing.assert_close(flow(x, t, r), exact(x, t, r), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flow(x, t, t), x, rtol=1e-12, atol=1e-12)


@ALL
def test_velocity_is_the_secant_and_on_the_diagonal_the_tangent(meaning, path):
    """One call, rows mixed: (X − x)/(r − t) where r < t, the oracle's velocity where r = t."""
    flow, exact = FlowMap.of(oracle(path), meaning), oracle(path)
    t = between(path, 0.9, 0.8, 0.5, 0.3)
    r = torch.where(torch.tensor([True, False, True, False]), between(path, 0.2, 0.2, 0.4, 0.2), t)
    x = image(4)
    u = flow.velocity(x, t, r)
    secant = (exact(x, t, r) - x) / (r - t)[:, None, None]
    expected = torch.where((r < t)[:, None, None], secant, exact.velocity(x, t))
    torch.testing.assert_close(u, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.velocity(x, t), exact.velocity(x, t), rtol=1e-10, atol=1e-10)


@ALL
def test_velocity_tends_to_its_value_on_the_diagonal(meaning, path):
    """For an arbitrary network: u(x, t, t − h) − u(x, t, t) halves with h."""

    def network(x, t, r, label):
        return torch.sin(x) + (0.3 * t + 0.7 * r)[:, None, None]

    flow, x, t = FlowMap(network, meaning, path), image(3), between(path, 0.4, 0.6, 0.9)
    limit = flow.velocity(x, t, t)
    first, second, near = (
        (flow.velocity(x, t, t * (1 - h)) - limit).abs().amax() for h in (1e-4, 5e-5, 1e-6)
    )
    assert float(first / second) == pytest.approx(2, rel=0.02)
    assert float(near) < 1e-4 * float(limit.abs().amax() + 1)


@ALL
def test_outputs_are_found_again_from_where_they_lead(meaning, path):
    flow, x, output = FlowMap(zero, meaning, path), image(3), image(3, 1)
    t, r = between(path, 0.9, 0.7, 0.5), between(path, 0.2, 0.6, 0.1)
    landed = flow.step(output, x, t, r)
    torch.testing.assert_close(flow.output_for(landed, x, t, r), output, rtol=1e-9, atol=1e-9)
    velocity = FlowMap(lambda *_: output, meaning, path).velocity(x, t)
    torch.testing.assert_close(flow.output_of_velocity(velocity, x, t), output, rtol=1e-9, atol=1e-9)


def test_defaults_are_the_average_velocity_on_the_linear_path():
    """X = x − (t − r) u."""
    flow = FlowMap(lambda x, t, r, label: 3 * x + (t + 10 * r)[:, None, None])
    x = image(2)
    expected = x - (0.8 - 0.3) * (3 * x + 0.8 + 3)
    torch.testing.assert_close(flow(x, 0.8, 0.3), expected, rtol=1e-12, atol=1e-12)
    assert flow.parameterization == AverageVelocity() and flow.path == LinearPath()


def test_times_may_be_numbers_or_one_per_row_and_nothing_else():
    flow = FlowMap.of(oracle(LinearPath()))
    x = image(3)
    t = torch.full((3,), 0.7, dtype=D)
    torch.testing.assert_close(flow(x, 0.7, 0.2), flow(x, t, torch.full_like(t, 0.2)), rtol=0, atol=0)
    torch.testing.assert_close(flow(x, torch.tensor(0.7, dtype=D), 0.2), flow(x, 0.7, 0.2), rtol=0, atol=0)
    with pytest.raises(ValueError, match="times have 2 rows, images 3"):
        flow(x, t[:2], 0.2)


def test_network_sees_scaled_input_times_and_labels():
    seen = []

    def network(x, t, r, label):
        seen.append((x, t, r, label))
        return x

    x, label = image(2), torch.tensor([1, 4])
    FlowMap(network, EDM(0.5), VEPath())(x, 3.0, 1.0, label)
    x_in, t, r, given_label = seen[0]
    torch.testing.assert_close(x_in, x / (9 + 0.25) ** 0.5, rtol=1e-12, atol=0)
    assert t.tolist() == [3.0, 3.0] and r.tolist() == [1.0, 1.0] and torch.equal(given_label, label)
    assert len(seen) == 1, "one map is one evaluation"
    FlowMap(network)(x, 0.5, 0.2)
    assert seen[1][0] is x and seen[1][3] is None


@pytest.mark.parametrize(
    ("conditioning", "seen"),
    [("t,r", [0.3, 0.5]), ("t", [0.9, 0.5]), ("t,end", [1e-3, 0.5])],
)
def test_the_network_is_given_the_times_that_it_is_conditioned_on(conditioning, seen):
    """r, or t once more, or the end of the path where there is a jump; the step itself goes to r."""
    asked = []

    def network(x, t, r, label):
        asked.append((t.tolist(), r.tolist()))
        return torch.ones_like(x)

    path, x = VPPath(), image(2)
    t, r = torch.tensor([0.9, 0.5], dtype=D), torch.tensor([0.3, 0.5], dtype=D)
    flow = FlowMap(network, Velocity(), path, conditioning)
    a, b = Velocity().coefficients(path, t, r)
    torch.testing.assert_close(flow(x, t, r), a[:, None, None] * x + b[:, None, None], rtol=1e-12, atol=1e-12)
    flow.velocity(x, t)
    assert asked == [([0.9, 0.5], seen), ([0.9, 0.5], [0.9, 0.5])]
    assert flow.with_network(zero).conditioning == conditioning


def test_the_log_variance_is_given_the_times_of_the_network():
    class Net:
        def __call__(self, x, t, r, label):
            return x

        def log_variance(self, t, r):
            return t + 2 * r

    t, r = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.5])
    for conditioning, expected in (
        ("t,r", [1.0, 1.5]),
        ("t-r", [0.25, 0.0]),
        ("t", [1.5, 1.5]),
        ("t,end", [0.5, 1.5]),
    ):
        assert FlowMap(Net(), conditioning=conditioning).log_variance(t, r).tolist() == expected


def test_an_unknown_second_time_is_refused():
    with pytest.raises(ValueError, match='expected "t,r", "t-r", "t" or "t,end"'):
        FlowMap(zero, conditioning="departure")


@pytest.mark.parametrize("path", [LinearPath(), TrigPath()], ids=repr)
def test_a_singular_pair_is_refused_with_the_way_out(path):
    with pytest.raises(ValueError, match=r"Noise cannot be used on .*Velocity\(\) or AverageVelocity\(\)"):
        FlowMap(zero, Noise(), path)
    with pytest.raises(ValueError, match="Noise cannot be used"):
        FlowMap.of(oracle(path), Noise())


def test_what_a_network_offers_is_passed_on():
    class Net:
        num_classes = 7

        def __call__(self, x, t, r, label):
            return x

        def log_variance(self, t, r):
            return t + 2 * r

    t, r = torch.tensor([0.5]), torch.tensor([0.25])
    assert FlowMap(Net()).num_classes == 7
    assert FlowMap(Net()).log_variance(t, r).tolist() == [1.0]
    assert FlowMap(zero).num_classes is None and FlowMap(zero).log_variance(t, r) is None


def test_another_network_keeps_meaning_and_path():
    flow = FlowMap(zero, Velocity(), TrigPath())
    other = flow.with_network(lambda x, t, r, label: x)
    assert (other.parameterization, other.path) == (Velocity(), TrigPath())
    assert not torch.equal(other(image(1), 0.5, 0.2), flow(image(1), 0.5, 0.2))


@ALL
def test_single_precision_stays_single(meaning, path):
    x = image(2).float()
    flow = FlowMap(lambda x, t, r, label: x, meaning, path)
    t, r = between(path, 0.6, 0.7).float(), between(path, 0.2, 0.7).float()
    assert flow(x, t, r).dtype == torch.float32
    assert flow.velocity(x, t, r).dtype == torch.float32
    assert bool(flow.velocity(x, t, r).isfinite().all())


@ALL
def test_gradients_through_the_velocity_are_finite_on_the_diagonal(meaning, path):
    """No 0/0 hides in a branch that is not taken."""
    weight = torch.tensor(0.5, dtype=D, requires_grad=True)
    flow = FlowMap(lambda x, t, r, label: weight * x, meaning, path)
    t = between(path, 0.6, 0.7)
    flow.velocity(image(2), t, torch.stack([t[0], t[1] / 2])).square().sum().backward()
    assert bool(weight.grad.isfinite())
