"""The loop: skipped steps, averages, learning rate, metrics, and what is printed."""

from __future__ import annotations

import io
import json
import math
import re
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from flowleap import methods, networks
from flowleap.data import Dataset
from flowleap.objectives import EMA, Objective
from flowleap.point import Batch, Regression
from flowleap.training.ema import Average
from flowleap.training.guard import Diverged, Guard, likely_cause
from flowleap.training.log import Lines, Recorder, Reporter, explanation
from flowleap.training.loop import Events, Plan, fit
from flowleap.training.loss_module import numbers
from flowleap.training.state import State, new_trained_network

CPU = torch.device("cpu")


class Poisoned(nn.Module):
    """A network whose output is not finite on chosen calls that ask for a gradient."""

    num_classes = None

    def __init__(self, bad: range, spoil: float = math.nan) -> None:
        super().__init__()
        self.inner = networks.MLP(2, width=16, depth=1)
        self.bad, self.spoil, self.calls = bad, spoil, 0

    def forward(self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.inner(x, t, r, label)
        if not torch.is_grad_enabled():
            return out
        self.calls += 1
        return out * self.spoil if self.calls - 1 in self.bad else out


def points(rows: int = 64) -> Dataset:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    return Dataset("cloud", x, kind="points")


def begin(network: nn.Module, objective: Objective, **options: object) -> State:
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.0, "decays": (0.99,)} | options
    return State(new_trained_network(network, objective, **settings))


def silent(log: list | None = None, **more: object) -> Events:
    return Events(log=[].append if log is None else log.append, **{"sample": id, "save": id} | more)


def plan(steps: int, **options: object) -> Plan:
    return Plan(**{"steps": steps, "batch": 16, "seed": 0, "lr": 1e-2, "log_every": 5} | options)


@pytest.mark.slow
def test_training_lowers_the_raw_error() -> None:
    objective, rows = methods.flow_matching().for_run(200), []
    state = begin(networks.MLP(2, width=32, depth=2), objective)
    narrow = replace(points(), x=points().x * 0.05)
    fit(state, objective, narrow, plan(200, log_every=50), silent(rows))
    assert [row["step"] for row in rows] == [50, 100, 150, 200]
    # nearly one point of data: v is nearly known from x_t; a network of zeros has E v² ≈ 1
    assert rows[-1]["raw_error"] < 0.5 * rows[0]["raw_error"] < 1.0


def test_a_trace_of_training_names_the_parts_of_a_step() -> None:
    objective = methods.flow_matching().for_run(2)
    state = begin(networks.MLP(2, width=16, depth=1), objective)
    with profile(activities=[ProfilerActivity.CPU]) as traced:
        fit(state, objective, points(), plan(2, log_every=1, sample_every=2, checkpoint_every=2), silent())
    calls = {event.key: event.count for event in traced.key_averages()}
    step = {"draw": 4, "forward": 2, "backward": 2, "optimizer": 2, "averages": 2}
    whole = step | {"log": 4, "evaluate": 2, "sample": 2, "save": 1}
    assert {name: calls.get(name) for name in whole} == whole


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts() -> None:
    objective = methods.flow_matching().for_run(10)
    state, seen = begin(Poisoned(range(3, 5)), objective), []

    def keep(step: int) -> None:
        moments = state.trained.optimizer.state[state.trained.network.inner.final_layer.weight]
        tensors = [*state.trained.network.parameters(), *moments.values()]
        seen.append(([tensor.detach().clone() for tensor in tensors], state.skipped, state.streak))

    fit(state, objective, points(), plan(8), silent(tick=keep))
    assert [counts[1:] for counts in seen] == [(0, 0)] * 3 + [(1, 1), (2, 2)] + [(2, 0)] * 3
    for before, after, skipped in zip(seen, seen[1:], [0, 0, 1, 1, 0, 0, 0], strict=False):
        same = [torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True)]
        assert all(same) is bool(skipped)
    assert all(tensor.isfinite().all() for tensor in seen[-1][0])


def test_too_many_bad_steps_in_a_row_end_the_run_with_a_cause() -> None:
    objective = methods.flow_matching().for_run(50)
    rows, saved = [], []
    state = begin(Poisoned(range(7, 50)), objective)
    events = silent(rows, save=lambda state: saved.append(state.step))
    with pytest.raises(
        Diverged, match=r"4 steps in a row were not finite, up to step 11: .*output of the network"
    ):
        fit(state, objective, points(), plan(50, patience=4, checkpoint_every=1), events)
    assert saved == [1, 2, 3, 4, 5, 6, 7]  # none while the run is losing its way
    assert rows[-1]["step"] == 11 and rows[-1]["skipped"] == 4
    assert rows[-1]["raw_error"] is None and rows[-2]["raw_error"] is not None


