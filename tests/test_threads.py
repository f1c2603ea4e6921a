"""CPU threads: chosen by measurement, kept for a resumed run, taken as told; idle ones sleep soon."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from flowleap import cli, runs, studies, threads
from flowleap.data import Dataset
from flowleap.runs import setup
from flowleap.studies import outcome, plan
from flowleap.training import checkpoint, folder

TINY = [("network.width", "16"), ("network.depth", "1")]


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what gives this process so many cores, and torch as many threads, on paper only."""
    taken = [1]

    def have(count: int) -> None:
        monkeypatch.setattr(threads, "cores", lambda: count)
        torch.set_num_threads(count)

    monkeypatch.setattr(torch, "set_num_threads", lambda count: taken.append(count))
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return have


@pytest.mark.parametrize(
    ("given", "set_"),
    [
        ({}, {"GOMP_SPINCOUNT": threads.SPINS, "KMP_BLOCKTIME": threads.BLOCK_TIME}),
        ({"OMP_WAIT_POLICY": "active"}, {}),
        ({"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": threads.BLOCK_TIME}),
        ({"KMP_BLOCKTIME": "infinite"}, {"GOMP_SPINCOUNT": threads.SPINS}),
    ],
)
def test_idle_threads_sleep_soon_unless_the_user_says_how_they_wait(given, set_) -> None:
    environment = dict(given)
    threads.bound_spinning(environment)
    assert environment == given | set_


