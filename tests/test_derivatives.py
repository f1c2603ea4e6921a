"""Three derivatives of one field against its closed form: value, order, domain, random state, graph."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flowleap import Batch, methods, networks
from flowleap.derivatives import Auto, CentralDifference, ExactJVP, TwoPass, time_rate
from flowleap.paths import LinearPath, TrigPath
from flowleap.tensors import repeated

D = torch.float64


def rows(seed: int, batch: int = 6, dims: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    x, tangent = torch.randn(2, batch, dims, generator=random, dtype=D)
    return x, 0.2 + 0.6 * torch.rand(batch, generator=random, dtype=D), tangent


class Wave:
    """F(x, t) = t² sin(x W + 3t), whose derivative is written down by hand."""

    def __init__(self, dims: int = 4) -> None:
        self.weight = torch.randn(dims, dims, generator=torch.Generator().manual_seed(7), dtype=D)
        self.asked: list[torch.Tensor] = []

    def __call__(self, x, t):
        self.asked.append(t)
        return t[:, None] ** 2 * torch.sin(x @ self.weight + 3 * t[:, None])

    def rate(self, x, t, tangent):
        angle = x @ self.weight + 3 * t[:, None]
        return 2 * t[:, None] * torch.sin(angle) + t[:, None] ** 2 * torch.cos(angle) * (
            tangent @ self.weight + 3
        )


def taken(strategy, field, x, t, tangent, domain=(0.0, 1.0), curve=None):
    return strategy(field, x, t, tangent, domain=domain, curve=curve or (lambda time: x))


@given(seed=st.integers(0, 999))
@pytest.mark.parametrize(
    ("strategy", "tolerance"), [(ExactJVP(), 1e-12), (TwoPass(), 1e-12), (CentralDifference(1e-5), 1e-8)]
)
def test_the_derivative_is_the_closed_form(strategy, tolerance, seed):
    x, t, tangent = rows(seed)
    field = Wave()
    rate = taken(strategy, field, x, t, tangent)[1]
    expected = field.rate(x, t, tangent)
    torch.testing.assert_close(
        rate, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max() + 1)
    )


def test_two_passes_give_the_derivative_of_one_bit_for_bit():
    x, t, tangent = rows(1)
    one, two = (taken(strategy, Wave(), x, t, tangent)[1] for strategy in (ExactJVP(), TwoPass()))
    assert torch.equal(one, two)


def test_only_the_single_pass_keeps_a_graph():
    """The others evaluate the network without reverse-mode records: that is what makes two passes cheap."""
    x, t, tangent = rows(2)
    network = nn.Linear(4, 4).to(D)
    recorded = []

    def field(x, t):
        recorded.append(torch.is_grad_enabled())
        return torch.sin(network(x)) * t[:, None]

    for strategy in (ExactJVP(), TwoPass(), CentralDifference()):
        recorded.clear()
        value, rate = taken(strategy, field, x, t, tangent)
        assert not rate.requires_grad
        assert (value is None) == isinstance(strategy, CentralDifference)
        assert value is None or value.requires_grad == strategy.single_pass
        assert set(recorded) == {strategy.single_pass}
    value, _ = taken(ExactJVP(), field, x, t, tangent)
    assert value.requires_grad
    torch.testing.assert_close(value, field(x, t), rtol=0, atol=0)


@pytest.mark.parametrize("along", ["tangent", "path"])
def test_central_differences_are_of_second_order(along):
    """Halving ε divides the error by 4; along the path of a pair the limit is that of the tangent v_c."""
    path = TrigPath()
    x, t, noise = rows(3)
    x_t, v = path.point(x, noise, t), path.velocity(x, noise, t)
    field = Wave()
    exact = field.rate(x_t, t, v)
    errors = []
    for eps in (4e-3, 2e-3, 1e-3):
        strategy = CentralDifference(eps, along=along)
        rate = taken(strategy, field, x_t, t, v, curve=lambda time: path.point(x, noise, time))[1]
        errors.append(float((rate - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_along_the_path_ignores_the_tangent_and_along_the_tangent_ignores_the_path():
    path = TrigPath()
    x, t, noise = rows(4)
    x_t, v = path.point(x, noise, t), path.velocity(x, noise, t)

    def elsewhere(time):
        raise AssertionError("the path was asked")

    along_path = CentralDifference(1e-4, along="path")
    first, second = (
        taken(along_path, Wave(), x_t, t, tangent, curve=lambda time: path.point(x, noise, time))[1]
        for tangent in (v, 100 * v)
    )
    assert torch.equal(first, second)
    taken(CentralDifference(1e-4), Wave(), x_t, t, v, curve=elsewhere)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_at_the_ends_of_the_domain_the_difference_is_one_sided(end):
    """The field is never asked outside [0, 1], and the error is of first order: halving ε halves it."""
    x, _, tangent = rows(5)
    t = torch.full((6,), end, dtype=D)
    field = Wave()
    exact = field.rate(x, t, tangent)
    errors = []
    for eps in (2e-4, 1e-4):
        rate = taken(CentralDifference(eps), field, x, t, tangent)[1]
        errors.append(float((rate - exact).abs().max()))
    asked = torch.cat(field.asked)
    assert float(asked.min()) >= 0 and float(asked.max()) <= 1
    assert 0 < errors[1] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_rows_near_the_ends_step_as_far_as_the_domain_allows():
    """Within ε of an end the two steps differ in length; the span they are divided by is their sum."""
    t = torch.tensor([0.0, 0.004, 0.5, 0.998, 1.0], dtype=D)
    x = torch.zeros(5, 1, dtype=D)
    asked = []

    def field(x, t):
        asked.append(t)
        return 5 * t[:, None] + 2 * x  # linear: any secant is exact

    rate = taken(CentralDifference(0.01), field, x, t, torch.full_like(x, 3.0))[1]
    torch.testing.assert_close(rate, torch.full_like(x, 11.0), rtol=1e-12, atol=0)
    (both,) = asked
    after, before = both.chunk(2)
    torch.testing.assert_close(after, torch.tensor([0.01, 0.014, 0.51, 1.0, 1.0], dtype=D))
    torch.testing.assert_close(before, torch.tensor([0.0, 0.0, 0.49, 0.988, 0.99], dtype=D))


def in_two_calls(strategy, field, x, t, tangent, domain, curve, scale):
    """The difference as defined: F after, then F before, each by a call of its own, from the same random state."""
    low, high = domain
    h, k = (high - t).clamp(0.0, strategy.eps), (t - low).clamp(0.0, strategy.eps)
    points = [
        curve(time) if strategy.along == "path" else x + step[:, None] * tangent
        for time, step in ((t + h, h), (t - k, -k))
    ]
    with torch.no_grad():
        state = torch.random.get_rng_state()
        after = field(points[0], t + h)
        torch.random.set_rng_state(state)
        before = field(points[1], t - k)
    rate = (after.double() - before.double()) / ((t + h).double() - (t - k).double())[:, None]
    return (rate if scale is None else scale.double()[:, None] * rate).to(x.dtype)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("along", ["tangent", "path"])
@pytest.mark.parametrize(("kind", "tolerance"), [(D, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_one_call_of_twice_the_rows_is_the_difference_of_two_calls(kind, tolerance, along, scaled):
    """With labels, a landing time of each row and rows within ε of both ends."""
    path, eps = TrigPath(), 5e-3
    x, _, noise = (each.to(kind) for each in rows(21))
    t = torch.tensor([0.3, 0.002, 1.0, 0.999, 0.6, 0.7], dtype=kind)
    r = torch.tensor([0.1, 0.0, 0.2, 0.998, 0.598, 0.0], dtype=kind)
    label, scale = torch.tensor([0, 1, 2, 0, 1, 2]), torch.linspace(-1, 1, 6, dtype=kind) if scaled else None
    torch.manual_seed(2)
    network = networks.MLP(4, classes=3, width=16, depth=1).to(kind)
    nn.init.normal_(network.final_layer.weight)

    def field(x, t):
        calls.append(len(x))
        return network(x, t, repeated(r, x), repeated(label, x))

    about = {"domain": (r, 1.0), "curve": lambda time: path.point(x, noise, time), "scale": scale}
    given = (CentralDifference(eps, along=along), field, path.point(x, noise, t), t)
    calls: list[int] = []
    rate = given[0](*given[1:], path.velocity(x, noise, t), **about)[1]
    assert calls == [12]
    expected = in_two_calls(*given, path.velocity(x, noise, t), **about)
    assert float((rate - expected).norm() / expected.norm()) < tolerance * (1 if kind == D else 10)


DROPPING = {
    "UNet": lambda: networks.UNet((1, 4, 4), width=8, multipliers=(1,), depth=1, attention=(), dropout=0.3),
    "DiT": lambda: networks.DiT((1, 4, 4), width=8, depth=1, heads=2, dropout=0.3),
}


@pytest.mark.parametrize("keyed", [True, False], ids=["keys of rows", "random state"])
@pytest.mark.parametrize("kind", DROPPING)
def test_one_call_drops_the_same_at_both_points(kind, keyed):
    """Through a training step of a network with dropout, with fewer jumps than half of the batch."""
    torch.manual_seed(3)
    network = DROPPING[kind]().to(D)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)
    targets = []
    for derivative in (TwoPass(), CentralDifference(1e-5)):
        meanflow = methods.meanflow()
        objective = replace(meanflow, target=replace(meanflow.target, derivative=derivative))
        x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=D)
        point = objective.draw(Batch(x), 1, 1)
        assert point.num_jumps == 2
        torch.manual_seed(4)
        point = point if keyed else replace(point, keys=None)
        targets.append(objective.regress(objective.flow_map(network), None, point).target)
    torch.testing.assert_close(targets[1], targets[0], rtol=1e-7, atol=1e-7)
    assert not torch.allclose(
        targets[0], objective.regress(objective.flow_map(network.eval()), None, point).target
    )


def test_both_evaluations_of_a_difference_see_the_same_dropout():
    """F = dropout(t x): with one mask the quotient is 0 or 2x + 2t v, with two it is of order 1/ε."""
    x, t, tangent = rows(6)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    rate = taken(CentralDifference(1e-4), lambda x, t: F.dropout(t[:, None] * x, 0.5), x, t, tangent)[1]
    after = torch.random.get_rng_state()
    kept = 2 * (x + t[:, None] * tangent)
    dropped = rate == 0
    assert 0 < int(dropped.sum()) < dropped.numel()
    torch.testing.assert_close(rate, torch.where(dropped, 0, kept), rtol=1e-8, atol=1e-8)
    torch.random.set_rng_state(before)
    F.dropout(x, 0.5)
    assert torch.equal(after, torch.random.get_rng_state()), "one evaluation's worth of randomness is spent"


def test_attention_is_differentiated_forward():
    """Fused attention has no forward-mode derivative: the math backend is forced."""
    x, t, tangent = rows(8, batch=4, dims=24)

    def field(x, t):
        tokens = x.reshape(-1, 1, 6, 4) * (1 + t[:, None, None, None])
        return F.scaled_dot_product_attention(tokens, tokens.cos(), tokens.sin()).reshape(-1, 24)

    exact = taken(ExactJVP(), field, x, t, tangent)[1]
    torch.testing.assert_close(taken(TwoPass(), field, x, t, tangent)[1], exact, rtol=0, atol=0)
    difference = taken(CentralDifference(1e-5), field, x, t, tangent)[1]
    torch.testing.assert_close(difference, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "make",
    [lambda: CentralDifference(0.0), lambda: CentralDifference(-1.0), lambda: CentralDifference(along="x")],
)
def test_bad_differences_are_refused(make):
    with pytest.raises(ValueError, match="CentralDifference"):
        make()


def test_rates_of_schedules_are_the_closed_form():
    t = torch.linspace(0.1, 2.0, 7, dtype=D)
    first, second = time_rate(lambda time: (time**3, torch.sin(2 * time)), t)
    torch.testing.assert_close(first, 3 * t**2)
    torch.testing.assert_close(second, 2 * torch.cos(2 * t))


class Net(nn.Module):
    """A small smooth network of (x, t, r) in double precision."""

    num_classes = None

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).to(D)

    def forward(self, x, t, r, label=None):
        return self.layers(torch.cat([x, t[:, None], r[:, None]], dim=1))


@pytest.mark.parametrize("path", [LinearPath(), TrigPath()], ids=repr)
@pytest.mark.parametrize("strategy", [ExactJVP(), CentralDifference(1e-6)], ids=repr)
def test_every_strategy_gives_the_gradients_of_the_meanflow_loss(strategy, path):
    """Loss and parameter gradients are those of two passes, although the graph is another one."""
    random = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(16, 3, generator=random, dtype=D))
    found = []
    for derivative in (TwoPass(), strategy):
        meanflow = methods.meanflow()
        objective = replace(meanflow, path=path, target=replace(meanflow.target, derivative=derivative))
        network = Net()
        loss = objective(objective.flow_map(network), batch=batch, step=3, key=1)
        loss.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        found.append((loss.detach(), gradient))
    (loss, gradient), (other_loss, other_gradient) = found
    tolerance = 1e-12 if strategy.single_pass else 1e-6
    assert float(gradient.norm()) > 0.1 and math.isfinite(float(gradient.norm()))
    torch.testing.assert_close(other_loss, loss, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(other_gradient, gradient, rtol=tolerance, atol=tolerance)


def test_differences_never_ask_for_a_landing_after_the_departure():
    asked = []

    def field(x, t):
        asked.append(t)
        return x * t[:, None]

    x, t = torch.ones(3, 2, dtype=D), torch.tensor([0.5, 0.501, 1.0], dtype=D)
    r = torch.tensor([0.4999, 0.499, 0.2], dtype=D)
    curve = lambda time: x  # noqa: E731
    _, rate = CentralDifference(eps=5e-3)(field, x, t, torch.zeros_like(x), domain=(r, 1.0), curve=curve)
    assert all((time >= repeated(r, time)).all() and (time <= 1).all() for time in asked)
    assert torch.allclose(rate, x)


@pytest.mark.parametrize("strategy", [ExactJVP(), TwoPass(), CentralDifference(1e-5)], ids=repr)
def test_a_scale_multiplies_the_derivative_and_not_the_value(strategy):
    x, t, tangent = rows(12)
    scale = torch.tensor([0.0, 1e-6, 0.3, -0.5, 1.0, 2.0], dtype=D)
    plain, known = (
        strategy(Wave(), x, t, tangent, domain=(0.0, 1.0), curve=lambda time: x, scale=by)
        for by in (None, scale)
    )
    torch.testing.assert_close(known[1], scale[:, None] * plain[1], rtol=1e-12, atol=1e-13)
    assert known[0] is plain[0] is None or torch.equal(known[0], plain[0])


def test_a_scale_keeps_large_derivatives_out_of_half_precision():
    """F = 2¹⁵ t x in float16: dF/dt along x = 8 is beyond its largest number, a thousandth of it is not."""
    x, t = torch.full((2, 1), 8.0).half(), torch.full((2,), 0.5).half()
    field = lambda x, t: 2.0**15 * t[:, None] * x  # noqa: E731
    options = {"domain": (0.0, 1.0), "curve": lambda time: x}
    assert not bool(TwoPass()(field, x, t, x, **options)[1].isfinite().any())
    rate = TwoPass()(field, x, t, x, **options, scale=torch.full((2,), 2.0**-10))[1]
    torch.testing.assert_close(rate.float(), torch.full((2, 1), 2.0**5 * 1.5 * 8))


CPU = torch.device("cpu")


def chosen(kind, t_max=1.0):
    return Auto().settled(lambda strategy: torch.ones(2), kind, CPU, t_max)


@pytest.mark.parametrize(
    ("kind", "t_max", "expected"),
    [
        (torch.float32, 1.0, CentralDifference()),
        (torch.float32, 80.0, TwoPass(closed_forms=True)),
        (torch.float64, 1.0, TwoPass(closed_forms=True)),
        (torch.bfloat16, 1.0, TwoPass(closed_forms=True)),
        (torch.float16, 1.0, TwoPass(closed_forms=True)),
    ],
    ids=str,
)
def test_auto_takes_a_difference_where_rounding_leaves_it_accurate(kind, t_max, expected):
    strategy, said = chosen(kind, t_max)
    assert strategy == expected and str(kind).removeprefix("torch.") in said and expected.in_words in said


def test_auto_sees_autocast_and_products_of_reduced_precision():
    with torch.autocast("cpu", torch.bfloat16):
        assert chosen(torch.float32)[0] == TwoPass(closed_forms=True)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert chosen(torch.float32)[0] == TwoPass(closed_forms=True)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("kind", "same"), [(torch.float32, CentralDifference()), (D, TwoPass())], ids=str)
def test_auto_is_the_strategy_that_it_takes(kind, same):
    x, t, tangent = (each.to(kind) for each in rows(13))
    field = Wave()
    field.weight = field.weight.to(kind)
    assert torch.equal(taken(Auto(), field, x, t, tangent)[1], taken(same, field, x, t, tangent)[1])
    other = taken(TwoPass() if kind != D else CentralDifference(), field, x, t, tangent)[1]
    assert not torch.equal(taken(same, field, x, t, tangent)[1], other)


def test_auto_is_told_the_type_of_the_weights():
    """A network in bfloat16 rounds by 2⁻⁸: its difference is noise, its forward-mode derivative is not."""
    torch.manual_seed(6)
    network = networks.MLP(2, width=16, depth=1)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    objective = methods.meanflow()
    point = objective.draw(Batch(torch.randn(16, 2)), 3, 1)
    targets = []
    for kind, derivative in (
        (torch.float32, TwoPass()),
        (torch.bfloat16, Auto()),
        (torch.bfloat16, CentralDifference()),
    ):
        changed = replace(objective, target=replace(objective.target, derivative=derivative))
        targets.append(
            changed.regress(objective.flow_map(network.to(kind)), None, point).target[: point.num_jumps]
        )
    exact, auto, difference = targets
    assert (
        float((auto - exact).norm() / exact.norm()) < 0.1 < float((difference - exact).norm() / exact.norm())
    )


class Sine(torch.autograd.Function):
    """A sine without a forward-mode derivative."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class NoForward(Net):
    def forward(self, x, t, r, label=None):
        return Sine.apply(super().forward(x, t, r))