def test_bad_steps_apart_from_one_another_do_not_end_the_run() -> None:
    objective = methods.flow_matching().for_run(12)
    state = begin(Poisoned(range(1, 12, 2)), objective)
    fit(state, objective, points(), plan(12, patience=2), silent())
    assert (state.step, state.skipped, state.streak) == (12, 6, 1)


@pytest.mark.parametrize(
    ("spoiled", "word"),
    [
        ("data", "data are not finite"),
        ("prediction", "output of the network"),
        ("derivative", "du/dt of the network blew up .it was 1.5"),
        ("target", "target is not finite"),
        ("loss", "loss overflows"),
        ("none", "gradient is not .‖du/dt‖ is 2 "),
    ],
)
def test_the_likely_cause_is_the_first_thing_that_is_not_finite(spoiled: str, word: str) -> None:
    parts = {name: torch.ones(4, 2) for name in ("data", "prediction", "target")}
    parts |= {"derivative": torch.full((2,), 2.0), "loss": torch.ones(())}
    order = ["data", "prediction", "derivative", "target", "loss"]
    for name in order[order.index(spoiled) :] if spoiled in order else []:
        parts[name] = parts[name] * math.inf  # everything downstream is spoiled too
    regression = Regression(parts["prediction"], parts["target"], derivative_norm=parts["derivative"])
    cause = likely_cause(Batch(x=parts["data"]), regression, parts["loss"], 1.5)
    assert re.search(word, cause), cause


def test_guard_does_not_wait_for_a_finite_verdict_on_the_host() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    guard = Guard(CPU, skipped=5, streak=2)
    weight.grad = torch.full((3,), math.nan)
    guard.step(optimizer, torch.tensor(False))
    guard.count()
    assert torch.equal(weight, torch.ones(3)) and guard.read() == (6, 3)
    weight.grad = torch.ones(3)
    guard.step(optimizer, torch.tensor(True))
    guard.count()
    assert not torch.equal(weight, torch.ones(3)) and guard.read() == (6, 0)


def test_averages_follow_the_warmed_up_law() -> None:
    network, average, expected = nn.Linear(2, 1), None, None
    for k in range(30):
        if average is None:
            average, expected = Average(network, 0.7), [p.detach().clone() for p in network.parameters()]
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
        average.update(network)
        mu = min(0.7, (1 + k) / (10 + k))
        expected = [
            mu * e + (1 - mu) * p.detach() for e, p in zip(expected, network.parameters(), strict=True)
        ]
        for e, p in zip(expected, average.module.parameters(), strict=True):
            torch.testing.assert_close(p, e)


def test_a_restored_average_goes_on_where_it_was() -> None:
    network = nn.Linear(2, 1)
    whole = Average(network, 0.9)
    for _ in range(3):
        whole.update(network)
    again = Average(network, 0.9)
    again.module.load_state_dict(whole.module.state_dict())
    again.updates = 3
    with torch.no_grad():
        network.weight.add_(1.0)
    for average in (whole, again):
        average.update(network)
    assert torch.equal(whole.module.weight, again.module.weight)


@pytest.mark.parametrize(("frozen", "is_self"), [(None, True), (EMA(0.9), False)])
def test_the_frozen_map_is_the_flow_or_a_warmed_up_average(frozen: EMA | None, is_self: bool) -> None:
    objective = methods.meanflow() if frozen is None else replace(methods.meanflow(), frozen=frozen)
    network = networks.MLP(2, width=16, depth=1)
    state = begin(network, objective.for_run(3), decays=(0.9,))
    trained, initial = state.trained, [p.detach().clone() for p in network.parameters()]
    assert (trained.frozen is trained.flow) is is_self
    fit(state, objective.for_run(3), points(), plan(3), silent())
    if trained.target is not None:
        assert trained.frozen.network is trained.target.module
        twin = trained.averages[0.9].module  # an average of the same decay
        for a, b, p in zip(
            trained.target.module.parameters(), twin.parameters(), network.parameters(), strict=True
        ):
            assert torch.equal(a, b) and not torch.equal(a, p) and not a.requires_grad
        moved = [
            not torch.equal(a, b) for a, b in zip(trained.target.module.parameters(), initial, strict=True)
        ]
        assert any(moved)


def test_learning_rate_rises_then_falls() -> None:
    steady = plan(100, lr=2.0)
    assert {steady.learning_rate(step) for step in range(100)} == {2.0}
    shaped = replace(steady, warmup=0.1, decay=1.0)
    assert shaped.learning_rate(0) == pytest.approx(0.2)
    assert shaped.learning_rate(4) == pytest.approx(1.0 * 0.5 * (1 + math.cos(math.pi * 0.04)))
    assert shaped.learning_rate(50) == pytest.approx(1.0)
    assert shaped.learning_rate(99) < 0.001


