"""Runs with a teacher: two phases or one, exact resume in each, what does not fit, what they cost."""

from __future__ import annotations

import io
import json
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from flowleap import evaluation, networks, reports, runs, samplers
from flowleap.cli import app
from flowleap.data import Dataset
from flowleap.data.pairs import Origin, PairStore
from flowleap.data.shards import checksum
from flowleap.evaluation import diagnosis
from flowleap.runs.pairs import seed_of
from flowleap.training import loop
from flowleap.training.state import TrainedNetwork

TINY = [("network.width", "16"), ("network.depth", "1"), ("online_share", "0")]
TAUGHT = ("progressive_distillation", "consistency_distillation", "reflow")
FILES = ("network.safetensors", "ema.safetensors", "checkpoints/step-00000014/optimizer.safetensors")


def cloud(labels: bool = False, rows: int = 40) -> Dataset:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
    label = torch.arange(rows) % 3 if labels else None
    return Dataset("cloud", x, label, 3 if labels else None, kind="points")


def config(method: str, data: Dataset | None = None, **options: object) -> runs.TrainConfig:
    """A run of 28 steps on points; with a teacher of its own, 14 for each."""
    settings = [*TINY, *options.pop("settings", [])]
    usual = {
        "steps": 28,
        "batch": 16,
        "log_every": 4,
        "sample_every": 0,
        "eval_num": 0,
        "checkpoint_every": 5,
    }
    if method == "reflow":
        usual["pair_steps"] = 3
    return runs.configure(method, data or cloud(), settings=settings, **{**usual, **options})


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def train(
    console: Console,
    settings: runs.TrainConfig | None,
    out: Path,
    data: Dataset | None = None,
    **options: object,
) -> runs.RunResult:
    return runs.train(settings, out, dataset=data or cloud(), console=console, **options)