def test_a_network_that_cannot_be_differentiated_forward_gets_a_difference_and_it_is_said():
    network, objective = NoForward(), methods.meanflow()
    batch = Batch(torch.randn(8, 3, dtype=D))
    flow = objective.flow_map(network)
    point = objective.draw(batch, 3, 1)
    with pytest.warns(UserWarning, match=r"central difference with ε = 1e-05: torch cannot differentiate"):
        found = objective.regress(flow, None, point)
    target, said = objective.target.settled(flow, batch.x[:2])
    assert target == replace(objective.target, derivative=CentralDifference(1e-5))
    assert said.startswith("du/dt by central difference with ε = 1e-05: torch cannot differentiate")
    settled = replace(objective, target=target)
    assert torch.equal(settled.regress(flow, None, point).target, found.target)
    for strategy in (TwoPass(), ExactJVP()):
        with pytest.raises(ValueError, match=r"forward in float64 .*target\.derivative=auto"):
            replace(objective.target, derivative=strategy).settled(flow, batch.x[:2])


def test_settling_draws_no_random_numbers_and_asks_nothing_where_a_difference_is_taken():
    def forward(x, t, r, label=None):
        asked.append(len(x))
        return F.dropout(x, 0.5) * t[:, None]

    asked: list[int] = []
    flow, target = methods.meanflow().flow_map(forward), methods.meanflow().target
    before = torch.random.get_rng_state()
    assert target.settled(flow, torch.zeros(2, 3))[0].derivative == CentralDifference() and not asked
    assert target.settled(flow, torch.zeros(2, 3, dtype=D))[0].derivative == TwoPass(closed_forms=True)
    assert asked
    assert torch.equal(before, torch.random.get_rng_state())
