"""From names to a run folder and back: configs, folders, interruption, resume, what a finished run leaves."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from random import Random

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from flowleap import data, evaluation, lock, methods, networks, provenance, runs, samplers
from flowleap.cli import app
from flowleap.data import Dataset
from flowleap.runs import trainer
from flowleap.runs.results import Results
from flowleap.runs.trainer import Trainer
from flowleap.training import checkpoint, folder, loop, report
from flowleap.training.config import FIELDS
from flowleap.training.log import Reporter
from flowleap.training.loop import Plan

TINY = [("network.width", "16"), ("network.depth", "1")]


def cloud(labels: bool = False) -> Dataset:
    x = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
    label = torch.arange(96) % 3 if labels else None
    return Dataset("cloud", x, label, 3 if labels else None, kind="points")


def config(method: str = "meanflow", **options: object) -> runs.TrainConfig:
    """A run of 12 steps on points, without the costly table."""
    options = {"steps": 12, "batch": 16, "log_every": 4, "sample_every": 0, "eval_num": 0} | options
    return runs.configure(method, cloud(bool(options.pop("labels", False))), settings=TINY, **options)


@pytest.fixture
def quiet() -> Console:
    """Catch what is printed."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def drawing(with_pictures, quiet: Console) -> Console:
    """Draw, and catch what is printed."""
    return quiet


