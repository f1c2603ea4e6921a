"""Guidance as an input of the network: what rows draw, what they are trained for, what sampling with it costs."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest
import torch
from click.testing import Result
from torch import Tensor
from typer.testing import CliRunner

from flowleap import (
    Batch,
    FlowMap,
    Objective,
    evaluation,
    losses,
    methods,
    paths,
    runs,
    samplers,
    serialize,
    times,
    velocities,
)  # fmt: skip
from flowleap.cli import app
from flowleap.couplings import StoredPairs
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.guidance import FinestLevel, Guidance, GuidanceInput, guide
from flowleap.interfaces import VelocitySource
from flowleap.networks import MLP, DiT, UNet
from flowleap.networks.adapters import StepToken, WithLogVariance
from flowleap.networks.warm import begin_with
from flowleap.objectives import Eulerian
from flowleap.oracles import Gaussian
from flowleap.point import Point
from flowleap.randomness import RowGenerator
from flowleap.tensors import classes_of, guided_label, like, null_label

D = torch.float64
NULL = 2
MEANS = torch.tensor([-0.8, 0.9, 0.1], dtype=D)
"""Of two classes, and of data without a label; all have the same standard deviation."""


def told(scale: object = 1.0, first: object = 0.0, last: object = 1.0, rows: int = 3) -> Tensor:
    return torch.stack([torch.as_tensor(v, dtype=D).expand(rows) for v in (scale, first, last)], dim=1)


@dataclass(frozen=True)
class Guided:
    """The flow of Gaussian classes guided with the scale of each row inside its interval of times, and not outside.

    v(∅) + w (v(y) − v(∅)) is the velocity of a Gaussian of mean m(∅) + w (m(y) − m(∅)), since all have one spread.
    """

    path: paths.Path = paths.LinearPath()
    num_classes: int = NULL
    guidance_input: bool = True

    def of(self, label: Tensor, guided: bool) -> Gaussian:
        classes, guidance = classes_of(label)
        mean = MEANS[classes]
        if guided and guidance is not None:
            mean = MEANS[NULL] + guidance[:, 0] * (mean - MEANS[NULL])
        return Gaussian(mean[:, None], 0.6, self.path)

    def velocity(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        guidance = classes_of(label)[1]
        plain = self.of(label, False).velocity(x, t)
        if guidance is None:
            return plain
        inside = (t >= guidance[:, 1]) & (t <= guidance[:, 2])
        return torch.where(like(inside, x), self.of(label, True).velocity(x, t), plain)

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        guidance = classes_of(label)[1]
        if guidance is None:
            return self.of(label, False)(x, t, r)
        upper = torch.minimum(torch.maximum(guidance[:, 2], r), t)
        lower = torch.minimum(torch.maximum(guidance[:, 1], r), t)
        x = self.of(label, False)(x, t, upper)
        x = self.of(label, True)(x, upper, lower)
        return self.of(label, False)(x, lower, r)


@dataclass(frozen=True)
class OfClass(VelocitySource):
    """The velocity of the class of a row, without guidance: the mean of what pairs of data and noise give."""

    def __call__(self, point: Point, flow: FlowMap | None = None) -> Tensor:
        plain = replace(point, guidance=None).network_label(NULL)
        return Guided(point.path).velocity(point.x_t, point.t, plain)


def rows_of(objective: Objective, scale: float | None = None) -> Point:
    """Jumps and diagonal rows, of all classes and without one, with scales and intervals of their own."""
    levels = [0.07, 0.23, 0.41, 0.57, 0.73, 0.91]
    couples = [(t, r) for t in levels for r in [0.02, *levels] if r < t]
    if not objective.times.has_stop and objective.times.lands == "nowhere":
        couples = []
    both = torch.tensor(couples + [(t, t) for t in levels for _ in range(3)], dtype=D)
    t, r = both.unbind(1)
    random = torch.Generator().manual_seed(3)
    x, noise = torch.randn(2, len(t), 3, dtype=D, generator=random)
    share = torch.rand(3, len(t), dtype=D, generator=random)
    given = torch.stack([1 + 5 * share[0] if scale is None else told(scale, rows=len(t))[:, 0], 0.5 * share[1],
                         0.5 + 0.5 * share[2]], dim=1)  # fmt: skip
    label, dropped = torch.arange(len(t)) % NULL, torch.arange(len(t)) % 7 == 3
    return objective.point(x, noise, t, (t + r) / 2, r, label, dropped=dropped, guidance=given)


METHODS: dict[str, Objective] = {
    "flow matching": methods.flow_matching(),
    "meanflow": methods.meanflow(),
    "meanflow, one pass": replace(methods.meanflow(), target=Eulerian(ExactJVP())),
    "meanflow, difference": replace(methods.meanflow(), target=Eulerian(CentralDifference(1e-5))),
    "meanflow, closed forms": replace(methods.meanflow(), target=Eulerian(TwoPass(closed_forms=True))),
    "meanflow, own tangent": replace(methods.meanflow(), target=Eulerian(tangent=velocities.Own())),
    "esc": methods.esc(),
    "imf": methods.imf(),
    "shortcut": methods.shortcut(),
    "psd": methods.psd(),
    "lsd": methods.lsd(),
    "esd": methods.esd(),
    "tvm": methods.tvm(),
    "temf": methods.temf(),
}


def knob(objective: Objective, **changes: object) -> Objective:
    return replace(objective, guidance=GuidanceInput(**changes), velocity=OfClass())


def residual(objective: Objective, network: Callable[..., Tensor]) -> Tensor:
    """|prediction − target| of every row, (rows,)."""
    found = objective.regress(objective.flow_map(network), None, rows_of(objective))
    return (found.prediction - found.target).abs().amax(1)


class Spoilt:
    """A network that is told everything, and misreads one thing."""

    num_classes, guidance_input = NULL, True

    def __init__(self, network: Callable[..., Tensor], change: Callable[[Tensor], Tensor]) -> None:
        self.network, self.change = network, change

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        classes, guidance = classes_of(label)
        assert guidance is not None
        return self.network(x, t, r, guided_label(classes, self.change(guidance)))


@pytest.mark.parametrize("name", METHODS)
def test_the_flow_guided_with_each_row_s_own_scale_and_interval_is_the_fixed_point(name: str) -> None:
    objective = knob(METHODS[name])
    exact = FlowMap.of(Guided()).network
    tolerance = 1e-8 if "difference" in name else 1e-9
    assert residual(objective, exact).max() <= tolerance
    one_scale = Spoilt(exact, lambda g: torch.cat([torch.full_like(g[:, :1], 3.0), g[:, 1:]], 1))
    no_interval = Spoilt(exact, lambda g: torch.cat([g[:, :1], told(1.0, rows=len(g))[:, 1:]], 1))
    for wrong in (one_scale, no_interval):
        assert residual(objective, wrong).max() >= 1e-2


def test_without_intervals_all_times_are_guided() -> None:
    objective = knob(methods.meanflow(), interval=False)
    everywhere = FlowMap.of(Guided()).network
    point = objective.draw(Batch(torch.randn(64, 3).to(D), torch.arange(64) % NULL), 0, 0)
    assert point.guidance[:, 1:].unique(dim=0).tolist() == [[0.0, 1.0]]
    found = objective.regress(objective.flow_map(everywhere), None, point)
    assert (found.prediction - found.target).abs().max() <= 1e-5  # scales are drawn in single precision
    kept = ~point.dropped & (point.guidance[:, 0] != 1)
    assert torch.equal(point.guided, kept.nonzero().squeeze(1))


class TwoHeads(Spoilt):
    """An exact network with a velocity head; both misread the same."""

    def with_velocity(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        classes, guidance = classes_of(label)
        read = guided_label(classes, self.change(guidance))
        return self(x, t, r, label), Guided().velocity(x, t, read)


def test_a_velocity_head_has_the_guided_flow_as_its_fixed_point_too() -> None:
    objective = replace(methods.imf(head=True), guidance=GuidanceInput(by_head=True), velocity=OfClass())
    exact, point = FlowMap.of(Guided()).network, rows_of(objective)

    def errors(network: TwoHeads) -> tuple[float, float]:
        found = objective.regress(objective.flow_map(network), None, point)
        apart = found.prediction - found.target, found.velocity - found.velocity_target
        return tuple(float(error.abs().max()) for error in apart)

    assert max(errors(TwoHeads(exact, lambda g: g))) <= 1e-9
    wrong = TwoHeads(exact, lambda g: torch.cat([torch.full_like(g[:, :1], 3.0), g[:, 1:]], 1))
    assert min(errors(wrong)) >= 1e-2


# what rows draw


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 3.5])
def test_scales_follow_their_law(power: float) -> None:
    """P(w ≤ s) is the integral of w^−β from 1 to s, over that to 8."""
    drawn = GuidanceInput(power=power).draw(RowGenerator(0, "guidance", total=20_000))[:, 0].double()
    assert drawn.min() >= 1 and drawn.max() <= 8

    def integral(s: float) -> float:
        return math.log(s) if power == 1 else (s ** (1 - power) - 1) / (1 - power)

    for s in (1.5, 2.5, 4.0, 6.5):
        assert float((drawn <= s).double().mean()) == pytest.approx(integral(s) / integral(8.0), abs=0.015)


def test_intervals_are_drawn_around_the_middle() -> None:
    _, first, last = GuidanceInput().draw(RowGenerator(0, "guidance", total=20_000)).unbind(1)
    assert first.min() >= 0 and first.max() <= 0.5 <= last.min() and last.max() <= 1
    assert float(first.mean()) == pytest.approx(0.25, abs=0.01)
    assert float(last.mean()) == pytest.approx(0.75, abs=0.01)
    assert abs(float(torch.corrcoef(torch.stack([first, last]))[0, 1])) < 0.03


def test_a_knob_leaves_all_other_draws_as_they_are() -> None:
    batch = Batch(torch.randn(32, 3), torch.arange(32) % NULL)
    plain, turned = (
        replace(methods.esc(), guidance=g).for_run(10).draw(batch, 3, 1) for g in (None, GuidanceInput())
    )
    for name in ("x", "noise", "t", "s", "r", "label", "dropped", "plug_in", "keys"):
        assert torch.equal(getattr(plain, name), getattr(turned, name)), name
    assert plain.guidance is None and turned.guidance.shape == (32, 3)


def test_rows_of_a_part_draw_what_they_draw_in_the_whole_batch() -> None:
    objective = knob(methods.meanflow())
    x, label = torch.randn(16, 3), torch.arange(16) % NULL
    whole = objective.draw(Batch(x, label), 2, 5)
    half = objective.part(16, 2, 5, 1, 2)
    part = objective.draw(Batch(x[half], label[half], row=half, size=16), 2, 5)
    places = [(whole.x == row).all(1).nonzero().item() for row in part.x]
    assert torch.equal(part.guidance, whole.guidance[places])


def test_rows_without_their_label_are_told_nothing() -> None:
    point = replace(rows_of(knob(methods.meanflow())))
    seen = point.network_label(NULL)
    assert torch.equal(seen[~point.dropped, 1:], point.guidance[~point.dropped])
    assert seen[point.dropped].unique(dim=0).tolist() == [[NULL, 1.0, 0.0, 1.0]]


def test_only_rows_inside_their_interval_are_asked_about() -> None:
    objective, asked = knob(methods.meanflow()), []
    exact = FlowMap.of(Guided()).network

    class Counting(Spoilt):
        def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
            asked.append(label)
            return self.network(x, t, r, label)

    point = rows_of(objective)
    first, last = point.guidance[:, 1], point.guidance[:, 2]
    inside = (point.t >= first) & (point.t <= last) & ~point.dropped
    assert torch.equal(point.guided, inside.nonzero().squeeze(1)) and 0 < len(point.guided) < len(point)
    objective.regress(objective.flow_map(Counting(exact, lambda g: g)), None, point)
    contrast = asked[1]
    assert len(contrast) == point.guided_jumps + len(point.guided), (
        "rows r = t with their label were asked before"
    )
    bare = contrast[point.guided_jumps :]
    assert bare.unique(dim=0).tolist() == [[NULL, 1.0, 0.0, 1.0]]


# networks

NETWORKS = {
    "DiT": (lambda **o: DiT((1, 8, 8), NULL, patch=4, width=16, depth=1, heads=2, **o), (1, 8, 8)),
    "UNet": (lambda **o: UNet((1, 8, 8), NULL, width=8, multipliers=(1, 2), depth=1, attention=(), **o), (1, 8, 8)),
    "MLP": (lambda **o: MLP(3, NULL, width=16, depth=2, **o), (3,)),
}  # fmt: skip


def built(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0](**options)


def disturbed(network: torch.nn.Module, only: str = "") -> torch.nn.Module:
    """Return a network none of whose weights is 0 any more, of those with this in their name."""
    random = torch.Generator().manual_seed(1)
    for key, weight in network.named_parameters():
        if only in key:
            weight.data.add_(0.1 * torch.randn(weight.shape, generator=random))
    return network


def inputs(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    t = torch.tensor([0.9, 0.5, 0.4, 1.0])
    return torch.randn(4, *NETWORKS[name][1], generator=random), t, t / 2, torch.tensor([0, 1, 1, NULL])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_is_told_starts_as_the_one_that_is_not(name: str) -> None:
    plain, informed = built(name), built(name, guidance_input=True)
    assert not plain.guidance_input and informed.guidance_input
    added = {key for key in informed.state_dict() if key not in plain.state_dict()}
    assert added and all(key.startswith("g_embedder.") for key in added)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, informed.state_dict()[key]), key
    x, t, r, label = inputs(name)
    disturbed(plain)
    informed.load_state_dict(informed.state_dict() | plain.state_dict())
    guidance = torch.tensor([[3.0, 0.1, 0.8]]).expand(4, 3)
    expected = plain(x, t, r, label)
    assert expected.abs().max() > 0
    for given in (label, guided_label(label, guidance)):
        assert torch.equal(informed(x, t, r, given), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_number_that_a_network_is_told_counts_for_its_own_row(name: str) -> None:
    network = disturbed(built(name, guidance_input=True))
    x, t, r, label = inputs(name)
    base = torch.tensor([3.0, 0.1, 0.8]).repeat(4, 1)
    before = network(x, t, r, guided_label(label, base))
    for column in range(3):
        other = base.clone()
        other[1, column] *= 0.5
        after = network(x, t, r, guided_label(label, other))
        assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]]) and not torch.equal(after[1], before[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plain_label_means_no_guidance(name: str) -> None:
    network = disturbed(built(name, guidance_input=True))
    x, t, r, label = inputs(name)
    unguided = guided_label(label, told(rows=4).float())
    assert torch.equal(network(x, t, r, label), network(x, t, r, unguided))
    nothing = guided_label(torch.full_like(label, NULL), told(rows=4).float())
    assert torch.equal(network(x, t, r), network(x, t, r, nothing))


def test_adapters_pass_it_on() -> None:
    inner = disturbed(built("MLP", guidance_input=True))
    x, t, r, label = inputs("MLP")
    given = guided_label(label, torch.tensor([[3.0, 0.1, 0.8]]).expand(4, 3))
    assert WithLogVariance(inner).guidance_input and not StepToken(built("MLP")).guidance_input
    assert torch.equal(WithLogVariance(inner)(x, t, r, given), inner(x, t, r, given))


def test_labels_with_guidance_and_back() -> None:
    label = torch.tensor([1, 0, 2])
    classes, guidance = classes_of(guided_label(label, told(2.0, 0.1, 0.9)))
    assert torch.equal(classes, label) and classes.dtype == torch.int64
    assert torch.equal(guidance, told(2.0, 0.1, 0.9))
    assert classes_of(label) == (label, None)
    assert null_label(label, 5).tolist() == [5, 5, 5]
    assert null_label(guided_label(label, told(2.0)), 5).tolist() == [[5.0, 1.0, 0.0, 1.0]] * 3


# sampling


class Recording(Spoilt):
    """An exact network that remembers the labels it was asked with."""

    def __init__(self) -> None:
        super().__init__(FlowMap.of(Guided()).network, lambda g: g)
        self.labels: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        self.labels.append(label)
        return self.network(x, t, r, label)


@pytest.mark.parametrize("steps", [1, 4])
def test_samples_of_any_scale_take_single_evaluations(steps: int) -> None:
    objective, network = knob(methods.meanflow()), Recording()
    noise, label = torch.randn(3, 3, dtype=D), torch.tensor([0, 1, 0])
    found = objective.sample(
        objective.flow_map(network), noise, steps, label=label, guidance=3.0, interval=(0.2, 0.8)
    )
    assert len(network.labels) == steps == objective.nfe(steps, guidance=3.0)
    assert all(torch.equal(asked, guided_label(label, told(3.0, 0.2, 0.8))) for asked in network.labels)
    one, zero = torch.ones(3, dtype=D), torch.zeros(3, dtype=D)
    exact = Guided()(noise, one, zero, guided_label(label, told(3.0, 0.2, 0.8)))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def test_the_usual_scale_is_taken_where_none_is_asked_for() -> None:
    objective, network = knob(methods.meanflow(), usual=2.5), Recording()
    given = objective.flow_map(network), torch.randn(3, 3, dtype=D)
    objective.sample(*given, label=torch.tensor([0, 1, 0]))
    assert torch.equal(network.labels[0][:, 1:], told(2.5))
    objective.sample(*given, label=torch.tensor([0, 1, 0]), guidance=1.0)
    assert torch.equal(network.labels[1], torch.tensor([0, 1, 0])), "1 is none"


def test_a_model_that_is_not_told_takes_two_evaluations_as_before() -> None:
    objective = methods.meanflow()
    calls = []

    def network(x: Tensor, t: Tensor, r: Tensor, label: Tensor) -> Tensor:
        calls.append(label)
        return x

    network.num_classes = NULL
    objective.sample(
        objective.flow_map(network), torch.randn(3, 3), label=torch.tensor([0, 1, 0]), guidance=3.0
    )
    assert [label.tolist() for label in calls] == [[0, 1, 0, NULL, NULL, NULL]]
    assert objective.nfe(1, guidance=3.0) == 2


def test_scales_outside_of_training_are_said() -> None:
    objective = knob(methods.meanflow())
    assert objective.advice(1, guidance=3.0) == []
    for scale in (9.0, 0.5):
        assert "outside of the scales of training, 1 to 8" in objective.advice(1, guidance=scale)[0]


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.2), (0.1, 0.5, 0.9)])
def test_an_interval_that_is_none_is_refused(interval: tuple[float, ...]) -> None:
    flow = knob(methods.meanflow()).flow_map(Recording())
    with pytest.raises(ValueError, match="two times 0 ≤ from < to ≤ 1"):
        guide(flow, 2.0, interval)


def test_an_interval_is_refused_where_the_network_is_not_told() -> None:
    noise, label = torch.randn(3, 3, dtype=D), torch.tensor([0, 1, 0])
    for objective in (methods.meanflow(), knob(methods.meanflow(), interval=False)):
        flow = objective.flow_map(Recording())
        with pytest.raises(ValueError, match="trained without intervals"):
            objective.sample(flow, noise, label=label, guidance=2.0, interval=(0.2, 0.8))
    with pytest.raises(ValueError, match="not trained with guidance as an input"):
        guide(FlowMap(lambda x, t, r, label: x), 2.0, (0.2, 0.8))
    with pytest.raises(ValueError, match="positive"):
        guide(knob(methods.meanflow()).flow_map(Recording()), -1.0)


# refusals


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"velocity": velocities.Teacher()}, "follow|belongs to one"),
        ({"coupling": StoredPairs()}, "noise tied"),
        ({"label_dropout": 0.0}, "label_dropout"),
        ({"path": paths.VEPath(), "times": times.SortedPair(times.LogNormal())}, "interval=False"),
        ({"times": times.FullJump(), "conditioning": "t"}, "r = t"),
        ({"guidance": GuidanceInput(by_head=True)}, "loss=VelocityHead"),
    ],
    ids=["teacher", "pairs", "no null label", "noise levels", "no diagonal", "no head"],
)
def test_compositions_that_mean_nothing_are_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(methods.meanflow(), **{"guidance": GuidanceInput(), **change})


@pytest.mark.parametrize("wrong", [{"largest": 1.0}, {"usual": 0.5}, {"usual": 9.0}, {"power": -1.0}])
def test_scales_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a usual scale in"):
        GuidanceInput(**wrong)


def test_a_network_that_cannot_be_told_is_refused_with_the_option_that_it_needs() -> None:
    objective = knob(methods.meanflow())
    with pytest.raises(ValueError, match="guidance_input=True"):
        objective.flow_map(built("MLP"))
    with pytest.raises(ValueError, match="contrasts a label with none"):
        MLP(3, guidance_input=True)
    by_hand = FlowMap(Recording())
    with pytest.raises(ValueError, match=r"objective\.flow_map"):
        objective.regress(by_hand, None, rows_of(objective))
    with pytest.raises(ValueError, match="give the batch labels"):
        objective.draw(Batch(torch.randn(8, 3)), 0, 0)


def test_it_is_a_plain_value() -> None:
    objective = replace(methods.meanflow(), guidance=GuidanceInput(6.0, 1.5, False, 3.0))
    assert serialize.from_dict(serialize.to_dict(objective)) == objective
    assert serialize.override(methods.meanflow(), "guidance", "GuidanceInput").guidance == GuidanceInput()
    assert not any(g.is_input for g in (Guidance(), FinestLevel()))


# learning


def test_a_small_network_learns_the_knob() -> None:
    """Two overlapping classes in one dimension: the stronger the guidance, the further samples are from the other."""
    torch.manual_seed(0)
    objective = replace(
        methods.flow_matching(), guidance=GuidanceInput(interval=False), loss=losses.Squared()
    ).for_run(300)
    network = MLP(1, NULL, width=32, depth=2, guidance_input=True)
    flow = objective.flow_map(network)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    random = torch.Generator().manual_seed(0)
    for step in range(300):
        label = torch.randint(NULL, (256,), generator=random)
        x = (2.0 * label[:, None] - 1) * 0.5 + 0.5 * torch.randn(256, 1, generator=random)
        optimizer.zero_grad()
        objective(flow, None, Batch(x, label), step).mean().backward()
        optimizer.step()
    noise, label = torch.randn(2000, 1, generator=random), torch.arange(2000) % NULL
    means = []
    for scale in (1.0, 2.0, 4.0):
        x = objective.sample(flow, noise, 16, label=label, guidance=scale)
        means.append(float((x[:, 0] * (2 * label - 1)).mean()))
    assert means[0] == pytest.approx(0.5, abs=0.12)
    assert means[0] + 0.1 < means[1] < means[2] - 0.1


def test_weights_of_a_run_without_the_knob_fit_one_with_it() -> None:
    other, network = disturbed(built("DiT")), built("DiT", guidance_input=True)
    taken = begin_with(network, other)
    assert all(name.startswith("g_embedder.") for name in taken.fresh)
    x, t, r, label = inputs("DiT")
    given = guided_label(label, torch.tensor([[3.0, 0.1, 0.8]]).expand(4, 3))
    assert torch.equal(network(x, t, r, given), copy.deepcopy(other)(x, t, r, label))


# runs


def test_a_run_with_the_knob_has_a_network_that_is_told_and_drops_labels() -> None:
    turned = runs.configure("meanflow", settings=[("guidance", "GuidanceInput")])
    assert turned.network["guidance_input"] is True and turned.objective.label_dropout == 0.1
    assert runs.configure("meanflow").network["guidance_input"] is False
    with pytest.raises(ValueError, match="no classes"):
        runs.configure("meanflow", settings=[("guidance", "GuidanceInput"), ("network.classes", "none")])


# the command line


def call(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": None}).invoke(app, [str(word) for word in words])


def ok(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of a few steps: with the knob, and without guidance."""
    small = {
        "steps": 4,
        "batch": 20,
        "eval_num": 0,
        "sample_every": 0,
        "checkpoint_every": 0,
        "device": "cpu",
    }
    width = [("network.width", "32"), ("network.depth", "1")]
    place, made = tmp_path_factory.mktemp("runs"), {}
    for name, extra in {"told": [("guidance", "GuidanceInput")], "plain": []}.items():
        config = runs.configure("meanflow", "digits", network="mlp", settings=[*width, *extra], **small)
        made[name] = runs.train(config, place / name).folder
    return made