def test_the_learning_rate_and_the_clip_reach_the_optimizer() -> None:
    objective = methods.flow_matching().for_run(4)
    still = begin(networks.MLP(2, width=16, depth=1), objective)
    before = [p.detach().clone() for p in still.trained.network.parameters()]
    fit(still, objective, points(), plan(4, lr=1e-30), silent())
    assert all(torch.allclose(a, b) for a, b in zip(before, still.trained.network.parameters(), strict=True))
    clipped = begin(networks.MLP(2, width=16, depth=1), objective)
    fit(clipped, objective, points(), plan(4, clip=1e-3), silent())
    norms = [p.grad.norm() for p in clipped.trained.network.parameters() if p.grad is not None]
    assert torch.stack(norms).norm() <= 1.001e-3


def test_metrics_are_means_over_the_interval_without_what_is_not_finite() -> None:
    recorder, state = Recorder(CPU, batch=4, seconds=10.0), State(trained=None, step=3)  # type: ignore[arg-type]
    guard = Guard(CPU, skipped=5, streak=2)
    for error, loss, norm, derivative in (
        (1.0, 0.5, 2.0, None),
        (3.0, math.inf, 4.0, torch.tensor([1.0, 5.0])),
    ):
        prediction = torch.full((4, 2), math.sqrt(error))
        regression = Regression(prediction, torch.zeros(4, 2), derivative_norm=derivative)
        recorder.add(numbers(regression, torch.tensor(loss), 4), torch.tensor(norm))
    for _ in range(2):
        recorder.close(state, lr=0.1, guard=guard)
    (row,) = recorder.rows(at_once=False)
    assert row["skipped"] == 5 and (state.skipped, state.streak) == (5, 2)
    assert row["raw_error"] == pytest.approx(2.0) and row["loss"] == 0.5
    assert row["grad_norm"] == 3.0 and row["derivative_norm"] == 3.0
    assert state.seconds > 10.0 and row["images_per_second"] > 0
    json.dumps(row, allow_nan=False)
    (following,) = recorder.rows(at_once=True)
    assert following["raw_error"] is None  # begun anew


def test_time_spent_aside_does_not_count_as_training() -> None:
    recorder, state = Recorder(CPU, batch=1000, seconds=0.0), State(trained=None)  # type: ignore[arg-type]
    regression = Regression(torch.zeros(2, 1), torch.zeros(2, 1))
    recorder.add(numbers(regression, torch.zeros(()), 2), torch.zeros(()))
    with recorder.aside(state):
        time.sleep(0.5)
    recorder.close(state, 0.1, Guard(CPU))
    (row,) = recorder.rows(at_once=True)
    assert 1000 / row["images_per_second"] < 0.5 < state.seconds


def test_metrics_of_an_undone_future_go_and_a_cut_line_is_forgiven(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"step": 4')
    metrics = Lines(path, step=20)
    metrics.append({"step": 25})
    assert [row["step"] for row in Lines(path, step=99).rows()] == [10, 20, 25]


def rows_of(step: int, skipped: int = 0) -> dict[str, object]:
    numbers = {"images_per_second": 1234.0, "raw_error": 0.25, "grad_norm": 1.5, "derivative_norm": None}
    return {"step": step, **numbers, "skipped": skipped}


def test_without_a_terminal_there_are_plain_lines_but_not_too_many() -> None:
    text = io.StringIO()
    reporter = Reporter(Console(file=text, width=40), every=1000.0)
    with reporter.progress(100, 0):
        for step in range(10, 101, 10):
            reporter.row(rows_of(step, skipped=3))
            reporter.advance(step)
    lines = text.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["10/100", "100/100"]
    assert "  error 0.25" in lines[0] and "skipped 3" in lines[0] and "‖du/dt‖" not in lines[0]


def test_on_a_terminal_there_is_a_bar_with_the_numbers() -> None:
    text = io.StringIO()
    reporter = Reporter(Console(file=text, width=160, force_terminal=True))
    with reporter.progress(100, 0):
        reporter.row(rows_of(50))
        reporter.advance(60)
    assert (
        "60/100" in text.getvalue()
        and "  error 0.25" in text.getvalue()
        and "1234 images/s" in text.getvalue()
    )


@pytest.mark.slow
def test_the_explanation_is_true_of_the_default_method() -> None:
    objective = replace(methods.meanflow(), label_dropout=0.0).for_run(10)
    rows = []
    state = begin(networks.MLP(2, width=16, depth=1), objective, lr=1e-3)
    fit(state, objective, replace(points(), x=points().x * 3), plan(10), silent(rows))
    assert "stays near 1" in explanation(methods.meanflow()) and "stays near 1" in explanation(methods.esc())
    assert "follows the error" in explanation(methods.sct())
    for name in ("ict", "imm", "shortcut_esc", "flow_matching"):
        assert "metrics.jsonl" in explanation(methods.get(name)), name
    assert "step size" in explanation(methods.ict()) and "step size" not in explanation(methods.imm())
    assert all(abs(row["loss"] - 1) < 0.1 for row in rows) and rows[0]["raw_error"] > 2
