"""Runs of earlier versions are read, sampled and resumed: those in tests/golden/runs, each stopped at step 7 of 12.

Beside each, in `end`, are the weights that it came to when it was resumed, and samples of these. Machines differ in the
last bits of sums in float32, which five steps of Adam carry on, hence tolerances; on one machine all is bitwise the
same. `shortcut` is of version 0.1.0; `esc` of an earlier one, whose config and checkpoint lack what came later, and
which dealt out classes in equal parts; `meanflow` is of 0.2.0, the first of format 2. These three were begun with other
random draws than those of today, so that they come to other weights now, those in `resumed`. `flow_matching` is the
first with the draws of today. None is made anew: a version that writes another format adds its own by
tests/golden/make_run.py.
"""

from __future__ import annotations

import io
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from flowleap import Objective, methods, runs, serialize
from flowleap.cli import app
from flowleap.training import report

GOLDEN = Path(__file__).resolve().parent / "golden"
RUNS = sorted(path.name for path in (GOLDEN / "runs").iterdir())
WEIGHTS = ("network.safetensors", "ema.safetensors")
CLOSE = {"rtol": 1e-4, "atol": 2e-6}
"""Of weights that move by 0.005 in these steps; other instructions of a processor changed them by 7e-8."""


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch) -> None:
    for name in ("draw_curves", "draw_budgets"):
        monkeypatch.setattr(report, name, lambda *arguments: None)


def copied(name: str, place: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "runs" / name / "run", place))


def content(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_it_is_resumed_to_the_same_weights(name, tmp_path):
    """Twice on this machine, from Python and from the command line: bit for bit; elsewhere but for rounding."""
    first, second = copied(name, tmp_path / "first"), copied(name, tmp_path / "second")
    said, resumed = io.StringIO(), GOLDEN / "runs" / name / "resumed"
    assert runs.train(None, first, resume=True, console=Console(file=said, width=999)).step == 12
    assert ("no longer bitwise what they would have been" in said.getvalue()) == resumed.exists()
    result = CliRunner().invoke(app, ["train", "--resume", "--out", str(second)])
    assert result.exit_code == 0, result.stderr
    for file in WEIGHTS:
        assert (first / file).read_bytes() == (second / file).read_bytes()
        end = resumed if resumed.exists() else GOLDEN / "runs" / name / "end"
        found, expected = load_file(first / file), load_file(end / file)
        assert found.keys() == expected.keys()
        for weight, value in found.items():
            torch.testing.assert_close(
                value, expected[weight], **CLOSE, msg=lambda text, at=weight: f"{at}: {text}"
            )


@pytest.mark.parametrize("name", RUNS)
def test_its_weights_are_sampled_as_before(name, tmp_path):
    """And reading a folder leaves it as it is."""
    place = copied(name, tmp_path / "run")
    assert runs.load_run(place).step == 7
    for file in WEIGHTS:
        shutil.copy(GOLDEN / "runs" / name / "end" / file, place / file)
    before = content(place)
    run, kept = runs.load_run(place), np.load(GOLDEN / "runs" / name / "end" / "samples.npz")
    noise, label = torch.from_numpy(kept["noise"]), torch.from_numpy(kept["label"])
    assert run.step == 12 and content(place) == before
    for steps in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            made, again = (run.objective.sample(run.flow, noise, steps, label=label) for _ in range(2))
        assert torch.equal(made, again)
        torch.testing.assert_close(made, torch.from_numpy(kept[f"steps_{steps}"]), rtol=1e-4, atol=1e-5)


def objective_of(config: Any) -> Objective:
    """The objective of a config."""
    found: Objective = config.objective
    return found


@pytest.mark.parametrize("method", sorted(path.stem for path in (GOLDEN / "configs").iterdir()))
def test_a_config_of_every_method_is_read_to_the_same_objective(method, tmp_path):
    """As it was written for a run on digits; presets drop no labels, and took every derivative by two passes."""
    text = (GOLDEN / "configs" / f"{method}.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    config, written = runs.read_config(tmp_path), json.loads(text)["config"]
    expected = replace(methods.get(method), label_dropout=0.0)
    if expected.target.derivative is not None:
        expected = serialize.override(expected, "target.derivative", "TwoPass")
    assert objective_of(config) == expected
    assert (config.method, config.network, config.schedule.steps) == (
        method,
        written["network"],
        written["steps"],
    )
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_it_teaches_a_new_run(tmp_path):
    """Options of its network that came later have their defaults there."""
    place = copied("esc", tmp_path / "old")
    runs.train(None, place, resume=True, console=Console(file=io.StringIO()))
    config = runs.configure("consistency-distillation", teacher=place, steps=2, eval_num=0, sample_every=0)
    assert runs.train(config, tmp_path / "student", console=Console(file=io.StringIO())).step == 2


def test_too_few_samples_for_a_table_are_refused_before_it_goes_on(tmp_path):
    place = copied("shortcut", tmp_path / "run")
    weights = content(place / "checkpoints")
    result = CliRunner().invoke(
        app, ["train", "--resume", "--out", str(place), "--steps", "14", "--num", "50"]
    )
    assert result.exit_code != 0 and "samples are too few" in result.stderr
    assert content(place / "checkpoints") == weights and not (place / "ema.safetensors").exists()
