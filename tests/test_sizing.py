"""Plans of runs of a given time: tables of cases, mirror images, what wins over a plan, bad input, a planned run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flowleap import data, methods, processes, runs
from flowleap.cli import app
from flowleap.data import Dataset
from flowleap.evaluation import quality_table
from flowleap.guidance import Guidance
from flowleap.networks import build_on_meta
from flowleap.runs import estimate, planning, sizing
from flowleap.runs.pace import StepCost
from flowleap.runs.sizing import Facts, Pace, Plan

GREY = Facts("fashion", "image", (1, 28, 28), 60_000, 10)
FOLDER = Facts("photos", "image", (3, 64, 64), 300, None, symmetric=True)
LARGE = Facts("scenes", "image", (3, 256, 256), 100_000, None, symmetric=True)
LATENTS = Facts("cache", "latents", (4, 32, 32), 1_281_167, 1000)
TINY = [
    "--network",
    "dit-nano",
    "--set",
    "network.width=16",
    "--set",
    "network.depth=1",
    "--set",
    "network.heads=1",
]


@pytest.mark.parametrize(
    ("about", "device", "minutes", "rate", "kind", "width", "tokens", "guided", "flip", "dropout"),
    [
        (GREY, "cpu", 10, 5e10, "DiT", 64, 49, True, False, 0.0),
        (GREY, "cpu", 37, 5e10, "DiT", 64, 49, True, False, 0.0),
        (GREY, "cuda", 60, 2e13, "DiT", 192, 196, True, False, 0.0),
        (FOLDER, "cpu", 10, 5e10, "DiT", 64, 256, False, True, 0.2),
        (FOLDER, "cpu", 600, 1e11, "UNet", 16, 0, False, True, 0.2),
        (FOLDER, "cuda", 60, 2e13, "UNet", 32, 0, False, True, 0.2),
        (replace(FOLDER, rows=1000), "cuda", 60, 2e13, "UNet", 32, 0, False, True, 0.1),
        (replace(FOLDER, rows=5000), "cuda", 60, 5e13, "UNet", 64, 0, False, True, 0.0),
        (LARGE, "cpu", 60, 1e11, "UNet", 16, 0, False, True, 0.0),
        (LARGE, "cuda", 600, 5e13, "UNet", 32, 0, False, True, 0.0),
        (LATENTS, "cuda", 600, 5e13, "DiT", 384, 256, True, None, 0.0),
    ],
)  # fmt: skip
def test_sizes_follow_from_data_device_time_and_pace(
    about, device, minutes, rate, kind, width, tokens, guided, flip, dropout
) -> None:
    seconds, pace = 60.0 * minutes, Pace(rate)
    size = sizing.size(about, device, seconds, pace)
    assert (size.kind, size.width, size.dropout) == (kind, width, dropout)
    _, height, side = about.shape
    assert (height * side // size.patch**2 if size.patch else 0) == tokens
    assert (sizing.guidance(about) is not None, about.flip) == (guided, flip)
    smallest = size == sizing.ladder(about)[0]
    assert smallest or pace.seconds(size) <= 1.2 * sizing.LONGEST
    if not smallest:
        assert Plan(seconds, True, device, pace.seconds(size), 10.0, 0.1).steps >= 1500
    network = build_on_meta({**size.network, "image": list(about.shape), "classes": about.classes})
    assert not about.few or sum(weight.numel() for weight in network.parameters()) < 3e6
    assert network.config["dropout"] == dropout


def test_a_faster_device_and_a_longer_run_have_larger_networks() -> None:
    def work(seconds: float, rate: float) -> float:
        return sizing.size(GREY, "cpu", seconds, Pace(rate)).work

    assert work(600, 2e10) < work(600, 3e13) < work(60_000, 3e13)


def test_a_pace_is_what_was_measured_and_scales_to_other_sizes() -> None:
    small, large = sizing.ladder(GREY)[0], sizing.ladder(GREY)[3]
    pace = Pace(1e10).also(small, 0.1)
    assert pace.seconds(small) == 0.1 and pace.knows(small) and not pace.knows(large)
    assert pace.seconds(large) == pytest.approx(0.1 * large.work / small.work)
    assert pace.also(large, 0.3).seconds(large) == 0.3


@pytest.mark.parametrize("about", [GREY, FOLDER, LATENTS, replace(FOLDER, shape=(3, 32, 32)), LARGE])
def test_operations_are_near_those_that_are_counted(about: Facts) -> None:
    for size in {one.kind: one for one in sizing.ladder(about) if one.width <= 64}.values():
        counted = estimate.forward_flops({**size.network, "image": list(about.shape), "classes": None})
        assert size.operations == pytest.approx(counted, rel=0.35)


@pytest.mark.parametrize(
    ("steps", "decay"), [(300, 0.99), (2000, 0.995), (7000, 0.998571), (40_000, 0.99975)]
)
def test_the_average_looks_back_a_tenth_of_the_run(steps: int, decay: float) -> None:
    assert sizing.average(steps) == decay


def test_time_beside_the_steps_is_part_of_the_plan() -> None:
    plan = Plan(600.0, True, "cpu", step=0.1, around=100.0, extra=0.25)
    assert (plan.steps, plan.training) == (4000, pytest.approx(400.0))
    assert plan.needed == pytest.approx(100 + 300 * 0.1 * 1.25)
    with pytest.raises(
        ValueError, match=r"--minutes 1 is too short: a step of it takes 0.1 s here.*--minutes 3 or more"
    ):
        sizing.refuse_short(replace(plan, seconds=120.0), "--minutes 1", "it")


def test_images_that_look_like_their_mirror_images() -> None:
    digits = data.load("digits")
    rng = torch.Generator().manual_seed(0)
    turned = torch.where(torch.rand(len(digits), 1, 1, 1, generator=rng) < 0.5, digits.x, digits.x.flip(-1))
    assert sizing.symmetric(turned, digits.label) and sizing.symmetric(turned)
    assert not sizing.symmetric(digits.x, digits.label) and not sizing.symmetric(digits.x)
    letters = torch.stack([digits.x[3], digits.x[3].flip(-1)]).repeat(20, 1, 1, 1)  # b and d
    assert sizing.symmetric(letters) and not sizing.symmetric(letters, torch.arange(2).repeat(20))


def row(ratio: float, count: int) -> dict[str, object]:
    return {"nearest_ratio": ratio, "reference_size": count, "reference_seen": True}


def test_the_memorization_ratio_of_few_images_is_said_in_words() -> None:
    (new,), (copied,) = quality_table.memory([row(0.95, 300)]), quality_table.memory([row(0.2, 300)])
    assert "memorization ratio 0.95" in new and "samples are no copies" in new
    assert "repeats training images" in copied
    assert "far from all real images" in quality_table.memory([row(1.8, 300)])[0]
    (turned,) = quality_table.memory([row(0.95, 300) | {"reference_mirrored": True}])
    assert (
        "the nearest of the 300 training images and their mirror images as they are from one another"
        in turned
    )
    assert not quality_table.memory([row(0.95, sizing.FEW)])
    assert not quality_table.memory([row(0.95, 300) | {"reference_seen": False}])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty images of 16 x 16 in color: disks of two classes at random places."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for index in range(40):
        place = tmp_path / "photos" / "ab"[index % 2] / f"{index:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        inside = (y - rng.uniform(4, 12)) ** 2 + (x - rng.uniform(4, 12)) ** 2 < rng.uniform(4, 16)
        color = rng.integers(0, 256, (2, 3))
        Image.fromarray(np.where(inside[..., None], color[0], color[1]).astype(np.uint8)).save(place)
    return tmp_path / "photos"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[runs.TrainConfig]:
    """Steps of a known time; returns the configs whose steps were measured."""
    measured: list[runs.TrainConfig] = []

    def step_cost(config: runs.TrainConfig, dataset: Dataset, *, timed: bool, positions: int) -> StepCost:
        measured.append(config)
        return StepCost(4.0, 0.002 * config.data.batch)

    monkeypatch.setattr(planning, "step_cost", step_cost)
    monkeypatch.setattr(planning.threads, "known", lambda given, limit: 1)
    return measured


def test_a_plan_is_resolved_into_the_config(photos: Path, quick: list[runs.TrainConfig]) -> None:
    found = planning.planned(600.0, text="--minutes 10", data=str(photos), device="cpu")
    config, plan = found.config, found.plan
    assert config.method == methods.key(sizing.method()) and config.recipe is None
    assert config.schedule.steps == plan.steps > 1500
    assert config.objective.guidance == Guidance(omega=1.0, kappa=0.5) and config.objective.label_dropout > 0
    assert config.optimizer.ema == (sizing.average(plan.steps),)
    assert (config.network["kind"], config.network["dropout"]) == ("UNet", 0.2)
    assert len(quick) <= planning.ROUNDS and config.data.batch in {one.data.batch for one in quick}
    total = plan.around + plan.training * (1 + plan.extra)
    assert total == pytest.approx(600.0, abs=10 * plan.step * (1 + plan.extra))
    text = "\n".join(found.lines)
    for part in (
        "10 minutes on the CPU",
        "esc on 40 images of 3 x 16 x 16, 2 classes",
        "passes over",
        "memorized",
    ):
        assert part in text


def test_what_is_asked_for_wins_over_the_plan(photos: Path, quick: list[runs.TrainConfig]) -> None:
    asked = {"batch": 12, "lr": 3e-4, "network": "dit-nano", "flip": True, "eval_num": 700, "seed": 4}
    settings = [
        ("network.width", "16"),
        ("optimizer.ema", "0.9"),
        ("guidance", "none"),
        ("schedule.warmup", "0.1"),
    ]
    config = planning.planned(600.0, data=str(photos), device="cpu", settings=settings, **asked).config
    assert (config.data.batch, config.optimizer.lr, config.data.flip, config.seed) == (12, 3e-4, True, 4)
    assert (config.network["kind"], config.network["width"], config.optimizer.ema) == ("DiT", 16, (0.9,))
    assert (config.evaluation.num, config.schedule.warmup) == (700, 0.1)
    assert config.objective.guidance is None
    named = planning.planned(600.0, data=str(photos), device="cpu", method="meanflow").config
    assert named.method == "meanflow" and named.objective.guidance is None


def test_digits_and_points_keep_their_settings_and_take_the_time(quick: list[runs.TrainConfig]) -> None:
    for asked in ({}, {"data": "two-moons", "method": "meanflow"}):
        usual, found = runs.configure(**asked), planning.planned(300.0, device="cpu", **asked).config
        assert found.schedule.steps != usual.schedule.steps
        assert found.replace(steps=usual.schedule.steps, device="auto") == usual


def test_an_own_teacher_is_paid_from_the_time(photos: Path, quick: list[runs.TrainConfig]) -> None:
    config = planning.planned(600.0, data=str(photos), method="progressive-distillation", device="cpu").config
    assert {one.method for one in quick} == {"progressive_distillation", "flow_matching"}
    assert config.schedule.steps > 1000
    with pytest.raises(ValueError, match=r"lets a teacher make pairs.*--steps"):
        planning.planned(600.0, data=str(photos), method="reflow", device="cpu")


def test_when_there_is_no_plan(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(photos)
    assert not planning.unplanned({"data": place}) and not planning.unplanned(
        {"data": place, "batch": 8, "lr": None}
    )
    for asked in (
        {}, {"data": "digits"}, {"data": "two-moons", "method": "esc"}, {"data": place, "steps": 5},
        {"data": place, "settings": [("schedule.steps", "5")]}, {"data": place, "recipe": "folder-64"},
        {"data": place, "init": "runs/one"}, {"data": place, "teacher": "runs/one"},
    ):  # fmt: skip
        assert planning.unplanned(asked)
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert planning.unplanned({"data": place})
    with pytest.raises(ValueError, match="several processes"):
        planning.planned(600.0, data=place)


def flowleap(*words: object) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def test_a_time_that_cannot_be_planned_is_refused_before_time_is_spent(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "resolve", lambda **asked: pytest.fail("data were read"))
    for words, message in (
        (["--minutes", "soon"], "Invalid value for '--minutes'"),
        (["--minutes", "-3"], "--minutes -3: a positive time is expected"),
        (["--minutes", "0.2"], "--minutes 0.2 is 12 s: .* at least 30 s"),
        (["--minutes", "2", "--hours", "1"], "the same setting"),
        (["--hours", "1", "--steps", "9"], "--hours 1 and --steps are both given"),
        (["--minutes", "2", "--set", "schedule.steps=9"], "--minutes 2 and --steps are both given"),
        (["--minutes", "2", "--recipe", "folder-64"], "a recipe has its own length"),
    ):
        code, output = flowleap("train", "--data", photos, "--out", tmp_path / "run", *words)
        assert code != 0
        assert re.search(message, output), output
    assert not (tmp_path / "run").exists()


def test_a_time_too_short_for_the_steps_says_what_is_needed(
    photos: Path, quick: list[runs.TrainConfig]
) -> None:
    with pytest.raises(
        ValueError, match=r"--minutes 0.6 is too short: a step of .* takes .* give --minutes \d+ or more"
    ):
        planning.planned(36.0, text="--minutes 0.6", data=str(photos), device="cpu", batch=2000)


def test_a_planned_run_says_its_plan_and_keeps_it_when_resumed(
    photos: Path, tmp_path: Path, quick: list[runs.TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "steps", property(lambda plan: 6))
    monkeypatch.setattr(sizing, "LEAST_STEPS", 1)
    words = ["train", "--data", photos, "--minutes", "5", "--out", tmp_path / "run", *TINY, "--no-eval"]
    code, output = flowleap(*words, "--set", "evaluation.online_share=0", "--batch", "8", "--device", "cpu")
    assert code == 0, output
    assert "plan: 5 minutes on the CPU: esc on 40 images" in output
    config = runs.read_config(tmp_path / "run")
    assert config.schedule.steps == 6 and config.network["width"] == 16
    code, output = flowleap("train", "--resume", "--out", tmp_path / "run", "--minutes", "5")
    assert code == 0, output
    assert "--minutes 5 is for a new run: this one keeps the 6 steps of its plan" in output
    assert runs.read_config(tmp_path / "run").schedule.steps == 6