def said(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def press_at(monkeypatch, count: int, number: int = signal.SIGINT) -> None:
    """Press Ctrl-C in the middle of the count-th step since resume."""
    drawn, original = [0], loop.draw_batch

    def pressing(*arguments: object, **named: object) -> object:
        drawn[0] += 1
        if drawn[0] == count:
            signal.raise_signal(number)
        return original(*arguments, **named)

    monkeypatch.setattr(loop, "draw_batch", pressing)


# ---------------------------------------------------------------- phases


@pytest.mark.slow
@pytest.mark.parametrize("method", TAUGHT)
def test_phases_are_printed_before_the_start_and_share_the_steps(tmp_path: Path, quiet, method: str) -> None:
    result = train(quiet, config(method, steps=29), tmp_path / "run")
    assert (result.step, result.signal, result.phase) == (15, None, "student")
    text = said(quiet)
    assert (
        text.index("1 of ")
        < text.index("flow matching, 14 of 29 steps, into teacher/")
        < text.index("step 4/14")
    )
    assert "student: " in text and "15 of 29 steps" in text
    teacher, student = runs.load_run(tmp_path / "run" / "teacher"), runs.load_run(tmp_path / "run")
    assert (teacher.config.method, teacher.step, teacher.config.schedule.steps) == ("flow_matching", 14, 14)
    assert (student.config.method, student.step, student.config.schedule.steps, student.length) == (
        method,
        15,
        29,
        15,
    )
    assert student.config.teacher.path is None
    found = checksum(tmp_path / "run" / "teacher" / "ema.safetensors")
    assert (student.config.teacher.weights, student.config.teacher.checksum) == ("ema-0.999@14", found)
    for place, last in ((tmp_path / "run", 15), (tmp_path / "run" / "teacher", 14)):
        rows = [json.loads(line)["step"] for line in (place / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1] == last and (place / "environment.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "press"),
    [
        ("progressive_distillation", (1, 9, 5, 1)),  # in the teacher, in its last step, in the student
        ("progressive_distillation", (17, 4, 2)),  # in the middle of stages, which have two steps each
        ("consistency_distillation", (14, 6)),
        ("reflow", (7, 12)),
    ],
)
def test_interrupted_in_any_phase_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, quiet, monkeypatch, method: str, press: tuple[int, ...]
) -> None:
    whole = train(quiet, config(method), tmp_path / "whole").folder
    place, ends = tmp_path / "parts", []
    for number, count in enumerate(press):
        with monkeypatch.context() as patch:
            press_at(patch, count)
            ends.append(train(quiet, config(method) if number % 2 == 0 else None, place, resume=number > 0))
        assert "continue with: flowleap train --resume --out " + str(place) in said(quiet).replace("\n", " ")
    assert all(end.signal == signal.SIGINT for end in ends)
    last = train(quiet, None, place, resume=True)
    assert (last.step, last.signal) == (14, None)
    for name in FILES:
        assert (whole / name).read_bytes() == (place / name).read_bytes(), name
        assert (whole / "teacher" / name).read_bytes() == (place / "teacher" / name).read_bytes(), name
    frozen = "checkpoints/step-00000014/frozen.safetensors"
    assert (whole / frozen).exists() is (method == "progressive_distillation")
    if (whole / frozen).exists():
        assert (whole / frozen).read_bytes() == (place / frozen).read_bytes()


@pytest.mark.slow
def test_the_teacher_is_an_ordinary_flow_matching_run(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config("reflow"), tmp_path / "run").folder
    alone = train(quiet, config("flow_matching").replace(steps=14), tmp_path / "alone").folder
    for name in FILES:
        assert (place / "teacher" / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.slow
def test_steps_that_two_phases_share_cannot_change(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config("consistency_distillation"), tmp_path / "run").folder
    with pytest.raises(ValueError, match="divides 28 steps between its teacher and itself"):
        train(quiet, config("consistency_distillation", steps=40), place, resume=True)


def test_what_does_not_fit_a_student_is_found_before_its_teacher_is_trained(tmp_path: Path, quiet) -> None:
    with pytest.raises(ValueError, match=r"7 stages.*the first half of 12 steps trains its teacher"):
        train(quiet, config("progressive_distillation", steps=12), tmp_path / "run")
    with pytest.raises(ValueError, match=r"steps=1: .*at least 2 are expected"):
        train(quiet, config("consistency_distillation", steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match="pairs=400: 14 steps of 16 use 224 of them"):
        train(quiet, config("reflow", pairs=400), tmp_path / "run")
    with pytest.raises(ValueError, match="is not trained on pairs"):
        train(quiet, config("consistency_distillation", pairs=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- a teacher of another run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A finished flow-matching run with labels."""
    place = tmp_path_factory.mktemp("runs") / "teacher"
    settings = config("flow_matching", cloud(True), steps=6, settings=[("label_dropout", "0.1")])
    runs.train(settings, place, dataset=cloud(True), console=Console(quiet=True))
    return place


@pytest.mark.parametrize("method", TAUGHT)
def test_a_student_starts_from_the_averaged_weights_and_a_new_optimizer(
    quiet, teacher: Path, method: str
) -> None:
    settings, run = config(method, cloud(True), teacher=teacher), runs.load_run(teacher)
    raw = load_file(teacher / "network.safetensors")
    setup = runs.Setup(settings, cloud(True), teacher=run.flow)
    trained = setup.state.trained
    held = [trained.network, *(average.module for average in trained.every_average())]
    held += [trained.copy] if trained.copy is not None else []
    assert len(held) == (2 if method == "reflow" else 3)
    for network in held:
        for name, tensor in load_file(teacher / "ema.safetensors").items():
            assert torch.equal(network.state_dict()[name], tensor)
    assert any(not torch.equal(raw[name], tensor) for name, tensor in trained.network.state_dict().items())
    assert trained.optimizer.state == {} and setup.state.step == 0


def test_data_and_network_are_those_of_the_teacher_where_none_are_given(tmp_path: Path, quiet) -> None:
    place = tmp_path / "moons"
    settings = runs.configure("flow-matching", "two-moons", settings=TINY, steps=2, batch=16, eval_num=0)
    runs.train(settings, place, console=quiet)
    taught = runs.configure("consistency-distillation", teacher=place)
    assert (
        taught.data.name == "two-moons"
        and taught.network == settings.network
        and taught.network["width"] == 16
    )


def other(tmp_path: Path, quiet: Console, method: str, data: Dataset, **options: object) -> Path:
    return train(quiet, config(method, data, **{"steps": 4, **options}), tmp_path / "other", data).folder


TRIG = [("path", "TrigPath"), ("parameterization", "Velocity")]
WIDER = Dataset("wide", torch.randn(40, 3), kind="points")


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda *a: other(*a, "flow_matching", cloud()), {}, r"knows no classes, but its student 3"),
        (
            lambda *a: other(*a, "flow_matching", WIDER),
            {},
            r"samples of shape \(3,\), but those of cloud are \(2,\)",
        ),
        (
            lambda *a: other(*a, "flow_matching", cloud(True), settings=TRIG),
            {},
            r"does not fit: .*lives on LinearPath.*but its teacher on TrigPath",
        ),
        (
            lambda *a: other(*a, "consistency_training", cloud(True), steps=7),
            {},
            "is not trained for the instantaneous velocity",
        ),
        (
            lambda *a: other(*a, "flow_matching", cloud(True), settings=[("network.width", "24")]),
            {},
            "goes on from the weights of its teacher, but the network",
        ),
        (
            lambda *a: other(*a, "flow_matching", cloud(True)),
            {"settings": [("velocity.guidance", "2.0")]},
            "null label.*was never trained",
        ),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, quiet, make, options: dict, message: str
) -> None:
    place, settings = make(tmp_path, quiet), config("consistency_distillation", cloud(True), **options)
    with pytest.raises(ValueError, match=message):
        train(quiet, settings.replace(teacher=str(place)), tmp_path / "run", cloud(True))
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_missing_or_not_finished_is_refused(tmp_path: Path, quiet, monkeypatch) -> None:
    settings = config("consistency_distillation")
    with pytest.raises(FileNotFoundError, match="nowhere holds no run"):
        config("consistency_distillation", teacher=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        with pytest.raises(FileNotFoundError, match=f"{name} holds no run"):
            train(quiet, settings.replace(teacher=str(tmp_path / name)), tmp_path / "run")
    with monkeypatch.context() as patch:
        press_at(patch, 9)
        train(quiet, config("flow_matching"), tmp_path / "begun")
    with pytest.raises(ValueError, match=r"has done 9 of 28 steps: it is still training.*--resume --out"):
        train(quiet, settings.replace(teacher=str(tmp_path / "begun")), tmp_path / "run")
    with pytest.raises(ValueError, match="flow_matching has no teacher"):
        train(quiet, config("flow_matching", teacher=tmp_path / "begun"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_guided_teacher_is_one_that_knows_the_null_label(tmp_path: Path, quiet, teacher: Path) -> None:
    settings = config(
        "consistency_distillation", cloud(True), teacher=teacher, settings=[("velocity.guidance", "2.0")]
    )
    assert train(quiet, settings, tmp_path / "run", cloud(True)).step == 28
    own = config("reflow", cloud(True), pair_guidance=1.5)
    train(quiet, own, tmp_path / "own", cloud(True))
    assert runs.load_run(tmp_path / "own" / "teacher").objective.label_dropout == 0.1


@pytest.mark.slow
def test_resume_wants_the_same_teacher_wherever_it_is(
    tmp_path: Path, quiet, monkeypatch, teacher: Path
) -> None:
    (tmp_path / "here").mkdir()
    shutil.copytree(teacher, tmp_path / "here" / "fm")
    settings = config("consistency_distillation", cloud(True), teacher=tmp_path / "here" / "fm")
    whole = train(quiet, settings, tmp_path / "whole", cloud(True)).folder
    with monkeypatch.context() as patch:
        press_at(patch, 9)
        train(quiet, settings, tmp_path / "here" / "run", cloud(True))
    stored = json.loads((tmp_path / "here" / "run" / "config.json").read_text())["config"]
    assert (stored["teacher"]["path"], stored["teacher"]["weights"]) == ("../fm", "ema-0.999@6")
    apart = json.loads((whole / "config.json").read_text())["config"]["teacher"]["path"]
    assert apart == "../here/fm"

    (tmp_path / "here").rename(tmp_path / "there")
    weights = tmp_path / "there" / "fm" / "ema.safetensors"
    kept = weights.read_bytes()
    shutil.copy(tmp_path / "there" / "fm" / "network.safetensors", weights)
    with pytest.raises(ValueError, match="is not the one that this run began with"):
        train(quiet, None, tmp_path / "there" / "run", cloud(True), resume=True)
    weights.write_bytes(kept)
    moved = settings.replace(teacher=str(tmp_path / "there" / "fm"))
    end = train(quiet, moved, tmp_path / "there" / "run", cloud(True), resume=True)
    assert end.step == 28
    for name in ("network.safetensors", "ema.safetensors"):
        assert (whole / name).read_bytes() == (end.folder / name).read_bytes()
    with pytest.raises(ValueError, match=r"cannot be resumed as another run: .*teacher"):
        train(quiet, settings.replace(teacher=None), whole, cloud(True), resume=True)


# ---------------------------------------------------------------- refresh


@pytest.mark.slow
def test_the_frozen_map_is_the_average_of_the_very_step_in_which_the_level_changes(
    tmp_path: Path, quiet, monkeypatch
) -> None:
    seen: list[tuple[int, bool, bool]] = []
    averages: list[dict[str, torch.Tensor]] = []
    original = TrainedNetwork.refresh

    def watched(trained: TrainedNetwork, stage: int) -> None:
        before = {
            name: t.clone() for name, t in next(iter(trained.averages.values())).module.state_dict().items()
        }
        old = (
            {} if trained.copy is None else {name: t.clone() for name, t in trained.copy.state_dict().items()}
        )
        original(trained, stage)
        if trained.copy is not None:
            new = trained.copy.state_dict()
            assert trained.frozen.network is trained.copy and not any(
                w.requires_grad for w in trained.copy.parameters()
            )
            fresh = all(torch.equal(new[name], before[name]) for name in new)
            kept = all(torch.equal(new[name], old[name]) for name in new)
            seen.append((stage, fresh, kept))
            averages.append(before)

    monkeypatch.setattr(TrainedNetwork, "refresh", watched)
    train(quiet, config("progressive_distillation", lr=0.05), tmp_path / "run")
    levels = [config("progressive_distillation").objective.times.level(step / 14) for step in range(14)]
    assert [6 - stage for stage, _, _ in seen] == levels == [6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0]
    for step, (_, fresh, kept) in enumerate(seen):
        changed = step > 0 and levels[step] != levels[step - 1]
        assert (fresh, kept) == ((True, False) if changed else (step == 0, True)), step


# ---------------------------------------------------------------- pairs


@pytest.mark.slow
@pytest.mark.parametrize("labels", [False, True])
def test_every_pair_is_the_teachers_own_and_is_used(tmp_path: Path, quiet, monkeypatch, labels: bool) -> None:
    data, drawn = cloud(labels), []
    original = loop.draw_batch

    def drawing(*arguments, **named):
        batch = original(*arguments, **named)
        if batch.noise is not None:
            drawn.append(batch)
        return batch

    monkeypatch.setattr(loop, "draw_batch", drawing)
    settings = config("reflow", data)
    place = train(quiet, settings, tmp_path / "run", data).folder
    assert "160 samples of the teacher in 3 steps (4 for each of 40 rows), into pairs/" in said(quiet)
    assert "pairs 160/160" in said(quiet)
    known = runs.read_config(place)
    assert known.teacher.pairs == 160
    seed = seed_of(known)
    assert seed not in (0, 1_000_003)  # the noise of tables, pictures and the watch
    index = json.loads((place / "pairs" / "index.json").read_text())
    assert (index["count"], index["steps"], index["seed"]) == (160, 3, seed)
    assert index["checksum"] == checksum(place / "teacher" / "ema.safetensors")

    shard = load_file(place / "pairs" / "pairs-00000.safetensors")
    assert torch.equal(shard["noise"], samplers.noise(seed, torch.arange(160), (2,)))
    run, x = runs.load_run(place / "teacher"), shard["noise"]
    label = shard.get("label")
    if labels:
        assert label.bincount().tolist() == (4 * data.label.bincount()).tolist()
    with torch.no_grad():  # Euler's method by hand
        for t in (1.0, 2 / 3, 1 / 3):
            time = torch.full((160,), t)
            x = x - run.network(x, time, time, label) / 3
    torch.testing.assert_close(shard["x"], x, atol=1e-5, rtol=1e-5)

    rows = torch.cat([torch.cat([batch.noise, batch.x], dim=1) for batch in drawn])
    stored = torch.cat([shard["noise"], shard["x"]], dim=1)
    which = (rows[:, None] == stored[None]).all(dim=2)
    assert len(rows) == 14 * 16 and bool((which.sum(dim=1) == 1).all())
    assert which.sum(dim=0).min() == 1 and which.sum(dim=0).max() == 2  # 224 rows of 160 pairs
    assert which[:160].sum(dim=0).tolist() == [1] * 160


@pytest.mark.slow
def test_pairs_go_on_where_they_were_interrupted(tmp_path: Path, quiet, monkeypatch) -> None:
    monkeypatch.setattr("flowleap.runs.pairs.Origin", lambda **given: Origin(**given, shard=30))
    whole = train(quiet, config("reflow"), tmp_path / "whole").folder
    add, calls = PairStore.add, []

    def pressing(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PairStore, "add", pressing)
        first = train(quiet, config("reflow"), tmp_path / "parts")
    assert (first.phase, first.signal) == ("pairs", signal.SIGINT)
    assert "interrupted after 60 pairs; continue with" in said(quiet)
    end = train(quiet, None, tmp_path / "parts", resume=True)
    assert len(list((end.folder / "pairs").glob("*.safetensors"))) == 6
    for path in (whole / "pairs").glob("*.safetensors"):
        assert path.read_bytes() == (end.folder / "pairs" / path.name).read_bytes()
    assert (whole / "ema.safetensors").read_bytes() == (end.folder / "ema.safetensors").read_bytes()


@pytest.mark.slow
def test_pairs_that_were_cut_short_are_refused(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config("reflow"), tmp_path / "run").folder
    path = place / "pairs" / "pairs-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"truncated or damaged.*truncated or changed"):
        train(quiet, None, place, resume=True)


# ---------------------------------------------------------------- without the teacher


@pytest.mark.slow
@pytest.mark.parametrize("method", [*TAUGHT, "live_reflow", "consistency_training", "diffusion"])
def test_a_run_is_sampled_measured_and_diagnosed_without_its_teacher(
    tmp_path: Path, quiet, method: str
) -> None:
    data = cloud(rows=80)
    place = train(quiet, config(method, data, eval_num=0), tmp_path / "run", data).folder
    shutil.rmtree(place / "teacher", ignore_errors=True)
    shutil.rmtree(place / "pairs", ignore_errors=True)
    run = runs.load_run(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = evaluation.evaluate(run.flow, run.objective, data, (1, 4), num=70, weights=run.weights)
        assert [row["nfe"] for row in rows] == [1, 4]
        found = diagnosis.diagnose(run.flow, run.objective, data, num=64, batch=16)
    assert found.gradient is not None and found.not_finite == 0
    reports.write([place], tmp_path / "page.html", steps=(1,), num=4)
    assert "not finished" not in (tmp_path / "page.html").read_text()


# ---------------------------------------------------------------- cost

COSTS = {
    "flow_matching": 3,
    "diffusion": 3,
    "shortcut": 3 + 2 / 4,
    "meanflow": 3 + 2 / 4,
    "live_reflow": 3 + 8 / 8,
    "consistency_training": 3 + sum(1 - 2**-b for b in range(7)) / 7,
    "consistency_distillation": 3 + 1 + 127 / 128,
    "progressive_distillation": 3 + 2,
    "reflow": 3,
}


@pytest.mark.parametrize(("method", "expected"), COSTS.items())
def test_forward_equivalents_are_those_one_counts_by_hand(method: str, expected: float) -> None:
    assert runs.cost(config(method, batch=64)) == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["meanflow", "live_reflow", "consistency_distillation", "progressive_distillation"]
)
def test_counting_sees_what_the_network_does_in_training(
    tmp_path: Path, quiet, monkeypatch, method: str
) -> None:
    settings = config(method, batch=16).replace(steps=14)
    setup, spent = runs.Setup(settings, cloud(), steps=14), []

    def count(module: nn.Module, given: tuple) -> None:
        if isinstance(module, networks.MLP):
            trained = torch.is_grad_enabled() and any(w.requires_grad for w in module.parameters())
            dual = torch.autograd.forward_ad.unpack_dual(given[0]).tangent is not None
            spent.append(len(given[0]) * (3 if trained else 1) * (2 if dual else 1))

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        setup.timed(0, lambda spans: len(spans) == 14)
    finally:
        hook.remove()
    assert sum(spent) / (14 * 16) == pytest.approx(runs.cost(settings), abs=0.06)


@pytest.mark.slow
def test_a_bill_names_every_phase_and_is_left_in_the_folder(tmp_path: Path, quiet: Console) -> None:
    place = train(quiet, config("reflow"), tmp_path / "run").folder
    kept = json.loads((place / "cost.json").read_text())
    phases = [(one["phase"], one["images"], one["per_image"]) for one in kept["phases"]]
    assert phases == [("teacher", 14 * 16, 3), ("pairs", 160, 3), ("student", 14 * 16, 3)]
    assert (kept["images"], kept["forward_equivalents"]) == (28 * 16, 3 * (28 * 16 + 160))
    guided = runs.bill(config("reflow", cloud(True), pair_guidance=2.0), 40)
    assert guided[1].per_image == 6
    alone = runs.bill(config("shortcut"), 40)
    assert [one.phase for one in alone] == ["student"] and alone[0].images == 28 * 16


# ---------------------------------------------------------------- command line


def flowleap(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.slow
def test_the_command_line_trains_from_a_teacher_and_in_two_phases(tmp_path: Path, quiet, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--batch", "16", "--no-eval", "--sample-every", "0", "--set", "evaluation.online_share=0"]
    small = ["--set", "network.width=16", "--set", "network.depth=1"]
    first = flowleap(
        "train", "flow-matching", "--data", "two-moons", "--steps", "3", "--out", "fm", *short, *small
    )
    assert first.exit_code == 0, first.output
    done = flowleap(
        "train", "consistency-distillation", "--teacher", "fm", "--steps", "3", "--out", "cd", *short
    )
    assert done.exit_code == 0 and "teacher: fm, ema-0.999@3" in done.stdout, done.output
    stored = json.loads(Path("cd/config.json").read_text())["config"]
    assert (stored["teacher"]["path"], stored["data"]["name"]) == ("../fm", "two-moons")
    again = flowleap("train", "--resume", "--out", "cd", "--steps", "5")
    assert again.exit_code == 0 and "continued from step 3" in again.stdout, again.output
    both = flowleap(
        "train", "reflow", "--data", "two-moons", "--steps", "4", "--pairs", "20", "--pair-steps", "2", "--out", "rf",
        *short, *small,
    )  # fmt: skip
    assert both.exit_code == 0 and "phase 2 of 3, pairs: 20 samples of the teacher in 2 steps" in both.stdout
    missing = flowleap("train", "reflow", "--teacher", "nowhere", "--steps", "4", *short)
    assert missing.exit_code == 2 and "nowhere holds no run" in missing.stderr
    assert "runs beside it: cd, fm, rf" in missing.stderr
    sampled = flowleap("sample", "cd", "--num", "4", "--out", "cd.npz")
    assert sampled.exit_code == 0, sampled.output