def said(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def train(
    console: Console, settings: runs.TrainConfig | None, out: Path | None, **options: object
) -> runs.RunResult:
    return runs.train(settings, out, dataset=cloud(), console=console, **options)


def interrupt_at(monkeypatch, step: int, number: int = signal.SIGINT) -> None:
    """Press Ctrl-C in the middle of a step."""
    indices = methods.get("meanflow").batching.__class__.indices

    def pressing(self, label, size, batch, at, key):
        if at == step:
            signal.raise_signal(number)
        return indices(self, label, size, batch, at, key)

    monkeypatch.setattr(methods.get("meanflow").batching.__class__, "indices", pressing)


# ---------------------------------------------------------------- configs


def test_the_preset_of_the_digits_is_complete_and_survives_json() -> None:
    resolved = runs.configure()
    assert (resolved.method, resolved.data.name, resolved.seed) == ("best", "digits", 0)
    assert resolved.network["image"] == [1, 8, 8] and resolved.network["classes"] == 10
    assert resolved.network["log_variance"] is False
    assert runs.configure("esc").network["log_variance"] is True  # its loss learns it
    again = runs.from_dict(json.loads(json.dumps(runs.to_dict(resolved))))
    assert runs.to_dict(again) == runs.to_dict(resolved)
    assert networks.build(resolved.network).config == resolved.network
    assert runs.configure("flow-matching").network["log_variance"] is False


def test_a_network_that_learns_its_weight_gets_no_head_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is told of guidance or not."""
    healthy = networks.knows
    monkeypatch.setattr(
        networks, "knows", lambda kind, name: name != "guidance_input" and healthy(kind, name)
    )
    assert runs.configure("esc").network["kind"] == "DiT"


@pytest.mark.slow
def test_presets_are_unguided() -> None:
    for name in methods.names():
        assert runs.configure(name).objective.guidance is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean-flw"}, "unknown method.*meanflow"),
        ({"data": "digit"}, "unknown data set.*digits"),
        ({"network": "dit-tinny"}, "unknown network 'dit-tinny'; did you mean dit-tiny"),
        ({"stepz": 3}, "unknown field 'stepz'; did you mean schedule.steps"),
        ({"settings": [("time.diagonal", "0.5")]}, "unknown field 'time.diagonal'; did you mean times"),
        (
            {"method": "meanflow", "settings": [("times.diagnal", "0.5")]},
            "has no field 'diagnal'; did you mean diagonal",
        ),
        ({"settings": [("warmpu", "0.5")]}, "unknown field 'warmpu'; did you mean schedule.warmup"),
        ({"settings": [("network.widht", "64")]}, "widht"),
        ({"settings": [("network.classes", "7")]}, "network has 7 classes and digits 10"),
        ({"steps": 0}, r"steps=0: .*greater than 0"),
        ({"lr": -1.0}, r"lr=-1.0: .*greater than 0"),
        ({"ema": (1.0,)}, r"ema=1\.0: .*less than 1"),
        ({"settings": [("decay", "2")]}, "decay=2"),
        ({"settings": [("batch", "many")]}, "batch='many'"),
        ({"data": "two-moons", "network": "dit-nano"}, "two-moons holds points: use --network mlp"),
    ],
)
def test_what_does_not_fit_is_named_with_its_neighbors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs.configure(**options)


@pytest.mark.slow
def test_settings_reach_config_network_and_objective() -> None:
    settings = [("times.diagonal", "0.5"), ("network.width", "96"), ("ema", "0.9,0.99"), ("clip", "none")]
    changed = runs.configure("meanflow", settings=[*settings, ("network.classes", "none"), ("warmup", "0.1")])
    assert changed.objective.times.diagonal == 0.5 and changed.network["width"] == 96
    assert (
        changed.optimizer.ema == (0.9, 0.99)
        and changed.optimizer.clip is None
        and changed.schedule.warmup == 0.1
    )
    assert changed.network["classes"] is None


def test_an_objective_of_ones_own_is_recorded() -> None:
    own = replace(methods.meanflow(), label_dropout=0.3)
    assert runs.configure("meanflow", objective=own).objective.label_dropout == 0.3


def test_a_config_passes_few_functions_on_its_way_to_the_first_step(tmp_path: Path, quiet: Console) -> None:
    """Counted: the functions of flowleap, each once, that are called with a `TrainConfig` as an argument."""
    root, seen = str(Path(runs.__file__).parents[1]), set()

    def profile(frame, event, _) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(root):
            return
        if code is loop.fit.__code__:
            sys.setprofile(None)
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(isinstance(frame.f_locals.get(name), runs.TrainConfig) for name in arguments):
            seen.add((code.co_filename, code.co_qualname))

    settings = config(steps=1)
    sys.setprofile(profile)
    try:
        train(quiet, settings, tmp_path / "run")
    finally:
        sys.setprofile(None)
    assert 0 < len(seen) <= 25 and len({file for file, _ in seen}) <= 10


def test_every_field_of_the_plan_is_a_field_of_the_config() -> None:
    names = {path.rpartition(".")[2] for path in FIELDS}
    assert set(Plan.__dataclass_fields__) <= names


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [((50, 500), [50, 500, 1000, 1200]), ((50, 20), [*range(20, 1201, 20)]), ((50, 0), [1200])],
)
def test_the_first_picture_comes_with_the_first_numbers(
    intervals: tuple[int, int], expected: list[int]
) -> None:
    plan = Plan(1200, batch=1, seed=0, lr=1.0, log_every=intervals[0], sample_every=intervals[1])
    assert [step for step in range(1, 1201) if plan.draws(step)] == expected


# ---------------------------------------------------------------- a run and its folder


@pytest.mark.slow
def test_a_finished_run_leaves_all_that_it_promises(tmp_path: Path, drawing: Console) -> None:
    result = train(drawing, config(sample_every=6, eval_num=20, checkpoint_every=5), tmp_path / "run")
    place = result.folder
    assert (result.step, result.signal) == (12, None)
    found = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert {
        "config.json", "environment.json", "metrics.jsonl", "table.json", "table.md", "grid.png",
        "network.safetensors", "ema.safetensors",
        "samples/step-000004.png", "samples/step-000006.png", "samples/step-000012.png",
        "plots/raw_error.png", "plots/grad_norm.png", "plots/derivative_norm.png",
        "plots/images_per_second.png",
        "checkpoints/latest", "checkpoints/step-00000010/state.json", "checkpoints/step-00000012/state.json",
    } <= found  # fmt: skip
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12]
    wanted = {
        "step",
        "seconds",
        "images_per_second",
        "raw_error",
        "loss",
        "grad_norm",
        "derivative_norm",
        "lr",
    }
    assert set(rows[0]) == wanted | {"skipped"}
    sitting = json.loads((place / "environment.json").read_text())["sittings"][0]
    assert (
        sitting["packages"]["torch"]
        and sitting["cpus"] == os.cpu_count()
        and set(sitting) >= {"git", "command"}
    )
    table = json.loads((place / "table.json").read_text())
    assert [row["nfe"] for row in table] == [1, 2] and list(result.table) == table
    assert "| NFE |" in (place / "table.md").read_text()
    assert "ema-0.999@12" in table[0]["protocol"]
    text = said(drawing)
    assert "stays near 1" in text and "FD-p" in text and "flowleap sample" in text
    assert [path for path in place.rglob("*") if path.name.startswith(".")] == []  # nothing half-written


@pytest.mark.slow
def test_a_run_is_read_back_with_either_weights(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config(), tmp_path / "run").folder
    end = place / "checkpoints" / "step-00000012"
    cases = (("ema", "ema", "ema-0.999", "ema-0.999@12"), ("raw", "network", "network", "raw@12"))
    for weights, file, checkpointed, name in cases:
        run = runs.load_run(place, weights)
        stored = load_file(place / f"{file}.safetensors")
        last = load_file(end / f"{checkpointed}.safetensors")
        assert all(torch.equal(tensor, last[key]) for key, tensor in stored.items())
        assert all(torch.equal(tensor, stored[key]) for key, tensor in run.network.state_dict().items())
        assert (run.weights, run.step, run.shape, run.kind) == (name, 12, (2,), "points")
        noise = samplers.noise(0, torch.arange(3), run.shape)
        assert run.objective.sample(run.flow, noise, steps=1).shape == (3, 2)
        assert not any(p.requires_grad for p in run.network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, quiet, monkeypatch, number: int
) -> None:
    whole = train(quiet, config(), tmp_path / "whole").folder
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6, number)
        first = train(quiet, config(), tmp_path / "parts")
    assert (first.step, first.signal) == (7, number) and signal.getsignal(signal.SIGINT) is handler
    assert f"interrupted after step 7; saved: {tmp_path}" in said(quiet) and "--resume --out" in said(quiet)
    assert not (tmp_path / "parts" / "ema.safetensors").exists()
    assert runs.load_run(tmp_path / "parts").step == 7  # what there is can be sampled already

    changed = config().replace(checkpoint_every=2, log_every=1)
    second = train(quiet, changed, tmp_path / "parts", resume=True)
    assert (second.step, second.signal) == (12, None)
    for name in ("network.safetensors", "ema.safetensors", "checkpoints/step-00000012/optimizer.safetensors"):
        assert (whole / name).read_bytes() == (second.folder / name).read_bytes(), name
    rows = [json.loads(line)["step"] for line in (second.folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == [4, 7, 8, 9, 10, 11, 12]
    assert len(json.loads((second.folder / "environment.json").read_text())["sittings"]) == 2


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(tmp_path: Path, quiet: Console) -> None:
    torch.manual_seed(1)
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        torch.rand(number + 1)  # the global generator plays no part
        before = torch.get_rng_state()
        place = train(quiet, config(seed=seed, steps=4), tmp_path / str(number)).folder
        assert torch.equal(before, torch.get_rng_state())
        weights.append((place / "network.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    first = [next(runs.build_network(config(seed=seed)).parameters()) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


@pytest.mark.slow
def test_a_second_interruption_aborts_at_once(tmp_path: Path, quiet: Console, monkeypatch) -> None:
    done = train(quiet, config(steps=2), tmp_path / "warm")
    assert done.signal is None
    batching = methods.get("meanflow").batching.__class__

    def twice(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second should have stopped here")

    monkeypatch.setattr(runs.Setup, "trial_step", lambda self: None)
    monkeypatch.setattr(batching, "indices", twice)
    with pytest.raises(KeyboardInterrupt):
        train(quiet, config(), tmp_path / "run")
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is None


@pytest.mark.slow
def test_resuming_a_finished_run_trains_nothing_and_makes_its_outputs_again(
    tmp_path: Path, drawing: Console
) -> None:
    place = train(drawing, config(), tmp_path / "run").folder
    before = (place / "network.safetensors").read_bytes()
    (place / "network.safetensors").unlink()
    (place / "grid.png").unlink()
    assert train(drawing, None, place, resume=True).step == 12
    assert (place / "network.safetensors").read_bytes() == before and (place / "grid.png").exists()


@pytest.mark.slow
def test_a_longer_run_is_allowed_with_a_warning_and_the_newest_weights_are_read(
    tmp_path, quiet, monkeypatch
) -> None:
    place = train(quiet, config(), tmp_path / "run").folder
    interrupt_at(monkeypatch, 13)
    with pytest.warns(UserWarning, match="12 steps become 20"):
        train(quiet, config(steps=20), place, resume=True)
    assert runs.load_run(place).step == 14


@pytest.mark.slow
def test_a_run_cannot_be_resumed_as_another(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config(), tmp_path / "run").folder
    with pytest.raises(ValueError, match=r"lr is 0.001, not 0.5; seed is 0, not 4"):
        train(quiet, config(lr=0.5, seed=4), place, resume=True)
    with pytest.raises(ValueError, match="its objective is another"):
        train(quiet, config("flow_matching"), place, resume=True)
    with pytest.raises(ValueError, match=r"data.name is '[a-z-]+', not 'checkerboard'"):
        train(quiet, config().replace(data="checkerboard"), place, resume=True)


@pytest.mark.slow
def test_a_folder_with_a_run_is_refused_and_nothing_is_lost(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config(), tmp_path / "run").folder
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    with pytest.raises(FileExistsError, match="already holds a run: continue it with --resume"):
        train(quiet, config(), place)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    weights = (place / "network.safetensors").read_bytes()
    for number in (1, 2):
        train(quiet, config(seed=number), place, overwrite=True)
        assert (tmp_path / f"run.old-{number}" / "metrics.jsonl").exists()
    assert (tmp_path / "run.old-1" / "network.safetensors").read_bytes() == weights
    with pytest.raises(ValueError, match="give one of them"):
        train(quiet, config(), place, overwrite=True, resume=True)


def test_a_folder_of_something_else_is_refused_even_with_overwrite(tmp_path: Path, quiet: Console) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="is there but is not a run"):
            train(quiet, config(), tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_two_trainers_do_not_write_into_one_folder(tmp_path: Path, quiet: Console) -> None:
    """Whoever trains holds the lock: --resume, --overwrite and an import beside it are refused, and change nothing."""
    out = tmp_path / "run"
    train(quiet, config(), out)
    held = sorted(path.name for path in out.iterdir())
    assert lock.LOCK not in held  # the end of a run releases it
    with folder.held(out):
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(
                ValueError, match=rf"run is being written by process {os.getpid()} on .* since"
            ):
                train(quiet, None if "resume" in options else config(), out, **options)
    assert sorted(path.name for path in out.iterdir()) == held
    assert not list(tmp_path.glob("*.old-*"))


def test_a_folder_that_another_start_has_just_made_is_refused(tmp_path: Path) -> None:
    with (
        folder.held(tmp_path / "run", new=True),
        pytest.raises(ValueError, match="being written by"),
        folder.held(tmp_path / "run", new=True),
    ):
        pass


@pytest.mark.slow
def test_a_resumed_run_says_that_its_last_process_was_killed(tmp_path: Path, quiet: Console) -> None:
    out = tmp_path / "run"
    train(quiet, config(), out)
    (out / lock.LOCK).write_text(f"process 4194305 on {platform.node()} since 2026-01-01 00:00:00 UTC")
    train(quiet, None, out, resume=True)
    assert "process 4194305" in said(quiet) and "was killed" in said(quiet)


@pytest.mark.slow
def test_a_start_that_fails_leaves_no_folder_and_puts_the_old_run_back(
    tmp_path: Path, quiet: Console, monkeypatch
) -> None:
    """What was there before is there after; a run that has trained stays, whatever happens to it."""
    out = tmp_path / "run"
    train(quiet, config(), out)
    before = (out / "ema.safetensors").read_bytes()
    mine = tmp_path / "mine"
    mine.mkdir()

    def copied(setup: runs.Setup, evaluators: object, place: Path, reporter: Reporter) -> None:
        (place / "imports").mkdir()
        (place / "imports" / "config.py").write_text("")
        raise ValueError("no")

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "describe", copied)
        for place, options in ((out, {"overwrite": True}), (tmp_path / "new", {}), (mine, {})):
            with pytest.raises(ValueError, match="no"):
                train(quiet, config(), place, **options)
    assert (out / "ema.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run"] and not list(mine.iterdir())
    monkeypatch.setattr(Results, "write", raising(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        train(quiet, config(), mine)
    assert checkpoint.latest(mine / "checkpoints") is not None


def raising(error: Exception):
    def function(*arguments: object) -> None:
        raise error

    return function


@pytest.mark.slow
@pytest.mark.parametrize("emptied", ["all", "content"])
def test_a_trained_run_without_checkpoints_is_not_resumed_over_its_weights(
    tmp_path: Path, quiet: Console, emptied: str
) -> None:
    out = tmp_path / "run"
    train(quiet, config(checkpoint_every=4), out)
    shutil.rmtree(out / "checkpoints")
    if emptied == "content":
        (out / "checkpoints").mkdir()
    before = (out / "ema.safetensors").read_bytes()
    for steps in (12, 24):
        with pytest.raises(ValueError, match=r"trained to step 12 and has no checkpoint .*--init"):
            train(quiet, config(steps=steps, checkpoint_every=4), out, resume=True)
    for name in ("ema.safetensors", "network.safetensors"):  # as it was before its end
        (out / name).unlink()
    with pytest.raises(ValueError, match=r"trained to step 12 and has no checkpoint"):
        train(quiet, None, out, resume=True)
    (out / "ema.safetensors").write_bytes(before)
    assert runs.load_run(out).step == 12


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    tmp_path: Path, quiet: Console
) -> None:
    out = tmp_path / "run"
    train(quiet, config(), out)
    expected = load_file(out / "ema.safetensors")
    shutil.rmtree(out / "checkpoints")  # the state of a run that was killed at step 12 of 500
    for name in ("ema.safetensors", "network.safetensors"):
        (out / name).unlink()
    train(quiet, None, out, resume=True)
    assert all(
        torch.equal(expected[name], tensor) for name, tensor in load_file(out / "ema.safetensors").items()
    )


@pytest.mark.slow
def test_default_folders_count_up_and_resume_takes_the_last(
    tmp_path: Path, quiet: Console, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [str(train(quiet, config(steps=2), None).folder) for _ in range(3)]
    assert names == [
        "runs/cloud-meanflow-seed0",
        "runs/cloud-meanflow-seed0-2",
        "runs/cloud-meanflow-seed0-3",
    ]
    assert str(train(quiet, config(steps=2), None, resume=True).folder) == names[-1]
    assert str(train(quiet, config(steps=2), None, overwrite=True).folder) == names[0]
    assert (tmp_path / "runs" / "cloud-meanflow-seed0.old-1").is_dir()


def test_errors_of_the_first_step_come_before_any_file(tmp_path: Path, quiet: Console) -> None:
    spoiled = replace(cloud(), x=cloud().x.index_fill(0, torch.tensor([5]), float("nan")))
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 96 rows, the first is row 5"):
        runs.train(config(), tmp_path / "run", dataset=spoiled, console=quiet)
    with pytest.raises(ValueError, match=r"batch of 2"):
        train(quiet, config("shortcut", batch=2), tmp_path / "run")
    with pytest.raises(ValueError, match="log_variance"):
        headless = replace(config("esc"), network={**config("esc").network, "log_variance": False})
        train(quiet, headless, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 12])
def test_a_few_images_are_trained_on_and_not_measured(tmp_path: Path, quiet: Console, rows: int) -> None:
    few = Dataset("few", torch.linspace(-1, 1, rows * 3 * 8 * 8).reshape(rows, 3, 8, 8))
    settings = runs.configure("meanflow", few, settings=TINY[1:], steps=2, batch=4, sample_every=0)
    result = runs.train(settings, tmp_path / "run", dataset=few, console=quiet)
    assert result.step == 2 and result.table == [] and not (tmp_path / "run" / "table.json").exists()
    assert f"not measured: few has {rows} image" in said(quiet) and "needs at least 13" in said(quiet)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_num": 2}, "num=2 samples are too few"),
        ({"eval_num": 5, "features": "mnist"}, "mnist features"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    tmp_path: Path, quiet: Console, monkeypatch, options: dict, message: str
) -> None:
    monkeypatch.setattr(Trainer, "fit", raising(AssertionError("it trained")))
    with pytest.raises((ValueError, OSError), match=message):
        train(quiet, config(**options), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_final_picture_and_table_show_the_steps_that_are_asked_for(
    tmp_path: Path, drawing: Console
) -> None:
    """Slow or not: whoever names the steps gets them."""
    with pytest.MonkeyPatch.context() as slow:
        slow.setattr(evaluation, "pace", lambda *arguments: 1e6)
        result = train(drawing, config(eval_num=20, show=(3, 1), steps=2), tmp_path / "run")
    assert [row["steps"] for row in result.table] == [1, 3]
    assert "not in the picture" not in said(drawing) and "at 1, 3 steps" in said(drawing)
    with pytest.raises(ValueError, match="show"):
        config(show=(0,))


@pytest.mark.slow
def test_pictures_take_a_tenth_of_training_and_say_what_they_leave_out(
    tmp_path: Path, drawing: Console, monkeypatch
) -> None:
    drawn: list[tuple[tuple[int, ...], int]] = []
    monkeypatch.setattr(report, "draw_budgets", lambda *about: drawn.append(about[-2:]))
    monkeypatch.setattr(report, "draw_samples", lambda *about: pytest.fail("drawn though it takes too long"))
    monkeypatch.setattr(
        evaluation, "pace", lambda *arguments: 0.5
    )  # seconds of a step, of 5 for all pictures
    result = train(drawing, config(eval_num=200, steps=2, sample_every=1), tmp_path / "run")
    assert drawn == [((1,), 10)] and [row["steps"] for row in result.table] == [1]
    text = said(drawing)
    assert (
        "2 steps are not in the picture" in text
        and "flowleap sample" in text
        and "--steps 2 --num 2000" in text
    )
    assert "2 steps are not in the table" in text and "--steps 1,2 --save" in text
    assert text.count("is not drawn") == 1


def test_a_run_ends_with_its_time_its_picture_and_what_was_skipped(tmp_path: Path, drawing: Console) -> None:
    run = Trainer(tmp_path, runs.Setup(config(), cloud()), cloud(), Reporter(drawing))
    run.state.skipped, run.state.seconds = 11, 492.0
    (tmp_path / "grid.png").touch()
    run.results.conclude()
    text = said(drawing)
    assert "11 of 12 steps were skipped" in text and "--lr (now 0.001)" in text
    assert (
        f"done, trained in 8 min: {tmp_path}; picture: {tmp_path}/grid.png; sample with: flowleap sample"
        in text
    )
    assert (
        runs.RunResult(tmp_path, 12, skipped=11).failed and not runs.RunResult(tmp_path, 12, skipped=5).failed
    )


@pytest.mark.slow
def test_a_batch_of_more_rows_than_there_are_is_explained(tmp_path: Path, quiet: Console) -> None:
    train(quiet, config(batch=240, steps=1), tmp_path / "run")
    assert "a batch of 240 from 96 rows of data: each is used 2.5 times in every step" in said(quiet)


@pytest.mark.slow
def test_horizons_are_announced_and_warned_about(tmp_path: Path, quiet: Console) -> None:
    train(quiet, config("esc", steps=60), tmp_path / "a")
    assert "curriculum ends at step 2" in said(quiet) and "warning" not in said(quiet)
    late = runs.configure(
        "esc", cloud(), steps=4, batch=16, eval_num=0, settings=[*TINY, ("times.horizon", "1.5")]
    )
    train(quiet, late, tmp_path / "b")
    assert "warning: curriculum ends at step 6, after the last step 4 of the run" in said(quiet)


@pytest.mark.slow
def test_labels_left_out_train_an_unconditional_network(tmp_path: Path, quiet: Console) -> None:
    labeled = cloud(labels=True)
    settings = [*TINY, ("network.classes", "none")]
    free = runs.configure("esc", labeled, settings=settings, steps=3, batch=24, eval_num=0)
    place = runs.train(free, tmp_path / "free", dataset=labeled, console=quiet).folder
    assert runs.load_run(place).num_classes is None
    bound = runs.configure("esc", labeled, settings=TINY, steps=3, batch=24, eval_num=0)
    assert (
        runs.load_run(
            runs.train(bound, tmp_path / "bound", dataset=labeled, console=quiet).folder
        ).num_classes
        == 3
    )


@pytest.mark.slow
def test_a_run_that_loses_its_way_keeps_the_last_good_checkpoint(tmp_path: Path, quiet, monkeypatch) -> None:
    original = networks.MLP.forward

    def spoiled(self, x, t, r, label=None):
        out = original(self, x, t, r, label)
        steps = len(
            Path(tmp_path, "run", "checkpoints").glob("step-*") and list(Path(tmp_path).rglob("state.json"))
        )
        return out * float("nan") if steps and torch.is_grad_enabled() else out

    monkeypatch.setattr(networks.MLP, "forward", spoiled)
    with pytest.raises(
        runs.Diverged, match=r"3 steps in a row.*output of the network.*saved: .*step-00000004"
    ):
        train(quiet, config(checkpoint_every=4, patience=3), tmp_path / "run")
    monkeypatch.undo()
    assert runs.load_run(tmp_path / "run").step == 4
    assert train(quiet, None, tmp_path / "run", resume=True).step == 12


# ---------------------------------------------------------------- reading what is not a run


def test_a_folder_without_a_run_names_its_neighbors(tmp_path: Path, quiet: Console) -> None:
    train(quiet, config(steps=2), tmp_path / "digits-esc")
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.json").touch()
    with pytest.raises(FileNotFoundError, match=r"holds no run .*runs beside it: digits-esc$"):
        runs.load_run(tmp_path / "digit-esc")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        train(quiet, config(), tmp_path / "nothing", resume=True)
    with pytest.raises(ValueError, match='expected "ema"'):
        runs.load_run(tmp_path / "digits-esc", weights="worst")


def test_spoiled_files_of_a_run_are_named(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config(steps=2), tmp_path / "run").folder
    weights = place / "ema.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(checkpoint.CheckpointError, match=r"ema\.safetensors: truncated"):
        runs.load_run(place)
    torch.save({"a": torch.zeros(1)}, weights)
    with pytest.raises(checkpoint.CheckpointError, match="pickle"):
        runs.load_run(place)
    save_file({"a": torch.zeros(1)}, weights)
    with pytest.raises(checkpoint.CheckpointError, match="not written by flowleap"):
        runs.load_run(place)
    (place / "config.json").write_text('{"format": 1')
    with pytest.raises(ValueError, match=r"config\.json: truncated or not the config"):
        runs.load_run(place)


@pytest.mark.slow
def test_a_run_without_weights_says_so(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config(steps=2), tmp_path / "run").folder
    for path in [*place.glob("*.safetensors"), *(place / "checkpoints").rglob("*")]:
        path.unlink() if path.is_file() else None
    (place / "checkpoints" / "step-00000002").rmdir()
    with pytest.raises(FileNotFoundError, match="no weights yet"):
        runs.load_run(place)
    assert train(quiet, None, place, resume=True).step == 2  # it begins again


# ---------------------------------------------------------------- environment and command line


def test_git_state_and_versions() -> None:
    noted = folder.environment()
    assert noted["python"] == ".".join(map(str, sys.version_info[:3]))
    assert noted["packages"]["torch"] == torch.__version__.split("+")[0]
    assert provenance.git_state(Path("/")) is None or sys.platform == "win32"


def flowleap(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.slow
def test_dry_run_prints_json_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = flowleap(
        "train", "flow-matching", "--dry-run", "--json", "--steps", "7", "--set", "label_dropout=0.5"
    )
    assert done.exit_code == 0, done.stderr
    resolved = json.loads(done.stdout)["config"]
    assert (resolved["schedule"]["steps"], resolved["method"], resolved["objective"]["label_dropout"]) == (
        7,
        "flow_matching",
        0.5,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_line_trains_refuses_and_resumes(tmp_path: Path, quiet, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--steps", "2", "--batch", "20", "--no-eval", "--network", "mlp", "--sample-every", "0"]
    first = flowleap("train", *short)
    assert first.exit_code == 0 and "runs/digits-esc-seed0" in first.stdout, first.output
    assert flowleap("train", *short, "--seed", "0").exit_code == 0  # a second folder
    assert (tmp_path / "runs" / "digits-esc-seed0-2" / "ema.safetensors").exists()
    refused = flowleap("train", *short, "--out", "runs/digits-esc-seed0")
    assert (
        refused.exit_code == 2
        and "already holds a run" in refused.stderr
        and "Traceback" not in refused.stderr
    )
    longer = flowleap("train", "--resume", "--steps", "3")
    assert longer.exit_code == 0 and "continued from step 2" in longer.stdout, longer.output
    assert runs.load_run(tmp_path / "runs" / "digits-esc-seed0-2").step == 3
    other = flowleap("train", "--resume", "--lr", "7")
    assert other.exit_code == 2 and "lr is 0.002, not 7.0" in other.stderr
    for arguments, complaint in (
        (["--set", "warmup"], "FIELD=VALUE"),
        (["--batch", "0"], "'--batch': Input should be greater"),
    ):
        wrong = flowleap("train", *arguments)
        assert wrong.exit_code == 2 and complaint in wrong.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_exits_with_130_and_resume_goes_on(tmp_path: Path) -> None:
    options = ["--data", "two-moons", "--batch", "20", "--no-eval", "--log-every", "1", "--sample-every", "0"]
    options += ["--set", "evaluation.online_share=0"]
    arguments = ["train", "flow-matching", "--steps", "100000", "--out", "run", *options]
    command = [sys.executable, "-c", "from flowleap.cli import main; main()", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    patience = time.monotonic() + 100
    while (not metrics.exists() or not metrics.read_text()) and time.monotonic() < patience:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "finishing this step" in err and "--resume" in out
    step = runs.load_run(tmp_path / "run").step
    assert step == len(metrics.read_text().splitlines()) < 100000


def test_a_reporter_takes_names_literally() -> None:
    console = Console(file=io.StringIO(), width=200)
    Reporter(console).say("runs/[bold]x[/bold]")
    assert said(console) == "runs/[bold]x[/bold]\n"


def test_guidance_by_a_setting_brings_label_dropout_back() -> None:
    guided = '{"type": "Guidance", "omega": 1.0, "kappa": 0.5}'
    assert runs.configure("meanflow").objective.label_dropout == 0.0
    config = runs.configure("meanflow", settings=[("guidance", guided)])
    assert config.objective.label_dropout == 0.1
    with pytest.raises(ValueError, match="label_dropout=0 never trains"):
        runs.configure("meanflow", settings=[("guidance", guided), ("label_dropout", "0.0")])


def test_a_run_says_what_it_changes_about_its_method() -> None:
    config = runs.configure("esc", settings=[("velocity", "Conditional"), ("times.horizon", "0.5")])
    said = runs.changes(config)
    assert "changed from esc: velocity PlugIn → Conditional" in said
    assert "changed from esc: label_dropout 0.1 → 0.0" in said
    assert any(line.startswith("changed from esc: times.horizon 0.0333") for line in said)


@pytest.mark.slow
def test_a_run_is_not_resumed_to_an_end_before_its_last_step(tmp_path: Path) -> None:
    config = runs.configure("meanflow", "two-moons", steps=6, batch=16, eval_num=0, sample_every=0)
    runs.train(config, tmp_path / "run")
    kept = (tmp_path / "run" / "config.json").read_text()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="has done 6 steps already"):
        runs.train(config.replace(steps=3), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "config.json").read_text() == kept


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (
            "flowleap.training.start.draw_batch",
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        ),
        ("flowleap.runs.trainer.fit", torch.OutOfMemoryError("CUDA out of memory.")),
    ],
)
def test_exhausted_memory_is_said_with_what_helps(
    tmp_path: Path, quiet: Console, monkeypatch, where: str, error: Exception
) -> None:
    monkeypatch.setattr(where, raising(error))
    with pytest.raises(ValueError, match=r"^out of memory: .*--per-device"):
        train(quiet, config(), tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("network.width", "-4", r"network\.width=-4"),
        ("network.kind", "[]", "unknown kind of network"),
        ("ema", "1.5", "ema"),
        ("lr", "inf", "lr"),
        ("size", "x", r"size='x' does not fit"),
        ("memory", "[]", "memory"),
        ("velocity", "Conditionl", "did you mean Conditional"),
        ("velocity", "{}", 'is no part: {"type"'),
    ],
)
def test_settings_of_a_wrong_kind_are_refused_by_their_name(field: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        runs.configure("esc", settings=[(field, text)])


SETTINGS = (
    "-1",
    "0",
    "1.5",
    "nan",
    "inf",
    "1e999",
    "null",
    "true",
    "[]",
    "{}",
    "[[[[",
    "x",
    "",
    "9" * 30,
    '[1,"a"]',
)


@pytest.mark.slow
def test_any_text_for_any_setting_is_taken_or_refused_in_words() -> None:
    """An error of any other type ends the test."""
    digits = data.load("digits")
    whole = runs.configure("esc", digits)
    part = [
        f"{name}.{field}"
        for name in ("times.pair.law", "velocity", "loss", "batching")
        for field in ("type", "mean")
    ]
    names = [
        *FIELDS,
        *(f"network.{name}" for name in whole.network),
        *(f.name for f in fields(whole.objective)),
        *part,
    ]
    random = Random(0)
    for name in names:
        for text in random.sample(SETTINGS, 2):
            with suppress(ValueError, FileNotFoundError):
                runs.configure("esc", digits, settings=[(name, text)])
