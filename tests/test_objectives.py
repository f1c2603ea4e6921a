"""The seam: what `draw` decides and `point` does not, what `regress` asks, what runs are told.

That the identities hold on exact maps is test_conformance.py's business.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from flowleap import Batch, FlowMap, methods, networks, randomness
from flowleap.couplings import Independent, StoredPairs
from flowleap.derivatives import CentralDifference, ExactJVP, TwoPass
from flowleap.guidance import FinestLevel, Guidance
from flowleap.losses import AdaptivePower, LearnedVariance, MomentMatching, Squared
from flowleap.objectives import EMA, Consistency, Eulerian, LearnedSolver, Objective, Self, SelfConsistency
from flowleap.parameterization import AverageVelocity, Endpoint, Preconditioned, Velocity
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath
from flowleap.randomness import RowGenerator
from flowleap.samplers import Sampling
from flowleap.times import DyadicGrid, FullJump, LogitNormal, LogNormal, OneTime, SortedPair, Uniform
from flowleap.velocities import Conditional, Own, PlugIn

D = torch.float64
ROWS = 64
NULL = 3
FIELDS = ("x", "noise", "t", "s", "r", "x_t", "label", "dropped", "plug_in", "group")


def method(name: str, **changes) -> Objective:
    """A method with some changes; where it has an auxiliary network, that moves to the same path."""
    objective = methods.get(name).for_run(1000)
    if objective.auxiliary is not None:
        shared = {field: changes[field] for field in ("path", "parameterization") if field in changes}
        auxiliary = replace(objective.auxiliary, **shared)
        changes = {"frozen": replace(objective.frozen, objective=auxiliary)} | changes
    return replace(objective, **changes)


def traced(name: str, **changes) -> Objective:
    """A method on data of the batch with drawn noise, whose rows can be told apart."""
    if name == "live_reflow":
        changes["target"] = Eulerian()  # Consistency with s = r needs tied pairs
    return method(name, coupling=Independent(), **changes)


def taught(name: str, teacher: nn.Module, **changes) -> Objective:
    """A method with this network as its teacher, if it has one."""
    objective = method(name, **changes)
    return objective.with_teacher(objective.flow_map(teacher)) if objective.needs_teacher else objective


def trained(objective: Objective, network: nn.Module) -> nn.Module:
    """The network that a method trains: this one, or a solver around it."""
    solved = isinstance(objective.target, LearnedSolver)
    return networks.MeanDirection(network).to(D) if solved else network


def supplied(objective: Objective, data: Batch) -> Batch:
    """The batch as the method is given it: with noise, where that is stored."""
    return replace(data, noise=data.x.flip(0)) if isinstance(objective.coupling, StoredPairs) else data


ALL = pytest.mark.parametrize("name", methods.names())


def batch(rows: int = ROWS, labels: bool = True, seed: int = 0, dtype=D) -> Batch:
    """Rows that can be told apart: the first number of row i is i."""
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=D).to(dtype)
    x[:, 0] = torch.arange(rows)
    return Batch(x, torch.arange(rows) % 3 if labels else None)


class Net(nn.Module):
    """A smooth network that knows its three classes; remembers what it is asked."""

    num_classes = NULL

    def __init__(self, seed: int = 0, labels: bool = True, head: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(D)
        self.scale = nn.Parameter(torch.tensor(0.1, dtype=D))
        self.asked: list[tuple[torch.Tensor | None, ...]] = []
        self.num_classes = NULL if labels else None
        if not head:
            self.log_variance = None

    def forward(self, x, t, r, label=None):
        self.asked.append((x, t, r, label))
        known = torch.zeros_like(t) if label is None else label.to(t.dtype)
        return self.layers(torch.cat([x / 10, t[:, None], r[:, None], known[:, None]], dim=1))

    def log_variance(self, t, r):
        return self.scale * (t + r)


def same(first, second) -> bool:
    return all(
        (a is None and b is None) or torch.equal(a, b)
        for a, b in ((getattr(first, f), getattr(second, f)) for f in FIELDS)
    )


# batches and points


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: Batch(x, torch.zeros(3, dtype=torch.int64)), "Batch.label has 3 rows"),
        (lambda x: Batch(x, noise=x[:2]), "Batch.noise has 2 rows"),
        (lambda x: Batch(x, row=torch.arange(3), size=8), "Batch.row has 3 rows"),
        (lambda x: Batch(x.to(torch.uint8)), "floating point"),
        (lambda x: Batch(x, row=torch.arange(4) + 4), "different rows"),
        (lambda x: Batch(x, size=8), "belong together"),
        (lambda x: Batch(x, row=torch.tensor([0, 1, 2, 8]), size=8), "different rows"),
        (lambda x: Batch(x, row=torch.tensor([0, 1, 2, 2]), size=8), "different rows"),
    ],
)
def test_batches_that_do_not_fit_together_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make(torch.ones(4, 2))


@ALL
def test_points_are_made_without_any_randomness(name):
    """Two points from the same numbers are the same, and no generator is touched."""
    objective = traced(name)
    drawn = objective.draw(batch(), step=1, key=2)
    state = torch.random.get_rng_state()
    made = objective.point(*(getattr(drawn, f) for f in ("x", "noise", "t", "s", "r", "label")), 1,
                           dropped=drawn.dropped, plug_in=drawn.plug_in, group=drawn.group)  # fmt: skip
    assert torch.equal(state, torch.random.get_rng_state())
    assert (
        same(made, drawn)
        and made.num_jumps == drawn.num_jumps
        and made.progress == drawn.progress == 1 / 1000
    )
    assert (made.step, made.finest, made.path) == (drawn.step, drawn.finest, drawn.path)


def test_points_know_their_state_and_their_class():
    """x_t = α x + κσ ε; rows stand alone, unless told otherwise."""
    x, noise = batch(4).x, batch(4, seed=1).x
    t, r = torch.tensor([0.9, 0.5, 0.7, 0.2], dtype=D), torch.tensor([0.1, 0.4, 0.7, 0.2], dtype=D)
    label = torch.tensor([1, 1, 0, 2])
    objective = method("meanflow", path=TrigPath(noise_scale=0.5))
    point = objective.point(x, noise, t, t, r, label)
    angle = t[:, None] * math.pi / 2
    torch.testing.assert_close(point.x_t, torch.cos(angle) * x + 0.5 * torch.sin(angle) * noise)
    assert (
        point.num_jumps == 2 and torch.equal(point.label, label) and point.group is None and len(point) == 4
    )
    other = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(objective.point(x, noise, t, t, r, label, group=other).group, other)


@pytest.mark.parametrize(
    ("t", "s", "r", "said"),
    [
        ([0.5, 0.9], [0.5, 0.9], [0.5, 0.1], "rows with r < t come first"),
        ([1.5, 0.9], [1.5, 0.9], [0.5, 0.9], "domain of LinearPath"),
        ([0.9, 0.5], [0.9, 0.5], [-0.1, 0.5], "domain of LinearPath"),
        ([0.9, 0.5], [0.95, 0.5], [0.1, 0.5], "t ≥ s ≥ r"),
        ([0.9, 0.5], [0.05, 0.5], [0.1, 0.5], "t ≥ s ≥ r"),
        ([0.4, 0.5], [0.4, 0.5], [0.6, 0.5], "t ≥ s ≥ r"),
    ],
)
def test_points_that_make_no_sense_are_refused(t, s, r, said):
    x = batch(2).x
    with pytest.raises(ValueError, match=said):
        method("meanflow").point(x, x, *(torch.tensor(v, dtype=D) for v in (t, s, r)))


def test_a_slice_of_a_point_is_the_point_of_a_slice():
    point = method("esc", guidance=Guidance(1.0, 0.5)).draw(batch(), step=1, key=2)
    head, tail = point.rows(0, point.num_jumps), point.rows(point.num_jumps, ROWS)
    assert (len(head), head.num_jumps, len(tail), tail.num_jumps) == (16, 16, 48, 0)
    assert torch.equal(head.guided, point.guided) and tail.guided is None
    for f in FIELDS:
        if getattr(point, f) is not None:
            assert torch.equal(torch.cat([getattr(head, f), getattr(tail, f)]), getattr(point, f)), f
    assert point.rows(10, 20).num_jumps == 6


def test_the_null_label_is_the_number_of_classes_and_labels_survive_being_dropped():
    point = method("flow_matching", label_dropout=0.5).draw(batch(), step=0, key=0)
    seen = point.network_label(NULL)
    assert 0 < int(point.dropped.sum()) < ROWS
    assert torch.equal(seen == NULL, point.dropped)
    assert torch.equal(seen[~point.dropped], point.label[~point.dropped])
    assert int(point.label.max()) == 2 and point.group is None
    with pytest.raises(ValueError, match=r"label_dropout=0\.0"):
        point.network_label(None)


# draws


@ALL
def test_draws_depend_on_key_and_step_alone(name):
    objective, data = traced(name), batch()
    first = objective.draw(data, step=3, key=1)
    torch.manual_seed(99)
    torch.rand(17)
    assert same(objective.draw(data, step=3, key=1), first)
    for step, key in ((4, 1), (3, 2)):
        other = objective.draw(data, step=step, key=key)
        assert not torch.equal(other.x, first.x), "another order"
        one_time = bool((first.t == 1).all()) or name == "amed"  # one level, or all intervals equally often
        assert one_time or not torch.equal(other.t.sort().values, first.t.sort().values), "other times"
        noise = [p.noise[p.x[:, 0].argsort()] for p in (first, other)]
        assert not torch.equal(*noise), "other noise"


@ALL
@pytest.mark.parametrize("split", [[32, 32], [1, 63], [10, 20, 34]], ids=str)
@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.filterwarnings("ignore:PlugIn averages")
def test_parts_of_a_batch_draw_what_the_whole_batch_draws(name, split, scattered):
    """By global row: no draw depends on the split over processes."""
    objective, data = traced(name, label_dropout=0.3), batch()
    if objective.group > 1 and (scattered or any(size % objective.group for size in split)):
        pytest.skip("groups are not divided, see test_imm.py")
    whole = objective.draw(data, step=2, key=7)
    rows = (
        torch.randperm(ROWS, generator=torch.Generator().manual_seed(1)) if scattered else torch.arange(ROWS)
    )
    found = []
    for row in rows.split(split):
        part = objective.draw(Batch(data.x[row], data.label[row], row=row, size=ROWS), step=2, key=7)
        assert bool((part.r[: part.num_jumps] < part.t[: part.num_jumps]).all())
        assert torch.equal(part.r[part.num_jumps :], part.t[part.num_jumps :])
        found.append(part)
    assert sum(part.num_jumps for part in found) == whole.num_jumps
    for f in FIELDS:
        if getattr(whole, f) is None:
            assert all(getattr(part, f) is None for part in found)
            continue
        joined = torch.cat([getattr(part, f) for part in found])
        mine = torch.cat([part.x[:, 0] for part in found]).argsort()
        assert torch.equal(joined[mine], getattr(whole, f)[whole.x[:, 0].argsort()]), f


@ALL
def test_the_noise_of_a_row_is_that_row_of_the_noise_of_the_step(name):
    """Whatever the times, the order and the method: what published code must be fed to be compared."""
    point = traced(name).draw(batch(dtype=torch.float32), step=2, key=7)
    noise = RowGenerator(7, "noise", 2, total=ROWS).normal(3)
    assert torch.equal(point.noise, noise[point.x[:, 0].long()])


@pytest.mark.parametrize("rows", [16, 128])
def test_a_process_draws_the_numbers_of_its_rows_alone(rows, monkeypatch):
    """Words of 64 random bits, in blocks of four: 63 blocks of noise a row, 6 of other numbers, 27 of the order."""
    words, made = randomness._SOURCE.words, []
    monkeypatch.setattr(
        randomness._SOURCE,
        "words",
        lambda name, block, count: (made.append(count), words(name, block, count))[1],
    )
    randomness.permutation.cache_clear()
    row, x, label = torch.arange(rows), torch.zeros(rows, 500), torch.zeros(rows, dtype=torch.int64)
    method("esc").draw(Batch(x, label, row=row, size=128, context=x[:0]), 3, 0)
    assert sum(made) == rows * (63 + 6) + 27


def test_noise_can_be_brought_along():
    """Row i of the noise stays with row i of the data; the noise that is drawn is such a noise."""
    objective, data = method("meanflow"), batch()
    drawn = objective.draw(data, step=2, key=7)
    own = torch.arange(ROWS, dtype=D)[:, None].expand(ROWS, 3)
    brought = objective.draw(replace(data, noise=own), step=2, key=7)
    assert torch.equal(brought.noise[:, 0], brought.x[:, 0])
    assert torch.equal(brought.x, drawn.x) and torch.equal(brought.t, drawn.t)
    back = drawn.x[:, 0].argsort()
    assert same(objective.draw(replace(data, noise=drawn.noise[back]), step=2, key=7), drawn)


def test_a_whole_batch_may_come_in_another_order():
    """Rows say who they are; nothing depends on where they stand."""
    objective, data = method("esc"), batch()
    row = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    mixed = objective.draw(Batch(data.x[row], data.label[row], row=row), step=2, key=7)
    assert same(mixed, objective.draw(data, step=2, key=7))


def test_every_row_of_a_batch_jumps_equally_often():
    """The batch is shuffled before its first quarter jumps: 400 steps, mean 100 ± √(400 · 3/16) each."""
    objective, data = method("meanflow"), batch(16)
    jumps: Counter[int] = Counter()
    for step in range(400):
        point = objective.draw(data, step=step, key=0)
        assert point.num_jumps == 4
        jumps.update(point.x[: point.num_jumps, 0].int().tolist())
    assert all(abs(jumps[row] - 100) < 5 * math.sqrt(75) for row in range(16))


@pytest.mark.parametrize("name", ["flow_matching", "meanflow", "esc"])
def test_shares_of_dropped_labels_and_plug_in_rows(name):
    objective, data = method(name), batch()
    drops = plug_ins = 0
    for step in range(100):
        point = objective.draw(data, step=step, key=0)
        drops += int(point.dropped.sum())
        plug_ins += 0 if point.plug_in is None else int(point.plug_in.sum())
    total = 100 * ROWS
    assert drops / total == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / total))
    assert plug_ins / total == pytest.approx(0.5 if name == "esc" else 0, abs=4 * math.sqrt(0.25 / total))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_certain_choices_need_no_mask(probability):
    point = method("esc", velocity=PlugIn(probability), label_dropout=0.0).draw(batch(), 0, 0)
    assert point.plug_in is None and point.dropped is None


def test_jumps_of_a_shortcut_keep_their_labels():
    """Dropout on the flow rows alone, as in the published code; as an option everywhere."""
    for keep in (True, False):
        objective = method("shortcut", label_dropout=0.9, target=SelfConsistency(keep_labels=keep))
        point = objective.draw(batch(), step=0, key=0)
        assert bool(point.dropped[: point.num_jumps].any()) != keep and bool(
            point.dropped[point.num_jumps :].any()
        )


@ALL
@pytest.mark.parametrize("path", [LinearPath(), VPPath()], ids=repr)
def test_times_stay_in_the_domain_of_the_path(name, path):
    objective = traced(name)
    if hasattr(objective.times, "refusal") or objective.path.t_max > 1:  # its times are those of one path
        path = objective.path
    else:
        objective = traced(name, path=path, parameterization=Velocity())
    point = objective.draw(batch(), step=0, key=0)
    for time in (point.t, point.s, point.r):
        assert float(time.min()) >= path.t_min and float(time.max()) <= path.t_max and time.dtype == D
    assert bool((point.r[: point.num_jumps] < point.t[: point.num_jumps]).all())


def test_a_batch_of_one_row_can_be_trained_on():
    for name in ("flow_matching", "meanflow", "esc"):
        objective, network = method(name), Net()
        loss = objective(objective.flow_map(network), batch=batch(1), step=5)
        assert loss.shape == (1,) and bool(loss.isfinite())


# regressions


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no labels"])
def test_every_method_trains_with_and_without_labels(name, labels):
    """One step on a real network: finite losses and gradients, not all zero; no graph in targets but of a sample."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = networks.MLP(3, classes=3 if labels else None, width=16, depth=1, log_variance=True)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    objective = taught(name, copy.deepcopy(network), label_dropout=0.3 if labels else 0.1)
    network = trained(objective, network).float()
    flow = objective.flow_map(network)
    data = supplied(objective, batch(labels=labels, dtype=torch.float32))
    point = objective.draw(data, step=900, key=1, frozen=flow)
    assert (point.label is None) == (not labels)
    regression = objective.regress(flow, None if objective.auxiliary is None else flow, point)
    assert regression.target.requires_grad is (regression.sample is not None)
    assert regression.prediction.requires_grad
    assert regression.prediction.shape == regression.target.shape == (ROWS, 3)
    assert regression.raw.shape == (ROWS,) and regression.prediction.dtype == torch.float32
    loss = objective.per_sample(regression, point)
    assert loss.shape == (ROWS,)
    loss.mean().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients) and sum(float(g.norm()) for g in gradients) > 0
    last = network.predictor.head if isinstance(network, networks.MeanDirection) else network.final_layer
    assert any(p.grad is not None for p in last.parameters())


