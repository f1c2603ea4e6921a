"""The command line of recipes, plans and warm starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flowleap import runs
from flowleap.cli import app
from flowleap.runs import estimate, recipes
from flowleap.runs.forecast import hours, size, within

SMALL = ["--set", "network.width=16", "--set", "network.depth=1", "--set", "network.heads=2"]
QUIET = [
    "--steps",
    "3",
    "--batch",
    "16",
    "--no-eval",
    "--sample-every",
    "0",
    "--set",
    "evaluation.online_share=0",
]


def flowleap(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def quick(monkeypatch) -> None:
    """Measure for a moment."""
    whole = estimate.estimate
    monkeypatch.setattr(estimate, "estimate", lambda config, rows: whole(config, rows, seconds=0.1))


@pytest.mark.slow
def test_all_recipes_are_listed_and_one_is_shown(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    listed = flowleap("recipes").stdout
    assert all(name in listed for name in recipes.names()) and "not yet run here" in listed
    assert flowleap("train", "--recipe", "list").stdout == listed
    shown = flowleap("recipes", "esc-xl2").stdout
    for part in ("2.53", "2.85", "0.18125", "1,200,000 steps of 256", "guidance None → Guidance"):
        assert part in shown
    content = json.loads(flowleap("recipes", "meanflow-b2", "--json").stdout)
    assert content["numbers"][0]["value"] == 6.17 and content["batch"] == 256
    assert [one["name"] for one in json.loads(flowleap("recipes", "--json").stdout)] == list(recipes.names())


@pytest.mark.slow
def test_a_plan_needs_no_data_and_writes_nothing(tmp_path: Path, monkeypatch, quick) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    done = flowleap("train", "--recipe", "fashion-mnist", "--dry-run", "--batch", "32", *SMALL)
    assert done.exit_code == 0, done.output
    assert "recipe fashion-mnist: data.batch is 32 instead of 128" in done.stderr
    for part in (
        "parameters",
        "activations of 32 rows",
        "GFLOP per image forward",
        "images/s",
        "so the run takes",
    ):
        assert part in done.stdout
    content = json.loads(flowleap("train", "--recipe", "fashion-mnist", "--dry-run", "--json", *SMALL).stdout)
    assert content["config"]["recipe"] == "fashion-mnist" and content["estimate"]["speed"]["images"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_mistakes_are_one_line() -> None:
    for arguments, message in (
        (["train", "--recipe", "esc-b4"], "did you mean esc-b2"),
        (["train", "--recipe", "esc-b2"], "say where it is, --data PATH"),
        (["train", "meanflow", "--recipe", "esc-b2", "--dry-run"], "trains esc, not meanflow"),
        (["train", "--json"], "belongs to --dry-run"),
        (["train", "--recipe", "esc-b2", "--resume"], "a resumed run has its settings"),
        (["train", "--init", "nowhere"], "nowhere"),
        (["recipes", "esc"], "unknown recipe"),
    ):
        done = flowleap(*arguments)
        assert done.exit_code != 0 and message in " ".join(f"{done.output} {done.exception}".split()), (
            arguments
        )


@pytest.mark.slow
def test_training_by_a_recipe_and_from_another_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = flowleap("train", "--recipe", "fashion-mnist", "--data", "digits", "--out", "first", *QUIET, *SMALL,
                     "--set", "network.patch=2")  # fmt: skip
    assert first.exit_code == 0, first.output
    assert "made for image of shape (1, 28, 28), here (1, 8, 8)" in first.stderr
    second = flowleap("train", "meanflow", "--init", "first", "--out", "second", *QUIET)
    assert second.exit_code == 0, second.output
    said = " ".join(second.stdout.split())
    assert "begins with first, ema-0.999@3" in said and "left there: logvar_linear" in said
    assert json.loads(Path("second/config.json").read_text())["config"]["init"]["path"] == "../first"


@pytest.mark.slow
def test_sizes_and_times_in_words() -> None:
    assert [size(n) for n in (12, 3.2e3, 4.5e6, 7e9, 1.2e12)] == [
        "12 B",
        "3.2 kB",
        "4.5 MB",
        "7 GB",
        "1.2 TB",
    ]
    assert [hours(n) for n in (0.005, 0.5, 1.9, 37.25, 2400.0)] == [
        "18 s", "30 min", "114 min", "37.2 h", "2,400 h (100 days)",
    ]  # fmt: skip
    config = runs.configure(recipe="esc-xl2")
    found = estimate.estimate(config, 0, speed=False)
    most = found.rows_within(0.9 * 80e9)
    assert 1 < most < 256 and within(config, found, 80e9) == f"{most} rows, {-(-256 // most)} devices at once"
    assert within(config, found, 8e9) == "not even weights and optimizer"
    assert within(config, found, 1e15) == "the whole batch"
