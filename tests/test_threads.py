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
from flowleap.runs import session
from flowleap.studies import outcome, plan
from flowleap.training import checkpoint, folder
from flowleap.training.log import Reporter

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
        ({4: 0.10, 2: 0.10, 1: 0.104}, 1),
        ({4: 0.12, 2: 0.10, 1: 0.112}, 2),
        ({4: 0.05, 2: 0.10, 1: 0.20}, 4),
        ({6: 0.05, 3: 0.051, 1: 0.20}, 3),
        ({1: 0.1}, 1),
    ],
)
def test_the_fewest_threads_that_cost_less_than_a_twentieth_are_taken(
    monkeypatch, cores, times, count
) -> None:
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
    times = {8: 0.6, 4: 0.1, 2: 0.3, 1: 0.6}
    monkeypatch.setattr(threads, "timed", lambda step, count: asked.append(count) or times[count])
    assert threads.fastest(lambda: None, 8) == 8 and asked == [8, 8]
    asked.clear()
    assert threads.fastest(lambda: None, 4) == 4 and asked.count(2) == 2 and 1 not in asked


def test_a_step_is_timed_with_the_threads_that_it_is_timed_for(cores) -> None:
    cores(2)
    found: list[int] = []
    threads.fastest(lambda: found.append(torch.get_num_threads()), 2)
    assert found[:4] == [2, 2, 1, 1] and torch.get_num_threads() == 2


def test_more_threads_than_cores_are_told(monkeypatch, cores) -> None:
    cores(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads.use(4)
    with pytest.warns(UserWarning, match="5 threads on 4 cores: more threads than cores"):
        threads.use(5)
    with pytest.warns(UserWarning, match="3 threads on 2 cores for each process"):
        threads.use(3, jobs=2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.warns(UserWarning, match="2 threads on 1 core for each process"):
        threads.use(2)


def test_processes_that_were_started_together_share_the_cores(monkeypatch, cores) -> None:
    cores(8)
    assert threads.most() == 8 and threads.most(jobs=3) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert threads.share() == 4 and threads.most() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads.most() == 8
    assert threads.known(None, 8) == 8 and threads.known(3, 8) == 3


# ---------------------------------------------------------------- runs and studies


def cloud() -> Dataset:
    x = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
    return Dataset("cloud", x, kind="points")


def train(place: Path, *, resume: bool = False, **options: object) -> dict[str, object]:
    """Train a small run; return the last entry of its environment.json."""
    settings = {"steps": 6, "batch": 16, "log_every": 1, "sample_every": 0, "eval_num": 0, "watch_share": 0.0}
    config = runs.configure("meanflow", cloud(), settings=TINY, **settings | options)
    runs.train(config, place, dataset=cloud(), console=Console(file=io.StringIO()), resume=resume)
    return json.loads((place / "environment.json").read_text())["sittings"][-1]


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


def test_threads_of_another_machine_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    assert folder.last_threads(tmp_path) is None
    for cpus, count in ((os.cpu_count(), 3), (1000, None)):
        path.write_text(json.dumps({"sittings": [{"threads": 9}, {"threads": 3, "cpus": cpus}]}))
        assert folder.last_threads(tmp_path) == count


def test_what_the_user_says_is_taken_unmeasured(monkeypatch, tmp_path: Path, cores) -> None:
    cores(4)
    monkeypatch.setattr(threads, "fastest", lambda step, limit: pytest.fail("measured"))
    assert train(tmp_path / "option", threads=3)["threads"] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert train(tmp_path / "environment")["threads"] == 4


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
    monkeypatch.setattr(session, "probe", lambda *given: seen.append(given[-1]))
    monkeypatch.setattr(threads, "fastest", lambda step, limit: step() or limit)
    config = runs.configure("meanflow", cloud(), settings=TINY, batch=16, steps=4)
    made = runs.Session(tmp_path, config, cloud(), Reporter(Console(file=io.StringIO())))
    assert made.fastest_threads() == 2 and seen == [0]


def test_all_runs_of_a_study_have_the_same_threads(monkeypatch, tmp_path: Path, cores) -> None:
    cores(4)
    asked = studies.Request(
        ("flow-matching",), "two-moons", "8steps", seeds=1, steps=(1,), num=60, batch=16, settings=tuple(TINY)
    )
    monkeypatch.setattr(threads, "fastest", lambda step, limit: step() and limit)
    assert plan.prepare(asked, tmp_path, jobs=2).threads == 2
    assert plan.read(tmp_path).threads == 2
    assert plan.resolve(asked, asked.dataset(), given=3).threads == 3
    taken = []

    def trained(config: runs.TrainConfig, *_: object, **__: object) -> runs.RunResult:
        taken.append(config.threads)
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