@ALL
def test_a_call_composes_the_seam(name):
    objective = taught(name, Net(seed=2))
    network, data = trained(objective, Net()), supplied(objective, batch())
    flow, frozen = objective.flow_map(network), objective.flow_map(Net(seed=1))
    point = objective.draw(data, 3, 1, frozen)
    by_hand = objective.per_sample(objective.regress(flow, frozen, point), point)
    assert torch.equal(objective(flow, frozen, data, 3, 1), by_hand)
    if objective.auxiliary is None:
        alone = objective.regress(flow, None, point)
        assert torch.equal(alone.target, objective.regress(flow, flow, point).target)
    with pytest.raises(ValueError, match="called with a batch"):
        objective(flow)


@pytest.mark.parametrize("name", ["shortcut", "shortcut_repo", "meanflow"])
@pytest.mark.parametrize("path", [LinearPath(), LinearPath(noise_scale=0.5)], ids=repr)
def test_rows_on_the_diagonal_are_flow_matching_bit_for_bit(name, path):
    """Targets, predictions and the network's questions."""
    objective = method(name, path=path)
    network, other = Net(), Net()
    point = objective.draw(batch(), step=3, key=1)
    found = objective.regress(objective.flow_map(network), None, point)
    plain = method("flow_matching", path=path)
    rest = point.rows(point.num_jumps, ROWS)
    rest = plain.point(rest.x, rest.noise, rest.t, rest.s, rest.r, rest.label, 3, dropped=rest.dropped)
    expected = plain.regress(plain.flow_map(other), None, rest)
    assert torch.equal(found.target[point.num_jumps :], expected.target)
    assert torch.equal(expected.target, rest.path.velocity(rest.x, rest.noise, rest.t))
    torch.testing.assert_close(
        found.prediction[point.num_jumps :], expected.prediction, rtol=1e-14, atol=1e-14
    )


