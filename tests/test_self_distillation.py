"""Lagrangian and Eulerian self-distillation: residuals and gradients against formulas written by hand, and refusals.

That the exact map is a fixed point is in test_conformance.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flowleap import FlowMap, Objective, methods
from flowleap.derivatives import CentralDifference, Derivative, ExactJVP, TwoPass
from flowleap.losses import Squared
from flowleap.objectives import EMA, Eulerian, Lagrangian
from flowleap.oracles import Gaussian
from flowleap.parameterization import Endpoint
from flowleap.randomness import RowGenerator
from flowleap.times import DyadicGrid, FullJump, Gap, Gradual, SortedPair, Uniform
from flowleap.velocities import Own, Teacher

D = torch.float64
DERIVATIVES = [ExactJVP(), TwoPass(), TwoPass(closed_forms=True), CentralDifference(1e-5)]


class Smooth(nn.Module):
    """tanh(A x + t b + r c + t r d) + t x, smooth in everything."""

    num_classes = None

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(2, 2, generator=random, dtype=D))
        self.times = nn.Parameter(torch.randn(3, 2, generator=random, dtype=D))

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        known = torch.stack([t, r, t * r], dim=-1)
        return torch.tanh(x @ self.mix + known @ self.times) + t[..., None] * x


def jumps() -> tuple[Tensor, ...]:
    """Data, noise, and times of rows that jump."""
    random = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 5, 2, generator=random, dtype=D)
    t = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5], dtype=D)
    r = torch.tensor([0.1, 0.3, 0.2, 0.5, 0.05], dtype=D)
    return x, noise, t, t, r


def held(objective: Objective, network: nn.Module, frozen: nn.Module) -> tuple[Tensor, list[Tensor]]:
    """The loss of each row, and the gradient of their sum."""
    objective = replace(objective, loss=Squared("sum"))
    point = objective.point(*jumps())
    regression = objective.regress(objective.flow_map(network), objective.flow_map(frozen), point)
    loss = objective.per_sample(regression, point)
    return loss.detach(), list(torch.autograd.grad(loss.sum(), list(network.parameters())))


def by_hand(network: nn.Module, frozen: nn.Module, identity: str) -> tuple[Tensor, list[Tensor]]:
    """The same for u of one row at a time, by Jacobians of reverse mode."""
    x, noise, departure, _, landing = jumps()
    losses = []
    for k in range(len(x)):
        t, r = departure[k], landing[k]
        z = (1 - t) * x[k] + t * noise[k]

        def ours(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
            return network(z[None], t[None], r[None])[0]

        def theirs(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
            return frozen(z[None], t[None], r[None])[0]

        u = ours(z, t, r)
        if identity == "lagrangian":
            slope = torch.func.jacrev(ours, 2)(z, t, r)
            landed = (z + (r - t) * u).detach()
            residual = u + (r - t) * slope - theirs(landed, r, r).detach()
        else:
            v = theirs(z, t, t).detach()
            spatial, slope = torch.func.jacrev(theirs, 0)(z, t, r), torch.func.jacrev(ours, 1)(z, t, r)
            residual = u - (r - t) * slope - (v + (r - t) * (spatial @ v)).detach()
        losses.append(residual.square().sum())
    loss = torch.stack(losses)
    return loss.detach(), list(torch.autograd.grad(loss.sum(), list(network.parameters())))


@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda one: repr(one))
@pytest.mark.parametrize(("name", "identity"), [("lsd", "lagrangian"), ("esd", "eulerian")])
def test_the_gradient_runs_through_the_derivative_in_time_alone(
    name: str, identity: str, derivative: Derivative
) -> None:
    """‖u − (t − r) ∂_r u − sg v‖² and ‖u + (t − r) ∂_t u − sg[v − (t − r)(∇u) v]‖², the network its own frozen map."""
    objective = methods.get(name)
    objective = replace(objective, target=replace(objective.target, derivative=derivative))
    network = Smooth()
    found, expected = held(objective, network, network), by_hand(network, network, identity)
    close = 1e-6 if isinstance(derivative, CentralDifference) else 1e-12
    torch.testing.assert_close(found[0], expected[0], rtol=close, atol=close)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)


def test_the_terminal_velocity_is_that_of_the_frozen_map() -> None:
    network, average = Smooth(), Smooth(seed=3)
    objective = replace(methods.lsd(), frozen=EMA(0.99), target=Lagrangian(ExactJVP()))
    found, expected = held(objective, network, average), by_hand(network, average, "lagrangian")
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_terminal_velocity_matching_draws_jumps_by_their_length() -> None:
    """t − r and r by the conditional distribution function, half of the rows; those r = t by a law of their own."""
    objective, rows = methods.tvm(), 40_000
    assert objective.frozen == EMA(0.99) and objective.loss == Squared("mean")
    t, s, r, count = objective.times.draw(RowGenerator(0, "times", total=rows), 0.5)
    assert count == rows // 2 and torch.equal(t, s) and torch.equal(t[count:], r[count:])
    length, landing = (each[:count].double() for each in (t - r, r))
    assert bool((length > 0).all()) and float(landing.min()) >= 0 and float(t.max()) <= 1
    normal = torch.distributions.Normal(0.0, 1.0)
    places = (
        normal.cdf(torch.logit(length) + 0.8),
        normal.cdf(torch.logit(landing) + 0.4) / normal.cdf(torch.logit(1 - length) + 0.4),
        normal.cdf(torch.logit(t[count:].double()) + 0.4),
    )
    for place in places:  # uniform on [0, 1]: three standard deviations of the mean, and of the mean square
        assert float(place.mean()) == pytest.approx(1 / 2, abs=3 * (1 / 12 / count) ** 0.5)
        assert float(place.square().mean()) == pytest.approx(1 / 3, abs=3 * (4 / 45 / count) ** 0.5)
    assert abs(float(torch.corrcoef(torch.stack(places[:2]))[0, 1])) < 3 / count**0.5
    with pytest.raises(ValueError, match="a share of the rows"):
        Gap(diagonal=1.5)


def test_without_the_gradient_through_time_it_is_the_eulerian_target_of_the_networks_own_velocity() -> None:
    """The values agree, the gradients do not."""
    network = Smooth()
    one, other = (
        held(
            replace(methods.esd(), target=Eulerian(TwoPass(), velocity=Own(), through_time=through)),
            network,
            network,
        )
        for through in (True, False)
    )
    torch.testing.assert_close(one[0], other[0], rtol=1e-12, atol=1e-12)
    assert all((a - b).norm() > 0.1 * b.norm() for a, b in zip(one[1], other[1], strict=True))


def test_a_teacher_may_give_the_terminal_velocity() -> None:
    """Lagrangian map distillation needs no rows r = t, and a wrong network is told apart from the teacher's map."""
    oracle = Gaussian(0.4, 0.6)
    target = Lagrangian(ExactJVP(), terminal=Teacher())
    objective = replace(methods.lsd(), times=SortedPair(Uniform(), diagonal=0.0), target=target)
    assert objective.needs_teacher
    flow = FlowMap.of(oracle)
    with pytest.raises(ValueError, match="none is given"):
        objective.regress(flow, flow, objective.point(*jumps()))
    objective = objective.with_teacher(flow)
    wrong = objective.flow_map(Smooth())
    for student, right in ((flow, True), (wrong, False)):
        found = objective.regress(student, student, objective.point(*jumps()))
        assert bool((found.raw.max() <= 1e-18) == right)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"times": FullJump(diagonal=0.5)},
            r"FullJump does not land at every time.*SortedPair\(diagonal=0.75\)",
        ),
        ({"times": DyadicGrid()}, "DyadicGrid does not land at every time"),
        ({"times": SortedPair(diagonal=0.0)}, r"no row of SortedPair has r = t.*terminal=Teacher\(\)"),
        ({"parameterization": Endpoint()}, r"no finite velocity at t = 0.*AverageVelocity\(\)"),
        ({"conditioning": "t"}, "one output cannot serve"),
    ],
)
def test_what_the_lagrangian_identity_cannot_learn_from_is_refused(changes: dict, said: str) -> None:
    assert replace(methods.lsd(), times=Gradual()).target == Lagrangian()
    with pytest.raises(ValueError, match=said):
        replace(methods.lsd(), **changes)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(methods.esd(), times=SortedPair(diagonal=0.0)), r"no row of SortedPair has r = t"),
        (lambda: replace(methods.esd(), times=FullJump()), r"no row of FullJump has r = t"),
        (lambda: Eulerian(through_time=True, normalize=0.2), "normalize=0.2.*through_time=False"),
        (
            lambda: replace(methods.esd(), target=Eulerian(CentralDifference(along="path"), velocity=Own())),
            r'velocity=Own\(\) asks for another: use CentralDifference\(along="tangent"\)',
        ),
    ],
)
def test_what_eulerian_self_distillation_cannot_learn_from_is_refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_run_finds_the_way_to_its_derivative() -> None:
    """In float32 a difference; where the derivative is asked for exactly, with a gradient through it."""
    flow = methods.lsd().flow_map(Smooth().float())
    for target in (Lagrangian(), methods.esd().target):
        assert target.settled(flow, torch.zeros(2, 2))[0].derivative == CentralDifference()
    found, reason = Lagrangian(TwoPass()).settled(flow, torch.zeros(2, 2))
    assert isinstance(found.derivative, TwoPass) and reason.startswith("dX/dr by forward-mode")
