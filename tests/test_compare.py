"""The comparison: budgets, plans, one writer, resumption at any point, the numbers of its table, what it leaves."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from flowleap import data, evaluation, lock, methods, runs, studies
from flowleap.cli import app
from flowleap.couplings import Independent
from flowleap.evaluation import evaluator
from flowleap.runs import pace
from flowleap.runs import run as run_module
from flowleap.studies import live, outcome, picture, plan, table
from flowleap.training.guard import Diverged
from flowleap.training.loop import Plan as Loop
from flowleap.training.loop import draw_batch

TINY = (("network.width", "16"), ("network.depth", "1"))
ASKED = studies.Request(
    ("flow-matching", "shortcut"),
    "two-moons",
    "24steps",
    seeds=2,
    steps=(8, 1),
    num=60,
    batch=16,
    settings=TINY,
)


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold against few rows."""
    monkeypatch.setattr(evaluator, "PAIRS", 300)
    monkeypatch.setattr(pace, "POSITIONS", 2)
    monkeypatch.setattr(picture, "POINTS", 200)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[studies.Finished, str]]:
    """An uninterrupted study, and what it said."""
    console = quiet()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "PAIRS", 300)
        yield (
            studies.compare(ASKED, tmp_path_factory.mktemp("studies") / "whole", console=console),
            said(console),
        )


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("400steps", 400, "steps"),
        ("1step", 1, "steps"),
        ("50kimg", 50_000, "images"),
        ("0.5Mimg", 500_000, "images"),
        ("90s", 90, "seconds"),
        ("3m", 180, "seconds"),
        ("1.5h", 5400, "seconds"),
        (" 2 min ", 120, "seconds"),
    ],
)
def test_a_budget_is_steps_images_or_time(text, amount, unit) -> None:
    found = studies.parse(text)
    assert (found.amount, found.unit) == (amount, unit)


@pytest.mark.parametrize(
    "text", ["", "3", "m", "3 fortnights", "-3m", "0steps", "1.5steps", "3m4", "1e3steps", "nan s"]
)
def test_a_budget_that_is_none_says_what_one_is(text) -> None:
    with pytest.raises(ValueError, match="400steps, 50kimg, 90s, 3m or 1h"):
        studies.parse(text)


@pytest.mark.slow
def test_a_time_becomes_steps_by_measurement_and_flops_by_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = {"flow_matching": pace.StepCost(3.0, 0.01), "shortcut": pace.StepCost(3.5, 0.02)}
    monkeypatch.setattr(plan, "step_cost", lambda config, dataset, timed: paces[config.method])
    dataset = data.load("two-moons")

    def steps(text: str, equal: str | None) -> list[int]:
        return [row.steps for row in plan.resolve(replace(ASKED, budget=text, equal=equal), dataset).rows]

    assert steps("4s", None) == [400, 200]  # each method by its own pace
    assert steps("4s", "steps") == [400, 400]  # what flow matching makes of it
    assert steps("4s", "flops") == [400, 342]
    assert steps("350steps", "flops") == [350, 300]
    assert steps("1.6kimg", "time") == [100, 50]
    with pytest.raises(
        ValueError, match="a budget of 5steps is 5 steps of flow-matching, too few to evaluate"
    ):
        steps("5steps", None)


@pytest.mark.slow
def test_a_measured_time_is_near_the_time_that_training_takes() -> None:
    config = runs.configure("flow-matching", "two-moons", batch=64)
    cost = pace.step_cost(config, data.load("two-moons"), timed=True)
    assert cost.seconds is not None
    setup = runs.Setup(config, data.load("two-moons"))
    setup.timed(0, lambda spans: len(spans) == 5)
    spans = setup.timed(5, lambda spans: len(spans) == 60)
    assert 0.3 < cost.seconds / (sum(span.work for span in spans) / 60) < 3.0