def test_the_network_sees_the_null_label_exactly_on_dropped_rows():
    objective, network = method("meanflow", label_dropout=0.5), Net()
    point = objective.draw(batch(), step=3, key=1)
    objective.regress(objective.flow_map(network), None, point)
    expected = torch.where(point.dropped, NULL, point.label)
    questions = {len(x): label for x, _, _, label in network.asked}
    assert torch.equal(questions[ROWS], expected) and torch.equal(
        questions[point.num_jumps], expected[: point.num_jumps]
    )


@pytest.mark.parametrize(
    ("name", "changes", "rows"),
    [
        ("flow_matching", {}, [64]),
        ("meanflow", {}, [64, 16]),
        ("meanflow", {"target": Eulerian(ExactJVP())}, [48, 16]),
        ("meanflow", {"target": Eulerian(CentralDifference())}, [64, 32]),
        ("meanflow", {"target": Eulerian(tangent=Own())}, [64, 16, 16]),
        ("sct", {"target": replace(methods.sct().target, derivative=TwoPass())}, [64, 64]),
        ("sct", {"target": replace(methods.sct().target, derivative=CentralDifference())}, [64, 128]),
        ("esc", {}, [64, 16]),
        ("shortcut", {}, [64, 16, 16]),
        ("shortcut_repo", {}, [64, 8, 8]),
    ],
    ids=repr,
)
def test_the_network_is_asked_no_more_than_necessary(name, changes, rows):
    """One student pass covers all rows; the derivative and the frozen jumps see the rows r < t alone."""
    objective, network = method(name, **changes), Net()
    objective.regress(objective.flow_map(network), None, objective.draw(batch(), 3, 1))
    assert [len(x) for x, *_ in network.asked] == rows


