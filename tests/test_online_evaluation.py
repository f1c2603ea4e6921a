"""Quality while training: within its share of the time, on noise of its own, the best weights kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from flowleap import data, evaluation, methods, networks, runs
from flowleap.training import online_evaluation
from flowleap.training.online_evaluation import OnlineEvaluation
from flowleap.training.state import State, new_trained_network

TINY = [("network.width", "16"), ("network.depth", "1")]
MOONS = data.load("two-moons")


class Clock:
    """Time that passes only where a test says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(online_evaluation, "time", found)
    return found


def new_state(objective) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.MLP(shape=(2,), width=8, depth=1)
    trained = new_trained_network(
        network, objective, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, decays=(0.9, 0.5)
    )
    return State(trained)


def new_evaluation(place: Path, method=methods.meanflow, **options) -> OnlineEvaluation:
    options = {"share": 0.05, "last": 10_000, "num": 50, "steps": (1, 2)} | options
    return OnlineEvaluation(place, method().for_run(100), MOONS, evaluation.evaluator_for(MOONS), **options)


def scripted(
    observer: OnlineEvaluation, clock: Clock, monkeypatch, cost: float, distances=lambda k: 1.0
) -> list[int]:
    """Replace the measuring by one that takes `cost` seconds for each number; returns the steps measured at."""
    made: list[int] = []

    def distance(flow, steps):
        clock.now += cost
        made.append(steps)
        return distances(len(made))

    monkeypatch.setattr(observer, "distance", distance)
    return made


@pytest.mark.slow
def test_measuring_stays_within_its_share_of_the_time(tmp_path, clock, monkeypatch):
    """Steps of 1 s and measurements of 4 × 2 s: at most 5 % of all seconds, the one after the last step included."""
    observer = new_evaluation(tmp_path, last=2000)
    scripted(observer, clock, monkeypatch, 2.0)
    state = new_state(observer.objective)
    for step in range(1, 2001):
        state.step, clock.now = step, clock.now + 1.0
        state.seconds = clock.now
        observer(state)
        cost = sum(row["cost"] for row in observer.lines.rows())
        assert cost <= max(8.0, 0.05 * clock.now), (
            "the first is made blindly: here a network call takes no time"
        )
    times = sorted({row["step"] for row in observer.lines.rows()})
    assert len(times) >= 12, "and it makes use of it"
    assert times[-1] == 2000, "the last weights are measured too"
    assert cost <= 0.05 * clock.now


def test_the_first_measurement_is_predicted_and_waits(tmp_path, clock, monkeypatch):
    observer = new_evaluation(tmp_path)
    made = scripted(observer, clock, monkeypatch, 0.1)
    monkeypatch.setattr(observer, "predict", lambda state: 10.0)
    state = new_state(observer.objective)
    for seconds, expected in ((1.0, 0), (399.0, 0), (401.0, 4)):
        state.seconds, state.step = seconds, state.step + 1
        observer(state)
        assert len(made) == expected


@pytest.mark.slow
def test_one_slow_measurement_does_not_end_all_others(tmp_path, clock, monkeypatch):
    """The third of the measurements of 1 s takes 30 s; they go on as soon as the share allows."""
    observer = new_evaluation(tmp_path, steps=(1,), last=10_000)
    scripted(observer, clock, monkeypatch, 0.5)
    quick = observer.distance
    state = new_state(observer.objective)
    for step in range(1, 3001):
        state.step, clock.now = step, clock.now + 1.0
        state.seconds = clock.now
        slow = len(observer.lines.rows()) // 2 == 2

        def measured(flow, steps, extra=14.5 * slow):
            clock.now += extra
            return quick(flow, steps)

        observer.distance = measured
        observer(state)
    times = sorted({row["step"] for row in observer.lines.rows()})
    costs = [row["cost"] for row in observer.lines.rows()]
    assert max(costs) == 15.0
    assert len(times) > 60 and sum(costs) <= 0.05 * clock.now


def test_each_average_is_measured_at_each_number_of_steps(tmp_path):
    observer = new_evaluation(tmp_path, share=1.0)
    state = new_state(observer.objective)
    state.step, state.seconds = 7, 1e9
    observer(state)
    rows = observer.lines.rows()
    assert [(row["weights"], row["steps"]) for row in rows] == [
        ("ema-0.9@7", 1),
        ("ema-0.9@7", 2),
        ("ema-0.5@7", 1),
        ("ema-0.5@7", 2),
    ]
    assert all(math.isfinite(row["distance"]) and row["metric"] == "FD-point" for row in rows)
    before = [row["distance"] for row in rows]
    observer(state)
    assert [row["distance"] for row in observer.lines.rows()[4:]] == before, "the noise is fixed"


