"""Options of training that the scripts of diffusers have: kept checkpoints, chosen labels, no connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from export_runs import COMMAND
from flowleap import pictures, runs
from flowleap.cli import app
from flowleap.training import checkpoint, report
from test_import import filled, saved, torch_shapes

SMALL = (*COMMAND, "--network", "mlp", "--steps", "5", "--set", "network.width=32")


def train(out: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["train", "meanflow", "--out", str(out), *SMALL, *words])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "kept"), [((), [4, 5]), ((1,), [5]), ((3,), [3, 4, 5]), ((0,), [1, 2, 3, 4, 5])]
)
def test_as_many_checkpoints_are_kept_as_asked_for(
    limit: tuple[int, ...], kept: list[int], tmp_path: Path
) -> None:
    words = ("--checkpoints-total-limit", str(limit[0])) if limit else ()
    result = train(tmp_path / "run", "--checkpoint-every", "1", "--sample-every", "0", *words)
    assert result.exit_code == 0, result.output
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir())
    assert found == [f"step-{step:08d}" for step in kept]
    latest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name == f"step-{kept[-1]:08d}"


@pytest.mark.slow
def test_grids_show_the_chosen_labels_at_the_chosen_interval(
    tmp_path: Path, with_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []
    grid = pictures.grid
    monkeypatch.setattr(
        pictures,
        "grid",
        lambda *args, label, **about: drawn.append(label.tolist()) or grid(*args, label=label, **about),
    )
    monkeypatch.setattr(report, "LEAST", 1e9)  # a busy machine draws as well
    result = train(tmp_path / "run", "--sample-every", "2", "--validation-labels", "7,2")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert names == [f"step-{step:06d}.png" for step in (2, 4, 5)]
    while_training = drawn[: len(names)]
    assert all(label == [7, 2] * (len(label) // 2) for label in while_training), while_training
    assert set(drawn[-1]) == set(range(10)), "the picture of the finished run shows all classes"
    assert runs.read_config(tmp_path / "run").evaluation.validation_labels == ("7", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--validation-labels", "cat"), "there is no class 'cat'"),
        (("--validation-labels", "1", "--set", "network.classes=none"), "the network has no labels"),
        (("--track", "tensorbord"), "did you mean tensorboard"),
    ],
)
def test_mistakes_are_refused_before_training(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = train(tmp_path / "run", *words)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.output
    assert not (tmp_path / "run").exists()


OFFLINE = """
import socket, sys

def refuse(*about, **more):
    print("CONNECTION", about)
    raise OSError("a connection was tried")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from flowleap.cli import main
main()
"""


@pytest.mark.slow
def test_offline_reads_the_cache_and_tries_no_connection(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    place = tmp_path / "cache" / "models--owner--name"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    saved(place / "snapshots" / "abc" / "weights.pt", filled(torch_shapes(second=False)))

    def flowleap(*words: str) -> Any:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
        env |= {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [sys.executable, "-c", OFFLINE, *words],
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
            timeout=240,
        )

    about = ("--layout", "sit", "--heads", "4", "--out", "run")
    done = flowleap("import", "owner/name", *about)
    assert done.returncode == 0 and "CONNECTION" not in done.stdout, done.stdout + done.stderr
    done = flowleap("import", "owner/other", *about[:-1], "other")
    assert done.returncode == 2 and "CONNECTION" not in done.stdout
    assert "which alone is read with HF_HUB_OFFLINE" in done.stderr