def test_a_batch_whose_every_row_jumps_needs_no_diagonal():
    for derivative in (TwoPass(), ExactJVP(), CentralDifference()):
        objective = method("meanflow", times=SortedPair(diagonal=0.0), target=Eulerian(derivative))
        flow = objective.flow_map(networks.MLP(3, classes=3, width=16, depth=1))
        loss = objective(flow, batch=batch(dtype=torch.float32), step=3)
        assert loss.shape == (ROWS,) and bool(loss.isfinite().all())


def test_targets_come_from_the_frozen_map_and_predictions_from_the_student():
    """Shortcut by hand: ½ (u(x_t, t, s) + u(x_s, s, r)) of the frozen network, s half-way, coarse jumps."""
    objective = method("shortcut", times=DyadicGrid(share=0.5, base_steps=16, law=Uniform()))
    student, teacher = Net(seed=1), Net(seed=2)
    point = objective.draw(batch(), step=3, key=1)
    found = objective.regress(objective.flow_map(student), objective.flow_map(teacher), point)
    p = point.rows(0, point.num_jumps)
    label = p.network_label(NULL)
    instant = (p.t - p.s) <= 1.5 / 16
    first = teacher(p.x_t, p.t, torch.where(instant, p.t, p.s), label)
    x_s = p.x_t + (p.s - p.t)[:, None] * first
    second = teacher(x_s, p.s, torch.where(instant, p.s, p.r), label)
    assert 0 < int(instant.sum()) < len(instant)
    torch.testing.assert_close(found.target[: point.num_jumps], (first + second) / 2, rtol=1e-11, atol=1e-11)
    expected = student(point.x_t, point.t, point.r, point.network_label(NULL))
    torch.testing.assert_close(found.prediction, expected, rtol=1e-13, atol=1e-13)
    objective.per_sample(found, point).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("normalize", [None, 0.2])
@pytest.mark.parametrize("derivative", [TwoPass(), ExactJVP(), CentralDifference(1e-5)], ids=repr)
def test_eulerian_targets_come_from_the_frozen_map_too(derivative, normalize):
    """With an average in the target no pass can serve as the prediction, and none does."""
    objective = method("meanflow", target=Eulerian(derivative, normalize=normalize), frozen=EMA(0.99))
    student, teacher = Net(seed=1), Net(seed=2)
    point = objective.draw(batch(), step=3, key=1)
    found = objective.regress(objective.flow_map(student), objective.flow_map(teacher), point)
    plain = method("meanflow", target=Eulerian(normalize=normalize))
    expected = plain.regress(objective.flow_map(teacher), None, point)
    torch.testing.assert_close(found.target, expected.target, rtol=1e-8, atol=1e-8)
    prediction = student(point.x_t, point.t, point.r, point.network_label(NULL))
    torch.testing.assert_close(found.prediction, prediction, rtol=1e-13, atol=1e-13)