@pytest.mark.slow
def test_the_distance_is_the_one_that_evaluate_gives_on_its_noise(tmp_path):
    observer = new_evaluation(tmp_path, share=1.0, num=60)
    state = new_state(observer.objective)
    flow = observer.flow(state, 0.9)
    (row,) = evaluation.evaluate(
        flow, observer.objective, MOONS, steps=(2,), num=60, seed=online_evaluation.SEED
    )
    assert observer.distance(flow, 2) == row["distance"]
    (other,) = evaluation.evaluate(flow, observer.objective, MOONS, steps=(2,), num=60)
    assert other["distance"] != row["distance"], "tables have other noise"


def test_the_best_weights_are_kept_and_found_again(tmp_path, clock, monkeypatch):
    """Distances 5, 5, 3, 3, 4, 4 at the chosen budget: the second is the best, in this sitting and the next."""
    observer = new_evaluation(tmp_path, share=1.0, steps=(1,))
    scripted(observer, clock, monkeypatch, 0.0, lambda k: [5.0, 5.0, 3.0, 3.0, 4.0, 4.0][k - 1])
    state = new_state(observer.objective)
    for step in (10, 20, 30):
        state.step, state.seconds = step, 1e9
        for average in state.trained.averages.values():
            next(iter(average.module.parameters())).fill_(step)
        observer(state)
    kept = json.loads((tmp_path / "best.json").read_text())
    assert (kept["step"], kept["weights"], kept["distance"]) == (20, "ema-0.9@20", 3.0)
    first = next(iter(state.trained.averages[0.9].module.state_dict()))
    assert load_file(tmp_path / "best.safetensors")[first].unique().tolist() == [20.0]
    again = new_evaluation(tmp_path, share=1.0, step=20)
    assert again.lowest == 3.0
    assert [row["step"] for row in again.lines.rows()] == [10, 10, 20, 20], "step 30 will be measured again"


def test_methods_are_chosen_by_budgets_they_are_made_for():
    assert online_evaluation.chosen_steps(methods.meanflow(), (4, 1, 2)) == 1
    assert online_evaluation.chosen_steps(methods.flow_matching(), (4, 1, 2)) == 4


def test_samples_that_are_not_finite_leave_a_gap(tmp_path):
    observer = new_evaluation(tmp_path, share=1.0)
    state = new_state(observer.objective)
    state.step, state.seconds = 1, 1e9
    for average in state.trained.averages.values():
        next(iter(average.module.parameters())).fill_(math.nan)
    observer(state)
    assert {row["distance"] for row in observer.lines.rows()} == {None}
    assert not (tmp_path / "best.safetensors").exists()


@pytest.mark.slow
def test_measuring_changes_nothing_of_the_training(tmp_path):
    finals = []
    for share in (0.0, 1.0):
        config = runs.configure(
            "meanflow",
            "two-moons",
            settings=[*TINY, ("online_share", share), ("online_num", 20)],
            steps=12,
            batch=16,
            log_every=4,
            sample_every=0,
            eval_num=0,
        )
        place = tmp_path / str(share)
        runs.train(config, place, console=Console(quiet=True))
        finals.append(load_file(place / "ema.safetensors"))
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
    assert not (tmp_path / "0.0" / "best.json").exists()
    best = runs.load_run(tmp_path / "1.0", weights="best")
    assert best.step in (4, 8, 12) and best.weights == f"best@{best.step}"
    with pytest.raises(FileNotFoundError, match=r"no best weights.*--weights ema"):
        runs.load_run(tmp_path / "0.0", weights="best")


def test_too_few_samples_for_the_features_switch_it_off_with_a_word(tmp_path, capsys):
    config = runs.configure("meanflow", "digits", settings=[*TINY, ("online_num", 64)], steps=1, eval_num=0)
    console = Console(width=300)
    runs.train(config, tmp_path / "run", console=console)
    assert "quality is not measured while training: num=64 samples are too few" in capsys.readouterr().out