def test_a_finished_run_is_sampled_at_any_scale_in_single_evaluations(folders, tmp_path) -> None:
    words = ("sample", folders["told"], "--num", 4, "--out", tmp_path / "a.npz", "--overwrite")
    text = ok(*words, "--guidance", 3, "--guidance-interval", "0.2,0.8")
    assert "1 network evaluation each, guidance 3 input on 0.2-0.8" in text
    run = runs.load_run(folders["told"])
    assert run.flow.guidance_input
    with numpy.load(tmp_path / "a.npz") as file:
        images = file["images"]
    noise, label = samplers.noise(0, range(4), (1, 8, 8)), torch.arange(4)
    expected = run.objective.sample(run.flow, noise, label=label, guidance=3, interval=(0.2, 0.8))
    numpy.testing.assert_allclose(images, expected.clamp(-1, 1).numpy(), atol=1e-6)
    assert "1 network evaluation each, guidance 2 input" in ok(*words), "the usual scale"
    plain = ("sample", folders["plain"], "--num", 4, "--out", tmp_path / "b.npz")
    assert "2 network evaluations each, guidance 3 sampled" in ok(*plain, "--guidance", 3)


def test_several_scales_are_rows_of_one_table(folders) -> None:
    words = ("evaluate", folders["told"], "--steps", 1, "--num", 70)
    rows = json.loads(ok(*words, "--guidance", "1,3", "--guidance-interval", "0.2,0.8", "--json"))
    assert [row["nfe"] for row in rows] == [1, 1]
    assert [row["guidance"] for row in rows] == ["none", "3 input on 0.2-0.8"]
    assert ";guidance=3 input on 0.2-0.8" in rows[1]["protocol"]
    text = str(evaluation.quality_table.table(rows))
    assert "guidance" in text and "3 input on 0.2-0.8" in text
    notes = evaluation.quality_table.notes(rows)
    assert [note for note in notes if note.startswith("protocol:")] == [
        f"protocol: {r['protocol']}" for r in rows
    ]
    assert "guidance" not in str(evaluation.quality_table.table(rows[:1])), "one scale is in the protocol"


@pytest.mark.parametrize(
    ("run", "words", "reason"),
    [
        (
            "plain",
            ("sample", "--guidance", "3", "--guidance-interval", "0.2,0.8"),
            "trained without intervals",
        ),
        (
            "plain",
            ("evaluate", "--steps", "1", "--guidance-interval", "0.2,0.8"),
            "trained without intervals",
        ),
        ("told", ("sample", "--guidance", "1,3"), "one scale is expected"),
        ("told", ("sample", "--guidance", "much"), "scales separated by commas"),
        ("told", ("sample", "--guidance-interval", "0.8,0.2"), "two times 0 ≤ from < to ≤ 1"),
        ("told", ("sample", "--guidance-interval", "0.8"), "two times 0 ≤ from < to ≤ 1"),
        ("told", ("evaluate", "--guidance", "1,3", "--save"), "one scale of guidance"),
    ],
)
def test_wrong_options_say_what_to_do(folders, run: str, words: tuple[str, ...], reason: str) -> None:
    command, *rest = words
    result = call(command, folders[run], *rest)
    assert result.exit_code == 2 and reason in " ".join(result.stderr.split()), result.stderr