def test_differences_follow_the_path_of_the_pair_and_stay_in_its_domain():
    """Re-noised differences agree with the derivative along v_c, and no time outside [t_min, t_max] is asked for."""
    path, label = VPPath(), torch.zeros(4, dtype=torch.int64)
    x, noise = batch(4).x, batch(4, seed=1).x
    t = torch.tensor([1.0, 0.5, 0.2, path.t_min + 1e-7], dtype=D)
    r = torch.tensor([path.t_min, 0.1, path.t_min, path.t_min], dtype=D)
    targets = []
    for derivative in (TwoPass(), CentralDifference(1e-6, along="path"), CentralDifference(1e-6)):
        objective, network = method("meanflow", path=path, target=Eulerian(derivative)), Net()
        point = objective.point(x, noise, t, t, r, label)
        targets.append(objective.regress(objective.flow_map(network), None, point).target)
        asked = torch.cat([times for _, times, _, _ in network.asked])
        assert float(asked.max()) <= 1 and float(asked.min()) >= path.t_min
    torch.testing.assert_close(targets[1][1:3], targets[0][1:3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(targets[2][1:3], targets[0][1:3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(targets[1][0], targets[0][0], rtol=1e-3, atol=1e-3)


def test_clipping_bounds_the_stop_and_the_target():
    """|x_s| ≤ c before the second jump, |F*| ≤ c."""
    network = Net()
    objective = method("shortcut", target=SelfConsistency(clip=0.5), label_dropout=0.0)
    point = objective.draw(batch(), step=3, key=1)
    found = objective.regress(objective.flow_map(network), None, point)
    assert (
        float(found.target[: point.num_jumps].abs().max())
        <= 0.5
        < float(found.target[point.num_jumps :].abs().max())
    )
    assert float(network.asked[2][0].abs().max()) <= 0.5 < float(network.asked[1][0].abs().max())
    with pytest.raises(ValueError, match="SelfConsistency"):
        SelfConsistency(clip=0.0)


def test_finest_jumps_are_guided_in_both_halves_and_the_others_are_not():
    """v = u(∅) + w (u(y) − u(∅)); the guided first half moves x_s."""
    scale = 3.0
    objective = method(
        "shortcut", times=DyadicGrid(share=0.5, base_steps=8, law=Uniform()), guidance=FinestLevel(scale)
    )
    network = Net()
    point = objective.draw(batch(), step=3, key=1)
    found = objective.regress(objective.flow_map(network), None, point).target[: point.num_jumps]
    both = point.num_jumps + len(point.guided)
    assert [len(x) for x, *_ in network.asked] == [ROWS, both, both], (
        "the null label on guided rows, in the same call"
    )
    plain = (
        replace(objective, guidance=None)
        .regress(objective.flow_map(network), None, point)
        .target[: point.num_jumps]
    )
    p = point.rows(0, point.num_jumps)
    finest = (p.t - p.r) < 0.26
    assert 0 < int(finest.sum()) < point.num_jumps

    def guided(x, t):
        unknown = network(x, t, t, torch.full((len(x),), NULL))
        return unknown + scale * (network(x, t, t, p.label) - unknown)

    first = guided(p.x_t, p.t)
    second = guided(p.x_t + (p.s - p.t)[:, None] * first, p.s)
    expected = torch.where(finest[:, None], (first + second) / 2, plain)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_eulerian_target_by_hand():
    """u* = v − (t − r) (v·∇u + ∂_t u) with finite differences of the frozen network (MeanFlow)."""
    objective, network = method("meanflow", label_dropout=0.0), Net()
    point = objective.draw(batch(), step=3, key=1)
    found = objective.regress(objective.flow_map(network), None, point)
    p, h = point.rows(0, point.num_jumps), 1e-5
    v = p.noise - p.x
    ahead, behind = (network(p.x_t + e * v, p.t + e, p.r, p.label) for e in (h, -h))
    rate = (ahead - behind) / (2 * h)
    expected = v - (p.t - p.r)[:, None] * rate
    torch.testing.assert_close(found.target[: point.num_jumps], expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.derivative_norm, rate.square().mean(1).sqrt(), rtol=1e-7, atol=1e-7)
    assert (
        method("flow_matching")
        .regress(objective.flow_map(network), None, method("flow_matching").draw(batch(), 0, 0))
        .derivative_norm
        is None
    )


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (100, 0.5), (200, 1.0), (900, 1.0)])
def test_tangent_warm_up_scales_the_derivative(step, share):
    """u* = v − w (t − r) du/dt, w = min(1, k/K), K a fifth of the run."""
    warm = method("meanflow", target=Eulerian(warmup=0.2))
    full, network = method("meanflow"), Net()
    point = warm.draw(batch(), step=step, key=1)
    target = warm.regress(warm.flow_map(network), None, point).target
    whole = full.regress(full.flow_map(network), None, point).target
    v = point.noise - point.x
    torch.testing.assert_close(target, v + share * (whole - v), rtol=1e-12, atol=1e-12)


def test_the_tangent_may_be_another_velocity_than_the_regressed_one():
    """u* = v − (t − r) (w·∇u + ∂_t u), w the network's own velocity."""
    objective = method("meanflow", target=Eulerian(tangent=Own()), label_dropout=0.0)
    network = Net()
    point = objective.draw(batch(), step=3, key=1)
    found = objective.regress(objective.flow_map(network), None, point).target
    p, h = point.rows(0, point.num_jumps), 1e-5
    with torch.no_grad():
        w = network(p.x_t, p.t, p.t, p.label)
        rate = (
            network(p.x_t + h * w, p.t + h, p.r, p.label) - network(p.x_t - h * w, p.t - h, p.r, p.label)
        ) / (2 * h)
    v = point.noise - point.x
    torch.testing.assert_close(
        found[: point.num_jumps], v[: point.num_jumps] - (p.t - p.r)[:, None] * rate, rtol=1e-7, atol=1e-7
    )
    torch.testing.assert_close(found[point.num_jumps :], v[point.num_jumps :], rtol=1e-13, atol=1e-13)


def test_the_cosine_form_is_the_weighted_residual_and_finite_on_the_full_jump():
    """F + ḃ² (F* − F), ḃ = −cos((t − r)π/2), written out as sCM writes it; finite at t − r = 1."""
    path, network = TrigPath(), Net(labels=False)
    cosine = method("meanflow", path=path, parameterization=Velocity(), target=Eulerian(weighting="cos2"))
    flow = cosine.flow_map(network)
    x, noise = batch(4).x, batch(4, seed=1).x
    t, r = torch.tensor([1.0, 0.9, 0.7, 0.6], dtype=D), torch.tensor([0.0, 0.2, 0.1, 0.5], dtype=D)
    point = cosine.point(x, noise, t, t, r)
    found = cosine.regress(flow, None, point)
    residual = found.target - found.prediction.detach()
    assert bool(found.target.isfinite().all())
    v = path.velocity(x, noise, t)
    h = 1e-6
    with torch.no_grad():
        ahead, behind = (network(point.x_t + e * v, t + e, r) for e in (h, -h))
        rate, output = (ahead - behind) / (2 * h), network(point.x_t, t, r)
    angle, half = ((t - r) * math.pi / 2)[:, None], math.pi / 2
    # cos² θ (v − F) − cos θ sin θ (x π/2 + dF/dt · 2/π), θ = (t − r)π/2
    expected = torch.cos(angle) ** 2 * (v - output) - torch.cos(angle) * torch.sin(angle) * (
        half * point.x_t + rate / half
    )
    torch.testing.assert_close(residual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gain", [0.25, 1.0, math.pi / 4])
@pytest.mark.parametrize("path", [TrigPath(0.5), LinearPath(), VPPath()], ids=repr)
def test_the_cosine_form_does_not_depend_on_the_gain(path, gain):
    """F + k² (F* − F) with k = ∂_t b(t, r)/∂_t b(t, t): gain · value is the same for networks that say the same."""
    x, noise = batch(6).x / 10, batch(6, seed=1).x / 10
    t, r = torch.tensor([0.999, 0.9, 0.7, 0.6, 0.3, 0.05], dtype=D), torch.full((6,), 0.01, dtype=D)
    found = []
    for factor in (1.0, gain):
        inner = Net(labels=False)

        def network(x, t, r, label, factor=factor, inner=inner):
            return inner(x, t, r) / factor

        objective = method(
            "meanflow",
            path=path,
            parameterization=Preconditioned(Velocity(), 0.5, factor),
            target=Eulerian(weighting="cos2", warmup=1.0),
        )
        point = replace(objective.point(x, noise, t, t, r), progress=0.5)
        found.append(factor * objective.regress(objective.flow_map(network), None, point).target)
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("derivative", [TwoPass(), ExactJVP(), CentralDifference()], ids=repr)
def test_the_tangent_of_sct_is_finite_at_both_ends_in_single_precision(derivative):
    """The network's own derivative is of order 10⁵ there; what is asked for never is."""
    objective = method("sct")
    objective = replace(objective, target=replace(objective.target, derivative=derivative))
    t = torch.tensor([1e-6, 1e-4, 1e-2, 1 - 1e-4, 1 - 1e-7, 1.0])
    x, noise = batch(6, dtype=torch.float32).x / 10, batch(6, seed=1, dtype=torch.float32).x / 10

    def network(x, t, r, label):
        return torch.sin(1e5 * t)[:, None] + x

    point = objective.point(x, noise, t, t, torch.zeros(6), step=900)
    found = objective.regress(objective.flow_map(network), None, point)
    delta = found.target - found.prediction.detach()
    assert bool(found.target.isfinite().all()) and bool(found.derivative_norm.isfinite().all())
    assert float(delta.square().mean(1).sqrt().max()) <= 1 + 1e-5, "normalized, no row asks for more than one"
    assert float(delta[-1].abs().max()) < 0.1, "at the end k vanishes, and nothing is asked for but rounding"
    scaled = replace(objective, target=replace(objective.target, normalize=None))
    assert bool(scaled.regress(scaled.flow_map(network), None, point).target.isfinite().all())


@pytest.mark.parametrize("weighting", ["unit", "cos2"])
def test_tangents_are_normalized_or_clipped(weighting):
    """F + Δ/(rms Δ + c) and F + clip(Δ), Δ = target − F without either, for any weighting."""
    plain = method("meanflow", target=Eulerian(weighting=weighting), label_dropout=0.0)
    network, point = Net(), plain.draw(batch(), step=3, key=1)
    flow, off = plain.flow_map(network), point.num_jumps
    found = plain.regress(flow, None, point)
    output = found.prediction.detach()[:off]
    delta = found.target[:off] - output
    assert float(delta.abs().max()) > 0.5
    size = delta.square().mean(1, keepdim=True).sqrt()
    for changes, expected in (
        ({"normalize": 0.3}, delta / (size + 0.3)),
        ({"clip": 0.5}, delta.clamp(-0.5, 0.5)),
    ):
        objective = replace(plain, target=replace(plain.target, **changes))
        asked = objective.regress(flow, None, point).target
        torch.testing.assert_close(asked[:off] - output, expected, rtol=1e-11, atol=1e-11)
        assert torch.equal(asked[off:], found.target[off:]), "the diagonal is flow matching"


def test_a_map_of_another_path_or_meaning_is_refused():
    objective, network = method("meanflow"), Net()
    point = objective.draw(batch(), 0, 0)
    right = objective.flow_map(network)
    for wrong in (
        FlowMap(network, Velocity()),
        FlowMap(network, path=TrigPath()),
        FlowMap(network, Endpoint()),
    ):
        with pytest.raises(ValueError, match=r"build it with objective\.flow_map"):
            objective.regress(wrong, None, point)
        with pytest.raises(ValueError, match=r"build it with objective\.flow_map"):
            objective.regress(right, wrong, point)
    assert (right.parameterization, right.path, right.network) == (AverageVelocity(), LinearPath(), network)


# compositions that do not fit


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: method("meanflow", label_dropout=1.5), "label_dropout"),
        (lambda: method("meanflow").for_run(0), "steps=0"),
        (lambda: method("meanflow", path=VEPath()), "use LogNormal"),
        (lambda: method("meanflow", times=SortedPair(LogNormal())), "use LogitNormal"),
        (lambda: method("meanflow", path=TrigPath(), parameterization=Velocity()), 'weighting="cos2"'),
        (lambda: method("meanflow", parameterization=Endpoint()), "∂_t b vanishes"),
        (lambda: method("shortcut", path=TrigPath()), "SelfConsistency does not fit"),
        (lambda: method("meanflow", guidance=FinestLevel(2.0)), "FinestLevel guides the jumps"),
        (lambda: Eulerian(weighting="sin"), "weighting"),
        (lambda: Eulerian(warmup=-0.1), "warmup"),
        (lambda: Eulerian(normalize=0.0), "normalize=0.0.*positive"),
        (lambda: Eulerian(clip=-1.0), "clip=-1.0.*positive"),
        (lambda: Eulerian(normalize=0.1, clip=1.0), "one is enough"),
        (lambda: method("sct", target=Eulerian()), '∂_t b vanishes at .*weighting="cos2"'),
        (lambda: method("sct", times=SortedPair(LogNormal())), "use LogitNormal"),
        (lambda: method("shortcut", path=TrigPath()), r"Euler step .* curved path; use Velocity\(\)"),
        (
            lambda: method("shortcut", path=TrigPath(), parameterization=Preconditioned(AverageVelocity())),
            r"Euler step .* curved path; use Velocity\(\)",
        ),
        (lambda: EMA(1.0), "EMA"),
        (lambda: EMA(-0.1), "EMA"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_flow_matching_has_no_target_for_jumps():
    with pytest.raises(ValueError, match=r"use times=OneTime"):
        method("flow_matching", times=SortedPair())
    objective = method("flow_matching")
    x = batch(4).x
    t = torch.full((4,), 0.5, dtype=D)
    with pytest.raises(ValueError, match=r"use times=OneTime"):
        objective.regress(flow := objective.flow_map(Net()), flow, objective.point(x, x, t, t, 0 * t))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: method("meanflow", target=Consistency()), r"SortedPair has s = t.*Adjacent\(128\)"),
        (lambda: method("esc", target=SelfConsistency()), "Gradual has s = t"),
        (lambda: method("sct", target=Consistency()), r"FullJump has s = t.*Eulerian\(\)"),
        (lambda: method("meanflow", conditioning="t"), 'draws any r below t.*conditioning="t,r"'),
        (
            lambda: method("sct_linear", times=FullJump(diagonal=0.75)),
            'beside those that jump.*conditioning="t,end"',
        ),
        (lambda: method("sct", guidance=Guidance(1.0, 0.5)), "Guidance asks the network for its velocity"),
        (lambda: method("sct_linear", target=Eulerian(tangent=Own())), r"tangent=Own\(\) asks"),
        (
            lambda: method("sct", parameterization=Endpoint(), target=Eulerian(weighting="cos2")),
            "nothing is left to regress",
        ),
        (lambda: method("imm", sampling=Sampling(start=1.0)), "draws none above 0.994"),
        (
            lambda: method("sct", path=TrigPath(noise_scale=0.4)),
            "which on this path is 0.4: give times.law.noise",
        ),
        (
            lambda: method("imm", loss=MomentMatching(sigma_data=0.3)),
            r"parameterization.sigma_data=0.5 and loss.sigma_data=0.3 state .* give all the same number",
        ),
    ],
)
def test_parts_that_mean_nothing_together_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_sampling_starts_where_training_ends():
    """Nothing above the highest time of a law was trained."""
    for name in ("consistency_training_esc", "consistency_training_esc_linear", "ect_tuned", "imm"):
        objective = method(name)
        assert objective.start == objective.times.highest < 1, name
        assert objective.flow_map(Net()).start == objective.start
    assert method("ict").start is None and method("meanflow").start is None