@pytest.mark.slow
def test_the_command_bounds_spinning_before_openmp_is_loaded() -> None:
    """OpenMP prints its settings when it is loaded, which torch does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_", "KMP_"))}
    shown = subprocess.run(
        [sys.executable, "-m", "flowleap", "methods", "show", "esc"],
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("torch is not built with libgomp here")
    assert f"GOMP_SPINCOUNT = '{threads.SPINS}'" in shown


@pytest.mark.parametrize(
    ("times", "count"),
    [
        ({4: 0.10, 2: 0.10, 1: 0.10}, 1),
        ({4: 0.10, 2: 0.10, 1: 0.108}, 1),
        ({4: 0.12, 2: 0.10, 1: 0.12}, 2),
        ({4: 0.05, 2: 0.10, 1: 0.20}, 4),
        ({6: 0.05, 3: 0.051, 1: 0.20}, 3),
        ({1: 0.1}, 1),
    ],
)
def test_more_threads_are_taken_if_they_save_a_tenth_of_the_time(monkeypatch, cores, times, count) -> None:
    asked = []

    def timed(step: object, number: int) -> float:
        asked.append(number)
        noise = 0.5 if len(asked) % 3 == 0 else 0.0  # a disturbed step does not count
        return times[number] + noise

    cores(1)
    monkeypatch.setattr(threads, "timed", timed)
    assert threads.fastest(lambda: None, max(times)) == count
    assert torch.get_num_threads() == 1


def test_a_long_step_takes_all_threads_and_one_that_is_far_slower_is_not_repeated(monkeypatch, cores) -> None:
    asked: list[int] = []
    times = {8: 3.6, 4: 0.6, 2: 1.8, 1: 3.6}
    monkeypatch.setattr(threads, "timed", lambda step, count: asked.append(count) or times[count])
    assert threads.fastest(lambda: None, 8) == 8 and asked == [8, 8]
    asked.clear()
    assert threads.fastest(lambda: None, 4) == 4 and asked.count(2) == 2 and 1 not in asked


def test_a_step_is_timed_with_the_threads_that_it_is_timed_for(cores) -> None:
    cores(2)
    found: list[int] = []
    threads.fastest(lambda: found.append(torch.get_num_threads()), 2)
    assert found[:4] == [2, 2, 1, 1] and torch.get_num_threads() == 2


def test_no_more_threads_than_cores_are_taken(monkeypatch, cores) -> None:
    cores(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads.use(4)
    with pytest.warns(UserWarning, match="5 threads on 4 cores: more threads than cores .* 4 are used"):
        threads.use(5)
    assert torch.get_num_threads() == 4
    with pytest.warns(UserWarning, match="3 threads on 2 cores for each process"):
        threads.use(3, jobs=2)
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.warns(UserWarning, match="2 threads on 1 core for each process: .* 1 is used"):
        threads.use(2)
    assert torch.get_num_threads() == 1


def test_processes_that_were_started_together_share_the_cores(monkeypatch, cores) -> None:
    cores(8)
    assert threads.most() == 8 and threads.most(jobs=3) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert threads.share() == 4 and threads.most() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads.most() == 8
    assert threads.known(None, 8) == 8 and threads.known(3, 8) == 3


# ---------------------------------------------------------------- threads that follow other work


class Machine:
    """A training on a clock of its own: a step takes the seconds that `pace` says of its threads."""

    def __init__(self, pace: dict[int, float], limit: int) -> None:
        self.pace, self.now = pace, 0.0
        self.counts: list[int] = []  # those of the steps
        self.adaptive = threads.Adaptive(limit, clock=lambda: self.now)
        self.adaptive.told = lambda: self.told.append((self.adaptive.taken, set(self.adaptive.used)))
        self.told: list[tuple[int, set[int]]] = []

    def train(self, seconds: float) -> list[int]:
        """Train for so long; return the numbers of threads of the steps."""
        begun, first = self.now, len(self.counts)
        while self.now < begun + seconds:
            with self.adaptive.step():
                self.counts.append(torch.get_num_threads())
                self.now += self.pace[self.counts[-1]]
            assert torch.get_num_threads() == self.adaptive.taken
        return self.counts[first:]


FREE, SHARED = {2: 0.1, 1: 0.15}, {2: 0.3, 1: 0.11}


def test_a_run_that_is_alone_keeps_its_threads_and_trials_cost_less_than_a_hundredth(cores) -> None:
    cores(2)
    machine = Machine(FREE, 2)
    counts = machine.train(600)
    assert 1 in counts[:300] and machine.adaptive.taken == 2
    assert machine.now < 1.01 * FREE[2] * len(counts)


def test_a_trial_of_long_steps_is_one_step(cores) -> None:
    cores(2)
    machine = Machine({2: 5.0, 1: 10.0}, 2)
    counts = machine.train(1000)
    assert counts.count(1) == 2 and counts.index(1) == 1


def test_threads_follow_other_work_at_once_and_come_back_when_it_is_over(cores) -> None:
    cores(2)
    machine = Machine(FREE, 2)
    machine.train(5)
    machine.pace = SHARED
    machine.train(10)
    assert machine.adaptive.taken == 1
    counts = machine.train(60)  # two threads are tried for single steps
    assert machine.adaptive.taken == 1 and counts.count(2) <= 3
    machine.pace = FREE
    machine.train(60)
    assert machine.adaptive.taken == 2
    assert machine.told == [(2, {1, 2}), (1, {1, 2}), (2, {1, 2})]


def test_a_number_that_was_chosen_wrongly_at_the_start_is_corrected_within_some_steps(cores) -> None:
    """As where two runs start together: steps of 1.2 s with two threads, 0.1 s with one."""
    cores(2)
    machine = Machine({2: 1.2, 1: 0.1}, 2)
    machine.train(5)
    assert machine.adaptive.taken == 1


def test_a_step_that_is_far_slower_ends_a_trial_and_the_next_one_waits(cores) -> None:
    cores(2)
    torch.set_num_threads(1)
    machine = Machine({2: 3.0, 1: 0.1}, 2)
    counts = machine.train(280)
    assert counts.count(2) == 1 and counts.index(2) < 20


@pytest.mark.parametrize(
    ("begin", "pace", "end"),
    [
        (8, {8: 0.9, 4: 0.3, 2: 0.1, 1: 0.2}, 2),
        (1, {8: 0.1, 4: 0.12, 2: 0.2, 1: 0.4}, 8),
        (1, {6: 0.1, 4: 0.12, 3: 0.15, 2: 0.2, 1: 0.4}, 6),
        (4, {8: 0.095, 4: 0.1, 2: 0.115, 1: 0.2}, 4),
    ],
)
def test_a_trial_goes_on_for_as_long_as_it_gains(cores, begin: int, pace: dict[int, float], end: int) -> None:
    cores(8)
    torch.set_num_threads(begin)
    machine = Machine(pace, max(pace))
    machine.train(150)
    assert machine.adaptive.taken == end


def test_steps_that_became_slower_with_every_number_of_threads_are_not_tried_again_and_again(cores) -> None:
    cores(2)
    machine = Machine(FREE, 2)
    machine.train(5)
    machine.pace = {2: 1.0, 1: 1.5}
    counts = machine.train(600)
    assert machine.adaptive.taken == 2 and counts.count(1) <= 15


# ---------------------------------------------------------------- runs and studies


def cloud() -> Dataset:
    x = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
    return Dataset("cloud", x, kind="points")


def train(place: Path, *, resume: bool = False, **options: object) -> dict[str, object]:
    """Train a small run; return the last entry of its environment.json."""
    settings = {
        "steps": 6,
        "batch": 16,
        "log_every": 1,
        "sample_every": 0,
        "eval_num": 0,
        "online_share": 0.0,
    }
    config = runs.configure("meanflow", cloud(), settings=TINY, **settings | options)
    runs.train(config, place, dataset=cloud(), console=Console(file=io.StringIO()), resume=resume)
    return json.loads((place / "environment.json").read_text())["sittings"][-1]


@pytest.mark.slow
def test_a_run_keeps_its_threads_when_it_is_resumed(monkeypatch, tmp_path: Path, cores) -> None:
    cores(4)
    monkeypatch.setattr(threads, "fastest", lambda step, limit: step() or 2)
    assert train(tmp_path / "run")["threads"] == 2
    assert torch.get_num_threads() == 4
    monkeypatch.setattr(threads, "fastest", lambda step, limit: pytest.fail("measured anew"))
    assert train(tmp_path / "run", resume=True, steps=7)["threads"] == 2
    with pytest.warns(UserWarning, match="with 2 CPU threads and goes on with 3: .*--threads 2 continues"):
        assert train(tmp_path / "run", resume=True, steps=8, threads=3)["threads"] == 3
    assert train(tmp_path / "run", resume=True, steps=9, threads=3)["threads"] == 3


class Restless(threads.Adaptive):
    """Takes one thread from its third step on."""

    def follow(self):
        yield self.taken
        yield self.taken
        self.taken = 1
        while True:
            yield self.taken


@pytest.mark.slow
def test_a_run_that_chose_its_threads_may_change_them_and_one_that_was_told_does_not(
    monkeypatch, tmp_path: Path, cores
) -> None:
    cores(4)
    monkeypatch.setattr(threads, "fastest", lambda step, limit: step() or 2)
    monkeypatch.setattr(threads, "Adaptive", Restless)
    chosen = train(tmp_path / "chosen")
    assert (chosen["threads"], chosen["threads_used"]) == (1, [1, 2]) and torch.get_num_threads() == 4
    monkeypatch.setattr(threads, "Adaptive", threads.Adaptive.__base__)
    again = train(tmp_path / "chosen", resume=True, steps=7)
    assert (again["threads"], again["threads_used"]) == (1, [1])
    told = train(tmp_path / "told", threads=2)
    assert told["threads"] == 2 and "threads_used" not in told
    assert "threads_used" not in train(tmp_path / "told", resume=True, steps=7)
    for name, settings in (("compiled", {"compiled": True}), ("several", {})):
        config = runs.configure("meanflow", cloud(), settings=TINY, batch=16, steps=4, **settings)
        monkeypatch.setattr(runs.run.processes, "count", lambda name=name: 2 if name == "several" else 1)
        assert runs.run.take_threads(config, tmp_path, lambda limit: 2) is None


@pytest.mark.slow
def test_a_run_that_trains_its_own_teacher_notes_its_threads_where_they_are_looked_for(
    monkeypatch, tmp_path: Path, cores
) -> None:
    cores(4)
    monkeypatch.setattr(threads, "fastest", lambda step, limit: 2)
    monkeypatch.setattr(threads, "Adaptive", Restless)
    config = runs.configure(
        "consistency-distillation", cloud(), settings=TINY, batch=16, steps=12, eval_num=0, online_share=0.0
    )
    runs.train(config, tmp_path / "run", dataset=cloud(), console=Console(file=io.StringIO()))
    for place in (tmp_path / "run", tmp_path / "run" / "teacher"):
        assert folder.last_threads(place) == (1, True)


def test_threads_of_another_machine_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    assert folder.last_threads(tmp_path) == (None, False)
    for cpus, count in ((os.cpu_count(), 3), (1000, None)):
        path.write_text(json.dumps({"sittings": [{"threads": 9}, {"threads": 3, "cpus": cpus}]}))
        assert folder.last_threads(tmp_path) == (count, False)


@pytest.mark.slow
def test_what_the_user_says_is_taken_unmeasured(monkeypatch, tmp_path: Path, cores) -> None:
    cores(4)
    monkeypatch.setattr(threads, "fastest", lambda step, limit: pytest.fail("measured"))
    assert train(tmp_path / "option", threads=3)["threads"] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert train(tmp_path / "environment")["threads"] == 4


@pytest.mark.slow
def test_trial_steps_leave_no_trace(monkeypatch, tmp_path: Path, cores) -> None:
    cores(2)
    told = train(tmp_path / "told", threads=1)
    monkeypatch.setattr(threads, "fastest", lambda step, limit: step() or step() or 1)
    chosen = train(tmp_path / "chosen")
    assert told["threads"] == chosen["threads"] == 1
    first, second = (
        checkpoint.read_tensors(tmp_path / name / "network.safetensors") for name in ("told", "chosen")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_trial_is_the_loss_of_the_first_step_and_its_gradient(tmp_path: Path, monkeypatch, cores) -> None:
    cores(2)
    seen = []
    monkeypatch.setattr(setup, "probe", lambda *given: seen.append(given[-1]))
    monkeypatch.setattr(threads, "fastest", lambda step, limit: step() or limit)
    config = runs.configure("meanflow", cloud(), settings=TINY, batch=16, steps=4)
    assert runs.Setup(config, cloud()).fastest_threads(2) == 2 and seen == [0]


def test_all_runs_of_a_study_have_the_same_threads(monkeypatch, tmp_path: Path, cores) -> None:
    cores(4)
    asked = studies.Request(
        ("flow-matching",), "two-moons", "8steps", seeds=1, steps=(1,), num=60, batch=16, settings=tuple(TINY)
    )
    monkeypatch.setattr(threads, "fastest", lambda step, limit: step() or limit)
    assert plan.prepare(asked, tmp_path, jobs=2).threads == 2
    assert plan.read(tmp_path).threads == 2
    assert plan.resolve(asked, asked.dataset(), given=3).threads == 3
    taken = []

    def trained(config: runs.TrainConfig, *_: object, **__: object) -> runs.RunResult:
        taken.append(config.parallel.threads)
        return runs.RunResult(tmp_path, 0, signal=2)

    monkeypatch.setattr(outcome.runs, "train", trained)
    for jobs, count, expected in ((1, None, 2), (1, 3, 3)):
        with pytest.raises(studies.Stopped):
            studies.compare(asked, tmp_path, jobs=jobs, count=count, console=Console(file=io.StringIO()))
        assert taken.pop() == expected


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_commands_take_the_threads_they_are_told(monkeypatch, tmp_path: Path, cores, command: str) -> None:
    cores(4)
    seen = []

    def loaded(*_: object, **__: object) -> None:
        seen.append(torch.get_num_threads())
        raise ValueError("enough")

    monkeypatch.setattr(runs, "load_run", loaded)
    (tmp_path / "config.json").write_text("{}")
    for words, count in (([], 4), (["--threads", "3"], 3)):
        out = ["--out", str(tmp_path / "new.png")] if command == "sample" else []
        CliRunner().invoke(cli.app, [command, str(tmp_path), *words, *out])
        assert seen.pop() == count
    assert torch.get_num_threads() == 4