@pytest.mark.slow
def test_other_work_on_the_machine_costs_a_budget_no_steps_and_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten seconds of wall time for one of the processor between any two readings of the clocks."""
    readings = (pace.clock.Moment(10.0 * count, float(count)) for count in range(100_000))
    monkeypatch.setattr(pace.clock, "now", lambda device, waits=False: next(readings))
    said: list[str] = []
    (row, _) = plan.resolve(replace(ASKED, budget="400s"), data.load("two-moons"), said.append, given=1).rows
    assert row.steps == 400
    assert [line for line in said if "10.0 times as long as the processor worked" in line]


# ---------------------------------------------------------------- the plan


@pytest.mark.slow
def test_two_phases_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = {
        "flow_matching": pace.StepCost(3.0, 0.01),
        "progressive_distillation": pace.StepCost(5.0, 0.03),
    }
    monkeypatch.setattr(plan, "step_cost", lambda config, dataset, timed: paces[config.method])
    dataset, request = data.load("two-moons"), replace(ASKED, methods=("progressive-distillation",))
    (row,) = plan.resolve(replace(request, budget="4s"), dataset).rows
    assert (row.phases, row.steps, row.forward_equivalents) == (2, 200, 4.0)  # 100 × 0.01 s + 100 × 0.03 s
    assert "half and half: 100 for its teacher, then 100 for the student" in live.extent_of(row)
    (row,) = plan.resolve(replace(request, budget="401steps", equal="flops"), dataset).rows
    assert row.steps == 300 and row.total == 300 * 16 * 4.0
    with pytest.raises(ValueError, match=r"9 steps of progressive-distillation in 2 phases.*at least 14"):
        plan.resolve(replace(request, budget="9steps"), dataset)


@pytest.mark.slow
def test_pairs_of_a_teacher_count_where_evaluations_are_equal() -> None:
    dataset, request = (
        data.load("two-moons"),
        replace(ASKED, methods=("flow-matching", "reflow"), budget="4000steps"),
    )
    flow, row = plan.resolve(request, dataset).rows
    assert (row.steps, row.pairs, row.once) == (4000, 2000 * 16, 2000 * 16 * 128)
    assert row.total == 3.0 * 4000 * 16 + row.once
    flow, row = plan.resolve(replace(request, equal="flops"), dataset).rows
    assert row.pairs == int(flow.total / 3 / 128) and row.configured(0).teacher.pairs == row.pairs
    assert 0 <= flow.total - row.total < 2 * 16 * 3.0


def test_all_is_the_published_table() -> None:
    assert len(studies.TABLE) == 8
    assert replace(ASKED, methods=("all",)).names() == studies.TABLE


def test_names_are_known_and_named_once() -> None:
    with pytest.raises(ValueError, match="did you mean meanflow"):
        replace(ASKED, methods=("meanflo",)).names()
    with pytest.raises(ValueError, match="flow-matching twice"):
        replace(ASKED, methods=("flow-matching", "Flow_Matching")).names()
    with pytest.raises(ValueError, match="no method"):
        replace(ASKED, methods=()).names()


@pytest.mark.slow
def test_a_plan_is_read_back_as_it_was_written(done) -> None:
    finished, _ = done
    assert plan.read(finished.out) == finished.plan
    assert finished.plan.request == ASKED
    (finished.out / "copy").mkdir(exist_ok=True)
    text = (finished.out / "plan.json").read_text()
    (finished.out / "copy" / "plan.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="truncated, or not the plan of a comparison"):
        plan.read(finished.out / "copy")


def test_every_row_begins_with_the_same_weights_and_sees_the_same_batches() -> None:
    dataset, request = (
        data.load("digits"),
        replace(ASKED, methods=(*studies.TABLE, "meanflow"), data="digits"),
    )
    weights, rows, noise = [], [], []
    for name in request.names():
        config = replace(plan.configured(request, name, dataset), seed=3)
        weights.append(runs.build_network(config).state_dict())
        loop = Loop(steps=100, batch=16, seed=config.seed, lr=1.0)
        objective = config.objective
        rows.append([draw_batch(dataset, objective, loop, step, torch.device("cpu")) for step in (0, 150)])
        if not isinstance(objective.coupling, Independent):
            continue
        point = objective.for_run(100).draw(rows[-1][0], 0, config.seed)
        noise.append(point.noise.flatten(1).sort(dim=0).values)
    for mine, batches in zip(weights, rows, strict=True):
        assert mine.keys() == weights[0].keys()
        assert all(torch.equal(mine[key], weights[0][key]) for key in mine)
        for one, other in zip(batches, rows[0], strict=True):
            assert torch.equal(one.x, other.x) and torch.equal(one.label, other.label)
    assert len(noise) > 5 and all(torch.equal(one, noise[0]) for one in noise)
    other = replace(plan.configured(request, "shortcut", dataset), seed=4)
    differ = runs.build_network(other).state_dict()
    assert any(not torch.equal(differ[key], weights[0][key]) for key in differ)


def test_a_setting_may_be_that_of_one_method() -> None:
    settings = (
        ("shortcut:lr", "0.01"),
        ("lr", "0.02"),
        ("times.law", "Uniform"),
        ("Flow_Matching:lr", "0.03"),
    )
    request = replace(ASKED, settings=settings[:2])
    dataset = data.load("two-moons")
    rates = [plan.configured(request, name, dataset).optimizer.lr for name in request.names()]
    assert rates == [0.02, 0.01]
    request = replace(ASKED, settings=settings)
    assert request.settings_of("flow-matching") == [("lr", "0.02"), ("times.law", "Uniform"), ("lr", "0.03")]
    with pytest.raises(ValueError, match=r"no method 'shortcuts' in this comparison.*shortcut"):
        plan.configured(replace(ASKED, settings=(("shortcuts:lr", "1"),)), "shortcut", dataset)


# ---------------------------------------------------------------- one folder, one study


@pytest.mark.slow
def test_another_study_does_not_go_into_the_folder_of_a_study(done) -> None:
    finished, _ = done
    before = (finished.out / "plan.json").read_text()
    for change, complaint in (
        ({"budget": "25steps"}, "budget is 24steps, not 25steps"),
        ({"seeds": 1}, "seeds is 2, not 1"),
        ({"methods": ("shortcut",)}, "methods is flow-matching,shortcut, not shortcut"),
        ({"equal": "flops"}, "equal is None, not flops"),
    ):
        with pytest.raises(ValueError, match=f"holds another comparison: {complaint}"):
            studies.compare(replace(ASKED, **change), finished.out, console=quiet())
    assert (finished.out / "plan.json").read_text() == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear to someone")
    with pytest.raises(ValueError, match="holds no comparison"):
        studies.compare(ASKED, tmp_path, console=quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="holds no comparison"):
        studies.compare(ASKED, tmp_path / "thesis.tex", console=quiet())


def test_two_studies_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with lock.locked(tmp_path) as stale:
        assert stale is None
        with pytest.raises(ValueError, match=rf"being written by process {os.getpid()} on "):
            studies.compare(ASKED, tmp_path, console=quiet())
        with pytest.raises(ValueError, match="being written by"), lock.locked(tmp_path):
            pass
    with lock.locked(tmp_path) as stale:
        assert stale is None  # it was let go of


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_lock_of_a_process_that_was_killed_is_stale(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from flowleap.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"process {holder.pid} on"), lock.locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with lock.locked(tmp_path) as stale:
        assert stale is not None and f"process {holder.pid} on" in stale
    assert not (tmp_path / lock.LOCK).exists()


def test_a_lock_left_on_another_machine_is_refused_with_how_to_remove_it(tmp_path: Path) -> None:
    left = tmp_path / lock.LOCK
    left.write_text("process 7 on elsewhere since 2026-01-01 00:00:00 UTC")
    with pytest.raises(ValueError, match=rf"process 7 on elsewhere .*remove {left}"), lock.locked(tmp_path):
        pass
    left.unlink()
    with lock.locked(tmp_path) as stale:
        assert stale is None


def test_without_locks_of_the_file_system_a_living_process_counts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "_take", lambda file: False)
    for number, holds in ((os.getppid(), True), (2**22 + 1, False)):
        (tmp_path / lock.LOCK).write_text(f"process {number} on {platform.node()} since 2026-01-01")
        if holds:
            with pytest.raises(ValueError, match=f"written by process {number}"), lock.locked(tmp_path):
                pass
            continue
        with lock.locked(tmp_path) as stale:
            assert str(number) in str(stale)


def test_a_lock_that_is_released_while_it_is_asked_for_is_refused_in_words(
    tmp_path: Path, monkeypatch
) -> None:
    def released(file: io.TextIOWrapper) -> bool:
        (tmp_path / lock.LOCK).unlink()
        raise BlockingIOError

    monkeypatch.setattr(lock, "_take", released)
    with pytest.raises(ValueError, match="written by another process"), lock.locked(tmp_path):
        pass


def flowleap(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--budget", "3 fortnights"], "unknown unit 'fortnights'"),
        (["--budget", "3steps"], "too few to evaluate"),
        (["--seeds", "0"], "--seeds"),
        (["--methods", "esc,esc"], "esc twice"),
        (["--methods", "fid"], "unknown method 'fid'"),
        (["--data", "digit"], "did you mean digits"),
        (["--num", "20", "--data", "digits"], "num=20 samples are too few"),
        (["--show", "4,0"], "--show"),
        (["--show", "4,4"], "different whole numbers"),
        (["--equal", "luck"], "--equal"),
        (["--set", "network.widht=3"], "widht"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    arguments, complaint, tmp_path: Path
) -> None:
    usual = {
        "--methods": "flow-matching",
        "--budget": "24steps",
        "--data": "two-moons",
        "--out": str(tmp_path / "s"),
    }
    usual |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    refused = flowleap("compare", *(word for pair in usual.items() for word in pair))
    assert refused.exit_code == 2, refused.output
    assert complaint in refused.stderr and "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- resumption


def timeless(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "sampling_seconds")} for row in rows]


class Killed(BaseException):
    """What nothing catches, as a kill."""


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_makes_the_same_table(
    done, tmp_path: Path, monkeypatch
) -> None:
    """Every sitting dies at one of the places where something is logged, measured or written; at each of them twice."""
    finished, _ = done
    places = {
        "log": runs.Trainer, "save": runs.Trainer, "note": run_module, "write_table": outcome, "keep": outcome,
        "write": table, "draw": picture,
    }  # fmt: skip
    fatal: list[str] = []
    died: list[str] = []

    def deadly(home: object, name: str) -> None:
        healthy = getattr(home, name)

        def sick(*arguments: object, **options: object) -> object:
            if name in fatal:
                died.append(name)
                raise Killed
            return healthy(*arguments, **options)

        monkeypatch.setattr(home, name, sick)

    for name, home in places.items():
        deadly(home, name)
    for place in (*list(places)[:5] * 2, "write", "draw", "draw", "write"):
        fatal[:] = [place]
        with pytest.raises(Killed):
            studies.compare(ASKED, tmp_path / "killed", console=quiet())
    assert {name: died.count(name) for name in places} == dict.fromkeys(places, 2)
    fatal.clear()
    resumed = studies.compare(ASKED, tmp_path / "killed", console=quiet())
    assert timeless(resumed.rows) == timeless(finished.rows)
    for row, seed in finished.plan.runs():
        one, other = (
            runs.load_run(outcome.place_of(out, row.method, seed)) for out in (finished.out, resumed.out)
        )
        states = one.network.state_dict(), other.network.state_dict()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.slow
def test_more_seeds_are_added_to_those_that_are_there(done, tmp_path: Path) -> None:
    finished, _ = done
    studies.compare(replace(ASKED, seeds=1), tmp_path / "s", console=quiet())
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "runs").glob("*/outcome.json")}
    more = studies.compare(ASKED, tmp_path / "s", console=quiet())
    assert len(stamps) == 2 and all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert timeless(more.rows) == timeless(finished.rows)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for oneself")
def test_ctrl_c_saves_and_the_same_request_goes_on(done, tmp_path: Path, monkeypatch) -> None:
    finished, _ = done
    healthy, calls = runs.Trainer.log, []

    def log(trainer: runs.Trainer, row: dict[str, object]) -> None:
        healthy(trainer, row)
        calls.append(row["step"])
        if len(calls) == 11:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs.Trainer, "log", log)
    with pytest.raises(studies.Stopped) as stopped:
        studies.compare(ASKED, tmp_path / "s", console=quiet())
    assert stopped.value.signal == signal.SIGINT
    monkeypatch.setattr(runs.Trainer, "log", healthy)
    console = quiet()
    resumed = studies.compare(ASKED, tmp_path / "s", console=console)
    assert "continued from step" in said(console)
    assert timeless(resumed.rows) == timeless(finished.rows)
    again = quiet()
    assert studies.compare(ASKED, tmp_path / "s", console=again).rows == resumed.rows
    assert "seed 0: training" not in said(again) and "seed 1: training" not in said(again)


def free(lock: Path) -> bool:
    """Whether no process holds the lock of a folder."""
    import fcntl  # not on Windows

    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_runs_side_by_side_in_a_killed_process_make_the_same_table(done, tmp_path: Path) -> None:
    finished, _ = done
    options = [
        "--methods",
        "flow-matching,shortcut",
        "--data",
        "two-moons",
        "--budget",
        "24steps",
        "--seeds",
        "2",
    ]
    options += ["--show", "8,1", "--num", "60", "--batch", "16", "--out", "s", "--jobs", "2"]
    options += [word for name, value in TINY for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-c", "from flowleap.cli import main; main()", "compare", *options]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 100
    while not list(tmp_path.glob("s/runs/*/config.json")) and time.monotonic() < patience:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert list(tmp_path.glob("s/runs/*/config.json")) and not (tmp_path / "s" / "table.json").exists()
    time.sleep(0.5)  # the processes that it started follow it
    while not all(free(lock) for lock in tmp_path.glob("s/runs/*/.lock")) and time.monotonic() < patience:
        time.sleep(0.01)  # on a busy machine some later
    resumed = studies.compare(ASKED, tmp_path / "s", console=quiet())
    assert timeless(resumed.rows) == timeless(finished.rows)


@pytest.mark.slow
def test_two_phases_are_resumed_in_each_of_them(tmp_path: Path, monkeypatch) -> None:
    request = replace(
        ASKED, methods=("reflow", "progressive-distillation"), seeds=1, settings=(*TINY, ("pair_steps", "2"))
    )
    whole = studies.compare(request, tmp_path / "whole", console=quiet())
    place = outcome.place_of(whole.out, "reflow", 0)
    assert not whole.failed and (place / "teacher" / "ema.safetensors").exists()
    row = whole.plan.row("reflow")
    assert row.pairs == 12 * 16 and whole.rows[0]["forward_equivalents"] == 24 * 16 * 3.0 + row.pairs * 2
    assert json.loads((place / "cost.json").read_text())["forward_equivalents"] == row.total
    assert outcome.progress(place).steps == 24 and outcome.progress(place).pairs == row.pairs
    healthy, calls = runs.Trainer.log, []

    def log(trainer: runs.Trainer, row: dict[str, object]) -> None:
        healthy(trainer, row)
        calls.append(row["step"])
        if len(calls) % 3 == 2:
            raise Killed

    monkeypatch.setattr(runs.Trainer, "log", log)
    for _ in range(20):
        try:
            resumed = studies.compare(request, tmp_path / "killed", console=quiet())
            break
        except Killed:
            continue
    assert len(calls) > 12 and timeless(resumed.rows) == timeless(whole.rows)


@pytest.mark.slow
def test_one_teacher_teaches_all_that_have_one_and_is_a_row_itself(tmp_path: Path) -> None:
    config = runs.configure(
        "flow-matching", "two-moons", settings=TINY, steps=14, batch=16, eval_num=0, online_share=0
    )
    teacher = str(runs.train(config, tmp_path / "teacher", console=quiet()).folder)
    names = ("shortcut", "consistency-distillation", "progressive-distillation")
    request = replace(ASKED, methods=names, seeds=2, teacher=teacher)
    found = studies.compare(request, tmp_path / "s", console=quiet())
    assert not found.failed
    assert [row["method"] for row in found.rows[::2]] == ["teacher", *names]
    assert {row["training_steps"] for row in found.rows[2:]} == {24} and found.rows[0]["training_steps"] == 14
    assert all(row["phases"] == 1 for row in found.rows) and found.rows[0]["seeds"] == [0]
    for name in names:
        for seed in (0, 1):
            place = outcome.place_of(found.out, name, seed)
            run = runs.load_run(place)
            assert not (place / "teacher").exists() and run.length == 24
            assert run.config.teacher.path == (None if name == "shortcut" else teacher)
    run = runs.load_run(teacher)
    dataset = data.load("two-moons")
    evaluator = evaluation.held_out(dataset)
    with pytest.warns(UserWarning, match="needs many steps"):
        alone = evaluation.evaluate(
            run.flow, run.objective, dataset, steps=(8, 1), num=60, evaluator=evaluator
        )
    assert [row["distance"] for row in alone] == [row["distance_mean"] for row in found.rows[:2]]
    text = (found.out / "table.md").read_text()
    assert f"--teacher {teacher}" in text and "its cost is not included in theirs" in text
    again = quiet()
    assert studies.compare(request, tmp_path / "s", console=again).rows == found.rows
    with pytest.raises(ValueError, match="holds another comparison: teacher is"):
        studies.compare(replace(request, teacher=None), tmp_path / "s", console=quiet())


def test_a_method_that_is_made_to_start_from_a_teacher_is_given_it(tmp_path: Path) -> None:
    """Whether a row has a teacher follows from its objective, not from its name."""
    config = runs.configure(
        "flow-matching", "two-moons", settings=TINY, steps=2, batch=16, eval_num=0, online_share=0
    )
    teacher = str(runs.train(config, tmp_path / "teacher", console=quiet()).folder)
    started = (*ASKED.settings, ("shortcut:starts_from_teacher", "true"))
    request = replace(ASKED, methods=("shortcut", "flow-matching"), settings=started, teacher=teacher)
    configs, _ = plan.variants(request, data.load("two-moons"))
    assert [config.teacher.path for config in configs.values()] == [teacher, None]


def test_a_teacher_that_nobody_has_or_that_does_not_fit_is_refused_at_once(tmp_path: Path) -> None:
    config = runs.configure(
        "diffusion", "two-moons", settings=TINY, steps=2, batch=16, eval_num=0, online_share=0
    )
    teacher = str(runs.train(config, tmp_path / "teacher", console=quiet()).folder)
    for request, said_of_it in (
        (replace(ASKED, teacher=teacher), "none of flow-matching, shortcut has one"),
        (replace(ASKED, methods=("reflow",), teacher=str(tmp_path / "no")), "no run"),
        (replace(ASKED, methods=("reflow",), teacher=teacher), "train a teacher on the same path"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said_of_it):
            studies.compare(request, tmp_path / "s", console=quiet())
        assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_run_that_fails_is_a_row_and_the_rest_goes_on(tmp_path: Path, monkeypatch) -> None:
    healthy = runs.train

    def train(config: runs.TrainConfig, *arguments: object, **options: object) -> object:
        if config.method == "flow_matching" and config.seed == 0:
            raise Diverged("20 steps in a row were not finite")
        if config.method == "shortcut" and config.seed == 1:
            raise RuntimeError("no memory")
        return healthy(config, *arguments, **options)

    monkeypatch.setattr(runs, "train", train)
    console = quiet()
    finished = studies.compare(ASKED, tmp_path / "s", console=console)
    assert [(one.method, one.seed, one.again) for one in finished.failed] == [
        ("flow-matching", 0, False),
        ("shortcut", 1, True),
    ]
    assert [row["seeds"] for row in finished.rows] == [[1], [1], [0], [0]]
    assert all(row["distance_std"] is None and row["distance_mean"] is not None for row in finished.rows)
    text = (tmp_path / "s" / "table.md").read_text()
    assert "FAILED: flow-matching seed 0: diverged: 20 steps in a row were not finite" in text
    assert "RuntimeError: no memory" in said(console)
    monkeypatch.setattr(runs, "train", healthy)
    again = studies.compare(ASKED, tmp_path / "s", console=quiet())  # what may work now is tried again
    assert [(one.method, one.seed) for one in again.failed] == [("flow-matching", 0)]
    assert again.rows[2]["seeds"] == [0, 1]


# ---------------------------------------------------------------- the table


def made_up(
    method: str, seed: int, distances: dict[int, float | None], intended: bool = True
) -> outcome.Outcome:
    rows = [
        {
            "nfe": steps, "steps": steps, "features": "pixel", "metric": "FD-pixel", "distance": distance,
            "agreement": 0.5 + 0.1 * seed, "kernel_distance": None, "nearest_ratio": 1.0, "seconds": 1.0, "floor": 0.3,
            "judge": 0.99, "guidance": "none", "intended": intended or steps > 4,
            "protocol": f"flowleap/v2;FD-pixel;n=9;ref=d;labels=cycle;weights=ema@{seed};seed=0;guidance=none",
        }
        for steps, distance in distances.items()
    ]  # fmt: skip
    return outcome.Outcome(method, seed, seconds=10.0 + seed, forward_equivalents=600.0, rows=rows)


def planned() -> plan.Plan:
    dataset = data.load("two-moons")
    return plan.resolve(replace(ASKED, seeds=3), dataset)


def test_the_table_is_what_one_computes_by_hand() -> None:
    outcomes = [
        made_up("flow-matching", seed, {8: d8, 1: d1}, intended=False)
        for seed, d8, d1 in ((0, 1.0, 5.0), (1, 2.0, 7.0), (2, 6.0, None))
    ]
    outcomes += [made_up("shortcut", 0, {8: 1.5, 1: 2.5})]
    rows = table.aggregate(planned(), outcomes)
    assert [(row["method"], row["nfe"]) for row in rows] == [
        ("flow-matching", 8),
        ("flow-matching", 1),
        ("shortcut", 8),
        ("shortcut", 1),
    ]
    many, one, single, _ = rows
    assert many["distance_mean"] == pytest.approx(3.0)
    assert many["distance_std"] == pytest.approx(statistics.stdev([1.0, 2.0, 6.0])) == pytest.approx(7**0.5)
    assert many["agreement_mean"] == pytest.approx(0.6) and many["agreement_std"] == pytest.approx(0.1)
    assert (many["seconds"], many["forward_equivalents"]) == (pytest.approx(11.0), 600.0)
    assert (many["intended"], one["intended"]) == (True, False)
    assert (one["distance_mean"], one["seeds"], one["failed"]) == (6.0, [0, 1], [2])
    assert "samples of seed 2 at 1 steps are not finite" in one["reason"]
    assert (single["distance_mean"], single["distance_std"]) == (1.5, None)
    assert [table.cell(row) for row in rows] == ["3.00 ± 2.6", "(6.00 ± 1.4)", "1.50", "2.50"]


def test_numbers_of_different_protocols_do_not_make_a_table() -> None:
    first, other = made_up("flow-matching", 0, {8: 1.0, 1: 2.0}), made_up("shortcut", 0, {8: 1.0, 1: 2.0})
    rows = [dict(row) | {"protocol": str(row["protocol"]).replace("n=9", "n=10")} for row in other.rows]
    with pytest.raises(ValueError, match="different protocols"):
        table.aggregate(planned(), [first, replace(other, rows=rows)])


@pytest.mark.slow
def test_every_file_of_a_table_says_the_same(done) -> None:
    finished, _ = done
    as_json = json.loads((finished.out / "table.json").read_text())
    wanted = {
        "method", "nfe", "features", "distance_mean", "distance_std", "agreement_mean", "seconds",
        "forward_equivalents", "intended",
    }  # fmt: skip
    assert as_json == finished.rows and all(wanted <= row.keys() for row in as_json)
    with (finished.out / "table.csv").open(newline="") as file:
        as_csv = list(csv.DictReader(file))
    text = (finished.out / "table.md").read_text()
    lines = [
        [word.strip() for word in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    cells = {line[0]: line[1:] for line in lines[2:]}
    assert lines[0] == ["method", "FD-point at 8", "FD-point at 1", "steps", "forward-equivalents", "seconds"]
    assert len(as_json) == len(as_csv) == 4
    for index, (row, flat) in enumerate(zip(as_json, as_csv, strict=True)):
        for name in ("distance_mean", "distance_std", "seconds", "forward_equivalents"):
            assert float(flat[name]) == row[name]
        assert flat["intended"] == str(row["intended"]).lower()
        mean, deviation = re.fullmatch(r"\(?([\d.]+) ± ([\d.]+)\)?", cells[row["method"]][index % 2]).groups()
        assert float(mean) == pytest.approx(row["distance_mean"], rel=6e-3)
        assert float(deviation) == pytest.approx(row["distance_std"], rel=6e-2)


@pytest.mark.slow
def test_parentheses_are_where_the_objective_says_so(done) -> None:
    finished, _ = done
    for row in finished.rows:
        objective = methods.get(row["method"])
        assert row["intended"] == (not objective.advice(row["steps"]))
        assert table.cell(row).startswith("(") == (row["method"] == "flow-matching")
    assert {(row["method"], row["intended"]) for row in finished.rows} == {
        ("flow-matching", False),
        ("shortcut", True),
    }


@pytest.mark.slow
def test_the_table_holds_what_its_runs_measured(done) -> None:
    finished, _ = done
    for row in finished.rows:
        found = [
            next(
                one["distance"]
                for one in json.loads(
                    (outcome.place_of(finished.out, row["method"], seed) / "table.json").read_text()
                )
                if one["steps"] == row["steps"]
            )
            for seed in (0, 1)
        ]
        assert row["distance_mean"] == pytest.approx(statistics.fmean(found))
        assert row["distance_std"] == pytest.approx(statistics.stdev(found))
        assert row["forward_equivalents"] == 24 * 16 * (3.0 if row["method"] == "flow-matching" else 3.5)
        assert row["seconds"] > 0 and row["training_steps"] == 24


# ---------------------------------------------------------------- what it says and leaves


@pytest.mark.slow
def test_plain_lines_say_where_the_study_is(done) -> None:
    _, text = done
    assert "2 methods × 2 seeds on two-moons, 24steps a run, equal steps" in text
    assert "flow-matching: 24 steps; 1.15 k forward-equivalents (paper)" in text
    assert re.search(r"shortcut seed 0: .* at 8, .* at 1  \[2 of 4 runs, about \d+:\d\d left\]", text)
    assert "[4 of 4 runs]" in text and "report.html" in text


@pytest.mark.slow
def test_the_live_table_shows_every_run(done) -> None:
    finished, _ = done
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    board = live.Board(console, outcome.Study(finished.out, finished.plan))
    with board.showing():
        pass
    shown = said(console)
    assert "[4 of 4 runs]" in shown and shown.count("✓") >= 4 and "shortcut" in shown


@pytest.mark.slow
def test_a_pipe_gets_a_line_only_where_a_run_is_further(done) -> None:
    finished, _ = done
    console = Console(file=io.StringIO(), width=140)
    board = live.Board(console, outcome.Study(finished.out, finished.plan), every=0.001)
    board.running["shortcut", 0] = (time.perf_counter(), 0.0)
    with board.showing():
        time.sleep(0.3)
    assert said(console).startswith("shortcut seed 0 is trained and is being measured")
    assert len(said(console).splitlines()) == 1


@pytest.mark.slow
def test_picture_and_page_are_there(done) -> None:
    finished, _ = done
    assert [path.name for path in finished.files] == [
        "table.md", "table.csv", "table.json", "samples.png", "report.html",
    ]  # fmt: skip
    with Image.open(finished.out / "samples.png") as drawn:
        assert drawn.width > 300 and drawn.height > 3 * 160
    page = (finished.out / "report.html").read_text()
    for words in (
        "flow-matching",
        "shortcut",
        "± ",
        "not meant for 8, 1 steps",
        "2 training objectives",
    ):
        assert words in page, words


@pytest.mark.slow
def test_samples_of_all_methods_start_from_the_same_noise(done, monkeypatch) -> None:
    finished, _ = done
    seen = []
    healthy = type(methods.flow_matching()).sample

    def sample(
        objective: object, flow: object, noise: torch.Tensor, *more: object, **options: object
    ) -> torch.Tensor:
        seen.append(noise)
        return healthy(objective, flow, noise, *more, **options)

    monkeypatch.setattr(type(methods.flow_matching()), "sample", sample)
    for method in ("flow-matching", "shortcut"):
        for steps in (1, 8):
            picture.sampled(runs.load_run(outcome.place_of(finished.out, method, 0)), steps)
    assert len(seen) == 4 and all(torch.equal(noise, seen[0]) for noise in seen)


def test_a_cloud_is_drawn_where_its_points_are() -> None:
    real = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    drawn = picture.cloud(torch.tensor([[0.9, 0.9]]).repeat(9, 1), real)[0, 0]
    line, column = divmod(int(drawn.argmin()), picture.SIDE)
    assert line < picture.SIDE / 4 and column > 3 * picture.SIDE / 4  # up and to the right
    assert float(picture.cloud(torch.tensor([[50.0, 0.0]]), real).min()) == 1.0  # outside: nothing


def test_an_outcome_is_read_back_or_not_at_all(tmp_path: Path) -> None:
    kept = made_up("esc", 1, {1: 2.0})
    outcome.keep(outcome.place_of(tmp_path, "esc", 1), kept)
    assert asdict(outcome.known(tmp_path, "esc", 1)) == asdict(kept)
    path = outcome.place_of(tmp_path, "esc", 1) / outcome.OUTCOME
    path.write_text(path.read_text()[:40])
    assert outcome.known(tmp_path, "esc", 1) is None