def test_short_steps_survive_half_precision():
    objective = method("ict")
    t = torch.tensor([2.0, 3.0], dtype=torch.float32)
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    point = objective.point(x, x, t, t * 0.9999, torch.full_like(t, 0.002))
    assert bool((point.s < point.t).all()) and point.x_t.dtype == torch.bfloat16


@pytest.mark.parametrize("path", [TrigPath(), VPPath(), VEPath(), LinearPath(noise_scale=0.5)], ids=repr)
def test_meanflow_trains_on_every_path(path):
    law = LogNormal() if path.t_max > 1 else LogitNormal(-0.4)
    objective = method("meanflow", path=path, times=SortedPair(law), loss=Squared())
    loss = objective(objective.flow_map(Net()), batch=batch(), step=3)
    assert bool(loss.isfinite().all())


# targets' copy


def test_the_average_warms_up():
    """min(μ, (1 + k)/(10 + k)): 1/10 at first, μ in the end."""
    decay = EMA(0.999)
    assert decay.at(0) == pytest.approx(0.1) and decay.at(90) == pytest.approx(0.91)
    assert decay.at(8989) < 0.999 and decay.at(10**6) == 0.999
    assert method("shortcut").frozen == EMA(0.999) and method("esc").frozen == Self()


# runs


def test_horizons_are_named_fractions_of_the_run():
    assert methods.esc().horizons() == {"times": 1 / 30}
    both = replace(methods.esc(), target=Eulerian(warmup=0.1))
    assert both.horizons() == {"times": 1 / 30, "target": 0.1}
    for name in ("flow_matching", "shortcut", "meanflow"):
        assert methods.get(name).horizons() == {}


