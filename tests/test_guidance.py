"""Guidance by hand: which rows, which labels, how many questions, at which scale."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from flowleap import Batch, FlowMap, methods, samplers
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.guidance import FinestLevel, Guidance, guide
from flowleap.networks.dropout import Dropout, row_keys
from flowleap.objectives import EMA, Consistency, Eulerian, Objective, SelfConsistency
from flowleap.parameterization import EDM, Endpoint, Noise, Preconditioned, Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.point import Point
from flowleap.schedules import LinearSchedule
from flowleap.times import DyadicGrid, LogNormal, Particles, SortedPair

D = torch.float64
NULL = 3


class Asked:
    """u(x, t, r, y) = level[y]·x, three classes and the null class; remembers what it was asked."""

    num_classes = NULL
    level = torch.tensor([2.0, 3.0, 5.0, 7.0], dtype=D)

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, ...]] = []

    def __call__(self, x, t, r, label):
        self.calls.append((x, t, r, label))
        return self.level.to(x)[label].reshape(-1, *[1] * (x.ndim - 1)) * x

    @property
    def rows(self) -> int:
        return sum(len(x) for x, *_ in self.calls)


def made(guidance, t=(0.9, 0.7, 0.5, 0.3, 0.1), label=(0, 1, 2, 0, 1), dropped=None) -> Point:
    times, labels = torch.tensor(t, dtype=D), torch.tensor(label)
    x = torch.arange(1.0, 11.0, dtype=D).reshape(5, 2)
    mask = None if dropped is None else torch.tensor(dropped)
    point = Point(LinearPath(), x, x, times, times, times, x / 10, 0, labels, mask)
    return replace(point, guided=guidance.rows(point))


def mixture(guidance, point, velocity):
    """ω v + κ u(y) + (1 − ω − κ) u(∅) of every row, guided or not."""
    known = Asked.level[point.label][:, None] * point.x_t
    unknown = Asked.level[NULL] * point.x_t
    rest = 1 - guidance.omega - guidance.kappa
    return guidance.omega * velocity + guidance.kappa * known + rest * unknown


SCALES = [(1.0, 0.5), (0.2, 0.92), (2.0, 0.0), (0.5, 0.5), (0.25, -0.5)]


@pytest.mark.parametrize(("omega", "kappa"), SCALES)
def test_the_mixture_is_the_one_computed_by_hand(omega, kappa):
    guidance, network = Guidance(omega, kappa), Asked()
    point = made(guidance)
    velocity = torch.full((5, 2), 11.0, dtype=D)
    found = guidance(FlowMap(network), point, velocity)
    torch.testing.assert_close(found, mixture(guidance, point, velocity), rtol=1e-13, atol=1e-13)
    assert bool((velocity == 11).all()), "the velocity that is given is left alone"


@pytest.mark.parametrize(("omega", "kappa"), [*SCALES, (1.0, 0.0)])
@pytest.mark.parametrize("mix", [0.25, LinearSchedule(0.3, 0.1)])
def test_the_guided_velocity_may_be_mixed_with_the_prediction(omega, kappa, mix):
    """m ṽ + (1 − m) u(y) by hand, half-way through a run; the scale of the fixed point is that without m."""
    guidance = Guidance(omega, kappa, mix=mix)
    point = replace(made(guidance), progress=0.5)
    velocity = torch.full((5, 2), 11.0, dtype=D)
    m = mix if isinstance(mix, float) else 0.2
    known = Asked.level[point.label][:, None] * point.x_t
    expected = m * mixture(Guidance(omega, kappa), point, velocity) + (1 - m) * known
    found = guidance(FlowMap(Asked()), point, velocity)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert guidance.scale == Guidance(omega, kappa).scale
    assert guidance.horizon == (None if isinstance(mix, float) else 1.0)


@pytest.mark.parametrize("mix", [0.25, 1.0])
def test_mixing_keeps_the_fixed_point(mix):
    """u(y) = scale · v + (1 − scale) u(∅) is what it maps to itself."""
    guidance, point = Guidance(0.6, 0.7, mix=mix), made(Guidance(0.6, 0.7))
    known = Asked.level[point.label][:, None] * point.x_t
    null = Asked.level[NULL] * point.x_t
    velocity = (known - (1 - guidance.scale) * null) / guidance.scale
    found = guidance(FlowMap(Asked()), point, velocity)
    torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mix", [0.0, 1.5, LinearSchedule(0.3, 0.0)])
def test_a_mixture_without_the_guided_velocity_is_refused(mix):
    with pytest.raises(ValueError, match=r"Guidance\(mix=.*in \(0, 1\]"):
        Guidance(1.0, 0.5, mix=mix)


def test_published_xl_setting_number_by_number():
    """ω = 0.2, κ = 0.92: 0.2·11 + 0.92·2·0.1 − 0.12·7·0.1 for the first number."""
    guidance = Guidance(0.2, 0.92)
    found = guidance(FlowMap(Asked()), made(guidance), torch.full((5, 2), 11.0, dtype=D))
    assert float(found[0, 0]) == pytest.approx(2.2 + 0.184 - 0.084, rel=1e-13)


def test_rows_outside_the_window_or_without_their_label_are_neither_changed_nor_asked_about():
    guidance, network = Guidance(1.0, 0.5, window=(0.3, 0.75)), Asked()
    point = made(guidance, dropped=[False, False, True, False, False])
    velocity = torch.full((5, 2), 11.0, dtype=D)
    found = guidance(FlowMap(network), point, velocity)
    expected = velocity.clone()
    expected[[1, 3]] = mixture(guidance, point, velocity)[[1, 3]]
    assert torch.equal(point.guided, torch.tensor([1, 3])), "t = 0.7 and 0.3, ends included; 0.5 was dropped"
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert network.rows == 4, "two rows, with and without their label"
    assert sorted(torch.cat([label for *_, label in network.calls]).tolist()) == [0, 1, NULL, NULL]
    assert all(torch.equal(t, r) for _, t, r, _ in network.calls), "instantaneous velocities"


@pytest.mark.parametrize(
    ("guidance", "rows"),
    [
        (Guidance(), 0),
        (Guidance(1.0, 0.0, (0.2, 0.8)), 0),
        (Guidance(0.5, 0.5), 5),
        (Guidance(2.0, 0.0), 5),
        (Guidance(1.0, 0.5), 10),
    ],
    ids=repr,
)
def test_the_network_is_asked_only_what_has_a_weight(guidance, rows):
    """ω = 1, κ = 0 asks nothing; without κ or without the null term one answer per row is enough."""
    network, velocity = Asked(), torch.ones(5, 2, dtype=D)
    found = guidance(FlowMap(network), made(guidance), velocity)
    assert network.rows == rows
    if rows == 0:
        assert torch.equal(found, velocity)


def test_no_row_in_the_window_asks_nothing():
    guidance, network = Guidance(2.0, 0.5, window=(0.95, 1.0)), Asked()
    velocity = torch.ones(5, 2, dtype=D)
    assert torch.equal(guidance(FlowMap(network), made(guidance), velocity), velocity)
    assert network.calls == []


@pytest.mark.parametrize(("omega", "kappa", "scale"), [(1.0, 0.5, 2.0), (0.2, 0.92, 2.5), (1.0, 0.0, 1.0)])
def test_the_effective_scale_is_that_of_the_fixed_point(omega, kappa, scale):
    """u = ω v + κ u + (1 − ω − κ) n, iterated, settles at u = n + s (v − n), s = ω/(1 − κ)."""
    v, null, u = 3.0, -1.0, 0.0
    for _ in range(2000):
        u = omega * v + kappa * u + (1 - omega - kappa) * null
    assert Guidance(omega, kappa).scale == pytest.approx(scale, rel=1e-12)
    assert u == pytest.approx(null + scale * (v - null), rel=1e-9)


def test_guidance_takes_no_gradient():
    weight = torch.tensor(2.0, dtype=D, requires_grad=True)

    def network(x, t, r, label):
        return weight * x

    network.num_classes = NULL
    guidance = Guidance(1.0, 0.5)
    assert not guidance(FlowMap(network), made(guidance), torch.ones(5, 2, dtype=D)).requires_grad


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Guidance(kappa=1.0), "kappa"),
        (lambda: Guidance(1.0, 1.2), "kappa"),
        (lambda: Guidance(window=(0.5, 0.5)), "window"),
        (lambda: Guidance(window=(0.8, 0.2)), "window"),
    ],
)
def test_guidance_that_makes_no_sense_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_guidance_needs_labels_and_a_null_class():
    guidance = Guidance(2.0, 0.0)
    point = made(guidance)
    with pytest.raises(ValueError, match="give the batch labels"):
        guidance.rows(replace(point, label=None))
    with pytest.raises(ValueError, match="num_classes"):
        guidance(FlowMap(lambda x, t, r, label: x), point, point.x)


# inside an objective


@pytest.mark.parametrize("name", ["flow_matching", "meanflow", "esc"])
@pytest.mark.parametrize("labels", [True, False])
def test_an_idle_guidance_equals_none(name, labels):
    """guidance=None ⇔ ω = 1, κ = 0, number by number; also where there are no labels at all."""
    plain = replace(methods.get(name).for_run(10), loss=methods.meanflow().loss)
    idle = replace(plain, guidance=Guidance(1.0, 0.0))
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    batch = Batch(x, torch.arange(16) % 3 if labels else None)

    def network(x, t, r, label):
        return torch.sin(x) + r[:, None] * (0 if label is None else label[:, None])

    network.num_classes = NULL
    flow = plain.flow_map(network)
    assert torch.equal(plain(flow, batch=batch, step=3), idle(flow, batch=batch, step=3))


def test_a_guided_objective_changes_the_targets_of_the_guided_rows_alone():
    guided = replace(methods.flow_matching(), guidance=Guidance(1.0, 0.5, (0.2, 0.6)), label_dropout=0.3)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    flow = guided.flow_map(Asked())
    point = guided.draw(Batch(x, torch.arange(64) % 3), step=5, key=2)
    inside = (point.t >= 0.2) & (point.t <= 0.6) & ~point.dropped
    assert torch.equal(point.guided, inside.nonzero().squeeze(1)) and 0 < int(inside.sum()) < 64
    with_, without = (replace(guided, guidance=g).regress(flow, None, point) for g in (guided.guidance, None))
    assert torch.equal(with_.prediction, without.prediction)
    conditional = point.noise - point.x
    expected = torch.where(inside[:, None], mixture(guided.guidance, point, conditional), conditional)
    torch.testing.assert_close(without.target, conditional, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(with_.target, expected, rtol=1e-12, atol=1e-12)


# without asking twice


class Small(nn.Module):
    """A smooth network of points of two numbers, with labels and dropout; counts the rows that each label is asked."""

    num_classes = NULL

    def __init__(self, kind: torch.dtype = D, dropout: float = 0.3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.table = nn.Embedding(NULL + 1, 4)
            self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 2)
        self.dropout = Dropout(dropout, 0)
        self.asked: list[list[int]] = []
        self.to(kind)

    def forward(self, x, t, r, label):
        self.asked.append(label.bincount(minlength=NULL + 1).tolist())
        h = torch.cat([x, t[:, None].to(x), r[:, None].to(x), self.table(label)], 1)
        return self.outer(self.dropout(torch.tanh(self.inner(h)), row_keys(x)))

    def log_variance(self, t, r):
        return self.table.weight[0, 0] * (t + r)


SPREAD = replace(methods.sct().target, derivative=TwoPass(), warmup=0.0)
PAIRS = SortedPair(diagonal=0.5)
COMPOSITIONS = {
    "esc": {},
    "no plug-in, one pass": {"velocity": methods.meanflow().velocity, "target": Eulerian(ExactJVP())},
    "difference, window": {"target": Eulerian(CentralDifference()), "guidance": Guidance(1.0, 0.5, (0.2, 0.6))},
    "no null label": {"guidance": Guidance(0.5, 0.5)},
    "null label alone": {"guidance": Guidance(2.0, 0.0)},
    "negative weights": {"guidance": Guidance(0.25, -0.5)},
    "all rows jump": {"times": replace(PAIRS, diagonal=0.0)},
    "no row jumps": {"times": replace(PAIRS, diagonal=1.0)},
    "trigonometric velocity": {"path": TrigPath(), "parameterization": Velocity(), "target": SPREAD},
    "trigonometric, scaled": {
        "path": TrigPath(0.5),
        "parameterization": Preconditioned(Velocity(), gain=0.8),
        "target": SPREAD,
    },
    "points": {"target": Consistency(space="map", keep_labels=False), "times": Particles(1)},
    "noise": {"path": VPPath(), "parameterization": Noise()},
    "EDM": {
        "path": VEPath(),
        "parameterization": EDM(),
        "times": replace(PAIRS, law=LogNormal(-1.1, 2.0)),
        "guidance": Guidance(1.0, 0.5, (0.1, 10.0)),
        "target": replace(SPREAD, normalize=None),
    },
    "endpoint": {"target": SelfConsistency(), "times": DyadicGrid(share=0.5), "parameterization": Endpoint()},
}  # fmt: skip


def guided(name: str) -> Objective:
    made = replace(methods.esc(), guidance=Guidance(1.0, 0.5), label_dropout=0.3, times=PAIRS)
    return replace(made, **COMPOSITIONS[name])


def drawn(objective: Objective, network: nn.Module, kind: torch.dtype, rows: int = 32) -> Point:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0), dtype=D).to(kind)
    return objective.draw(
        Batch(x, torch.arange(rows) % NULL), step=5, key=2, frozen=objective.flow_map(network)
    )


def gradients(
    objective: Objective, network: nn.Module, target: nn.Module, point: Point
) -> list[torch.Tensor]:
    """The target, the prediction and the gradient of every weight."""
    network.zero_grad()
    found = objective.regress(objective.flow_map(network), objective.flow_map(target), point)
    objective.per_sample(found, point).mean().backward()
    return [
        found.target,
        found.prediction.detach(),
        *(weight.grad.clone() for weight in network.parameters()),
    ]


@pytest.mark.parametrize(("kind", "near"), [(D, 1e-12), (torch.float32, 1e-6)], ids=str)
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_targets_are_those_of_a_network_that_is_asked_for_everything(name, kind, near):
    """A copy of the network is asked both labels on all guided rows; the network itself answers some as it predicts."""
    objective, network = guided(name), Small(kind)
    point = drawn(objective, network, kind)
    if name == "difference, window" and kind != D:
        near *= 1 / 5e-3  # the quotient multiplies what rounding leaves
    other = copy.deepcopy(network)
    own, plain = (gradients(objective, network, target, point) for target in (network, other))
    assert 0 < len(point.guided) < len(point) and bool(point.dropped.any())
    for mine, expected in zip(own, plain, strict=True):
        torch.testing.assert_close(mine, expected, rtol=near, atol=near * float(expected.abs().max()))


def test_in_half_precision_targets_are_those_of_a_network_that_is_asked_for_everything():
    objective, network = guided("esc"), Small(torch.float32)
    point = drawn(objective, network, torch.float32)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        own, plain = (gradients(objective, network, n, point) for n in (network, copy.deepcopy(network)))
    for mine, expected in zip(own, plain, strict=True):
        assert float((mine - expected).norm()) <= 1e-2 * float(expected.norm())


@pytest.mark.parametrize(
    ("guidance", "asked"),
    [
        (Guidance(1.0, 0.5), lambda known, jumps: [*jumps, sum(known)]),
        (Guidance(0.5, 0.5), lambda known, jumps: [*jumps, 0]),
        (Guidance(2.0, 0.0), lambda known, jumps: [0, 0, 0, sum(known)]),
        (Guidance(1.0, 0.5, (0.2, 0.6)), lambda known, jumps: [*jumps, sum(known)]),
        (Guidance(1.0, 0.0), None),
        (Guidance(1.0, 0.5, (0.999, 1.0)), None),
    ],
    ids=["both labels", "no null label", "null label alone", "a window", "no guidance", "an empty window"],
)
def test_what_the_student_predicts_anyway_is_not_asked_again(guidance, asked):
    """One call between prediction and derivative: rows r < t with their label, and guided rows without."""
    objective, network = replace(guided("esc"), guidance=guidance), Small()
    point = drawn(objective, network, D)
    objective.regress(objective.flow_map(network), None, point)
    whole, *between, slope = network.asked
    assert whole == torch.where(point.dropped, NULL, point.label).bincount(minlength=NULL + 1).tolist()
    assert sum(slope) == point.num_jumps
    if asked is None:
        assert between == []
        return
    known, jumps = (
        point.label[rows].bincount(minlength=NULL).tolist()
        for rows in (point.guided, point.guided[point.guided < point.num_jumps])
    )
    assert 0 < sum(jumps) < sum(known) and between == [asked(known, jumps)]


def test_another_network_that_targets_are_made_with_is_asked_both_labels():
    objective, network, average = replace(guided("esc"), frozen=EMA(0.9)), Small(), Small()
    point = drawn(objective, network, D)
    objective.regress(objective.flow_map(network), objective.flow_map(average), point)
    known = point.label[point.guided].bincount(minlength=NULL).tolist()
    assert len(network.asked) == 1 and average.asked[0] == [*known, len(point.guided)]


# shortcut's finest level


def test_only_jumps_of_two_finest_steps_are_guided():
    t = torch.tensor([1.0, 0.5, 0.25, 1.0, 0.3], dtype=D)
    r = torch.tensor([0.75, 0.25, 0.0, 0.0, 0.3], dtype=D)
    x = torch.ones(5, 2, dtype=D)
    dropped = torch.tensor([False, True, False, False, False])
    point = Point(
        LinearPath(), x, x, t, (t + r) / 2, r, x, 4, torch.zeros(5, dtype=torch.int64), finest=1 / 8
    )
    assert FinestLevel(2.0).rows(point).tolist() == [0, 1, 2]
    assert FinestLevel(2.0).rows(replace(point, dropped=dropped)).tolist() == [0, 2]
    assert FinestLevel(2.0).rows(replace(point, finest=1 / 128)).tolist() == []


# in sampling


def test_guide_is_classifier_free_guidance_of_the_output_in_one_call():
    """F(∅) + w (F(y) − F(∅)); x is stepped once with it."""
    network, x, label = Asked(), torch.arange(1.0, 7.0, dtype=D).reshape(3, 2), torch.tensor([0, 1, 2])
    found = guide(FlowMap(network), 1.5)(x, 1.0, 0.0, label)
    levels = 7 + 1.5 * (torch.tensor([2.0, 3.0, 5.0], dtype=D) - 7)
    torch.testing.assert_close(found, x - levels[:, None] * x, rtol=1e-12, atol=0)
    assert len(network.calls) == 1 and network.rows == 6


@pytest.mark.parametrize("scale", [None, 1.0, 1])
def test_guide_at_scale_one_is_the_map_itself(scale):
    flow = FlowMap(Asked())
    assert guide(flow, scale) is flow


def test_guide_needs_labels_and_a_null_class():
    x = torch.ones(2, 2, dtype=D)
    with pytest.raises(ValueError, match="labels to sample with"):
        guide(FlowMap(Asked()), 2.0)(x, 1.0, 0.0)
    with pytest.raises(ValueError, match="num_classes"):
        guide(FlowMap(lambda x, t, r, label: x), 2.0)(x, 1.0, 0.0, torch.tensor([0, 1]))


def test_weights_that_add_up_to_one_up_to_rounding_never_ask_for_the_null_label():
    assert 1 - 0.7 - 0.3 != 0, "rounding leaves a remainder"
    assert Guidance(0.7, 0.3).null == 0 and not Guidance(0.7, 0.3).asks_null
    assert Guidance(1.0, 0.5).null == -0.5 and Guidance(1.0, 0.5).asks_null


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_is_refused_before_a_network_is_asked(scale):
    flow = FlowMap(lambda *given: pytest.fail("asked"))
    with pytest.raises(ValueError, match="finite scale"):
        guide(flow, scale)
    with pytest.raises(ValueError, match="falling times"):
        samplers.grid(flow.path, times=[1.0, scale, 0.0])