def test_progress_is_the_share_of_the_run():
    objective = methods.esc().for_run(600)
    assert objective.steps == 600 and methods.esc().steps is None
    assert [objective.progress(step) for step in (0, 20, 300, 600, 900)] == [0.0, 1 / 30, 0.5, 1.0, 1.0]


def test_landings_at_the_data_last_as_long_as_the_run_says():
    """K = 1/30: of 600 steps the first 20; all jumps land on the data at first, none later."""
    objective = methods.esc().for_run(600)
    landings = {}
    for step in (0, 10, 20, 500):
        points = [objective.draw(batch(), step, key) for key in range(20)]
        landings[step] = sum(int((p.r[: p.num_jumps] == 0).sum()) for p in points) / (20 * 16)
    assert landings[0] == 1.0 and landings[20] == landings[500] == 0.0
    assert landings[10] == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / 320))


def test_a_run_of_unknown_length_is_warned_about_where_it_matters():
    with pytest.warns(UserWarning, match=r"length of the run is unknown.*for_run"):
        point = methods.esc().draw(batch(), 0, 0)
    assert point.progress == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        methods.meanflow().draw(batch(), 0, 0)
        methods.esc().for_run(10).draw(batch(), 0, 0)


# sampling


class Zero:
    num_classes = NULL

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x, t, r, label):
        self.rows += len(x)
        return torch.zeros_like(x)


BAKED = {"guidance": Guidance(1.0, 0.5)}


@pytest.mark.parametrize(
    ("name", "changes", "options", "said"),
    [
        ("flow_matching", {}, {"steps": 1}, "flow matching in 1 step: .*16 or more"),
        ("flow_matching", {}, {}, "flow matching in 1 step:"),
        ("flow_matching", {}, {"steps": 3}, "flow matching in 3 steps:"),
        ("shortcut", {}, {"steps": 3}, "shortcut in 3 steps: .*1, 2, 4, 8, 16, 32, 64, 128"),
        ("shortcut", {}, {"times": (1, 0.3, 0)}, "shortcut in 2 steps: .*uniform"),
        ("shortcut", {}, {"steps": 4, "guidance": 2.0}, r"finest step only \(128 steps\)"),
        ("live_reflow", {}, {"steps": 4, "guidance": 2.0}, r"finest step only \(128 steps\)"),
        ("diffusion", {}, {"steps": 4}, "diffusion in 4 steps: .*16 or more"),
        ("progressive_distillation", {}, {"steps": 4}, "in 4 steps: it is trained for 1 uniform step$"),
        ("consistency_training", {}, {"steps": 1, "guidance": 2.0}, "null label was never trained"),
        ("meanflow", BAKED, {"guidance": 1.5}, "scale 2 is part of the trained weights.*1.5"),
        ("meanflow", {"label_dropout": 0.0}, {"guidance": 1.5}, "null label was never trained"),
    ],
    ids=repr,
)
def test_budgets_and_guidance_outside_the_training_are_warned_about(name, changes, options, said):
    objective, noise, label = method(name, **changes), torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.warns(UserWarning, match=said):
        objective.sample(objective.flow_map(Zero()), noise, label=label, **options)


@pytest.mark.parametrize(
    ("name", "changes", "options", "rows"),
    [
        ("flow_matching", {}, {"steps": 16}, 16),
        ("flow_matching", {}, {"steps": 128, "guidance": 1.5}, 256),
        ("shortcut", {}, {"steps": 1}, 1),
        ("shortcut", {}, {"steps": 128, "guidance": 1.5}, 256),
        ("meanflow", {}, {}, 1),
        ("meanflow", {}, {"steps": 3}, 3),
        ("esc", {}, {"times": (1, 0.6, 0)}, 2),
        ("meanflow", BAKED, {"guidance": 1.0}, 1),
        ("meanflow", {}, {"steps": 2, "guidance": 1.5}, 4),
        ("diffusion", {}, {"steps": 16}, 16),
        ("diffusion", {}, {"steps": 128, "guidance": 1.5}, 256),
        ("consistency_training", {}, {"steps": 4}, 4),
        ("consistency_distillation", {}, {"steps": 1}, 1),
        ("progressive_distillation", {}, {"steps": 1}, 1),
        ("live_reflow", {}, {"steps": 4}, 4),
        ("live_reflow", {}, {"steps": 128, "guidance": 1.5}, 256),
        ("reflow", {}, {"steps": 2}, 2),
    ],
    ids=repr,
)
def test_what_a_method_was_trained_for_is_sampled_in_silence_at_its_stated_cost(name, changes, options, rows):
    """NFE per image: the steps, twice that under guidance."""
    objective, network, noise = method(name, **changes), Zero(), torch.zeros(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.sample(objective.flow_map(network), noise, label=torch.tensor([0, 1]), **options)
    steps = len(options["times"]) - 1 if "times" in options else options.get("steps", 1)
    assert network.rows == 2 * rows and objective.nfe(steps, options.get("guidance")) == rows


def test_fewer_than_one_step_is_refused():
    objective = method("meanflow")
    with pytest.raises(ValueError, match="at least one step"):
        objective.sample(objective.flow_map(Zero()), torch.zeros(2, 3), steps=0)


def test_chosen_rows_use_the_velocity_of_the_batch_and_the_others_their_own():
    objective, network = method("esc"), Net()
    point = objective.draw(batch(), step=500, key=3)
    found = objective.regress(objective.flow_map(network), None, point).target[point.num_jumps :]
    of_batch, own = PlugIn(1.0)(replace(point, plug_in=None)), Conditional()(point)
    expected = torch.where(point.plug_in[:, None], of_batch, own)[point.num_jumps :]
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert not torch.equal(of_batch, own)


@pytest.mark.parametrize(("of", "told"), [("t, r", "r"), ("t", "t")])
def test_the_learned_weight_is_a_function_of_both_times_or_of_the_departure_alone(of, told):
    """On every row, those with r = t among them."""
    loss = LearnedVariance(AdaptivePower(power=1.0, eps=1e-3), of=of)
    objective, network = method("esc", loss=loss), Net()
    point = objective.draw(batch(), step=500, key=3)
    assert 0 < point.num_jumps < len(point)
    regression = objective.regress(objective.flow_map(network), None, point)
    torch.testing.assert_close(regression.log_variance, 0.1 * (point.t + getattr(point, told)))


def test_a_learned_weight_needs_a_head_and_times_it_knows():
    objective = method("esc")
    with pytest.raises(ValueError, match='expected "t, r" or "t"'):
        LearnedVariance(of="r")
    with pytest.raises(ValueError, match="WithLogVariance"):
        objective(objective.flow_map(lambda x, t, r, label: x), batch=batch(labels=False), step=500)


def test_one_time_laws_have_no_jumps():
    point = method("flow_matching", times=OneTime(Uniform())).draw(batch(), 0, 0)
    assert point.num_jumps == 0 and torch.equal(point.t, point.r)


# what would train to nothing, or differ between processes, is refused


def test_the_network_cannot_drive_its_own_diagonal():
    with pytest.raises(ValueError, match="regress the diagonal onto itself"):
        replace(methods.meanflow(), velocity=Own())
    own = replace(methods.meanflow(), target=Eulerian(tangent=Own())).for_run(10)
    flow = own.flow_map(Net())
    assert own(flow, None, batch(), 1, 0).isfinite().all()


@pytest.mark.parametrize(
    ("method", "guidance"),
    [("meanflow", Guidance(omega=1.0, kappa=0.5)), ("shortcut", FinestLevel(1.5))],
)
def test_guidance_needs_a_trained_null_label(method, guidance):
    objective = methods.get(method)
    replace(objective, guidance=guidance)
    with pytest.raises(ValueError, match=r"label_dropout=0 never trains"):
        replace(objective, guidance=guidance, label_dropout=0.0)


def test_guidance_that_never_asks_for_the_null_label_needs_no_dropout():
    assert replace(methods.meanflow(), guidance=Guidance(0.5, 0.5), label_dropout=0.0).guidance is not None


def test_plug_in_sets_that_may_be_split_over_processes_are_named():
    whole = batch()
    half = Batch(whole.x[:2], whole.label[:2], row=torch.arange(2), size=len(whole.x))
    with pytest.warns(UserWarning, match="a process must hold every row of its classes"):
        methods.esc().for_run(10).draw(half, 1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        methods.meanflow().draw(half, 1, 0)


def test_times_that_are_not_numbers_or_too_few_are_refused():
    objective, x = methods.meanflow(), torch.zeros(2, 3)
    nan, ok = torch.tensor([0.5, math.nan]), torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="domain of LinearPath"):
        objective.point(x, x, nan, nan, nan)
    with pytest.raises(ValueError, match="2 rows need as many times"):
        objective.point(x, x, ok[:1], ok[:1], ok[:1])
