"""Exported folders read back, and runs that are published once they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from export_runs import COMMAND, images, run_folder
from flowleap import runs
from flowleap.cli import app

diffusers = pytest.importorskip("diffusers", minversion="0.42")

import flowleap
from flowleap.export import hub, origin
from flowleap.export.diffusers import FlowleapPipeline, export

pytestmark = pytest.mark.slow
SMALL = (*COMMAND, "--steps", "2", "--sample-every", "0", "--set", "network.width=16")


@pytest.fixture(autouse=True)
def no_bars() -> None:
    diffusers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("method", ["esc", "shortcut_repo", "ict"])
def test_an_exported_folder_is_loaded_as_its_run(method: str, tmp_path: Path) -> None:
    place = run_folder(tmp_path / "run", method)
    export(runs.load_run(place), tmp_path / "out")
    run, model = flowleap.load(place, device="cpu"), flowleap.load(tmp_path / "out", device="cpu")
    assert torch.equal(model.sample(5, steps=2, seed=4), run.sample(5, steps=2, seed=4))
    assert torch.equal(model.sample(3, label="dog"), run.sample(3, label="dog"))
    assert model.objective == run.objective and model.classes == ("cat", "dog", "owl")
    assert model.config.schedule == run.config.schedule and model.run.weights == run.run.weights
    assert model.images(1)[0].size == (8, 8)
    with pytest.raises(ValueError, match="exported, with one set of weights"):
        flowleap.load(tmp_path / "out", "raw")


def test_the_file_names_no_place_of_this_machine(tmp_path: Path) -> None:
    data = images(name="photos")
    place = run_folder(tmp_path / "secret" / "run", dataset=data)
    content = (place / "config.json").read_text()
    (place / "config.json").write_text(
        content.replace('"place": null', f'"place": "{tmp_path}/secret/photos"')
    )
    export(runs.load_run(place), tmp_path / "out")
    text = (tmp_path / "out" / origin.NAME).read_text()
    assert "secret" in (place / "config.json").read_text() and "secret" not in text
    with pytest.raises(ValueError, match="does not say what it was trained on"):
        flowleap.load(tmp_path / "out").run.dataset()


def test_a_pipeline_without_the_file_says_what_to_do(tmp_path: Path) -> None:
    export(runs.load_run(run_folder(tmp_path / "run")), tmp_path / "out")
    (tmp_path / "out" / origin.NAME).unlink()
    with pytest.raises(FileNotFoundError, match="export the run again, or load it with diffusers"):
        flowleap.load(tmp_path / "out")


class Hub:
    """A stand-in for the interface of the hub, which keeps what it is asked."""

    def __init__(self, taken: bool = False, broken: bool = False) -> None:
        self.taken, self.broken, self.asked = taken, broken, list[tuple[Any, ...]]()

    def repo_exists(self, name: str) -> bool:
        self.asked.append(("exists", name))
        return self.taken

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
        self.asked.append(("create", name, private, exist_ok))
        return f"https://hub/{name}"

    def upload_folder(self, repo_id: str, folder_path: str, **about: Any) -> None:
        if self.broken:
            raise RuntimeError("the connection was lost")
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.asked.append(("upload", repo_id, names))


def train(out: Path, *words: str) -> Any:
    return CliRunner().invoke(
        app, ["train", "meanflow", "--data", "digits", "--out", str(out), *SMALL, *words]
    )


def test_a_run_is_published_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Hub()
    monkeypatch.setattr(hub, "api", lambda: there)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    result = train(tmp_path / "run", "--push-to-hub", "me/digits", "--private")
    assert result.exit_code == 0, result.output
    assert [one[0] for one in there.asked] == ["exists", "create", "upload"]
    assert {one[1] for one in there.asked} == {"me/digits"}
    assert there.asked[1][2:] == (True, False)
    assert {"README.md", "flowleap.json", "model_index.json", "network", "pipeline.py"} <= set(
        there.asked[2][2]
    )
    assert "https://hub/me/digits: uploaded" in result.stdout
    pipe = FlowleapPipeline.from_pretrained(tmp_path / "run" / "diffusers")
    pipe.set_progress_bar_config(disable=True)
    made = pipe(batch_size=2, seed=0, output_type="latent").images.clamp(-1, 1)
    assert (made - flowleap.load(tmp_path / "run", device="cpu").sample(2)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        (("--private",), {}, "only a model on the hub is private"),
        (("--push-to-hub", "digits"), {}, "an id such as your-name/digits is expected"),
        (("--push-to-hub", "me/digits"), {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, which forbids it"),
        (("--push-to-hub", "me/taken"), {}, "the hub has a model of this name"),
        (("--push-to-hub", "me/moons", "--data", "two-moons"), {}, "its samples are points"),
    ],
)
def test_what_cannot_be_published_is_refused_before_training(
    words: tuple[str, ...], env: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Hub(taken=True)
    monkeypatch.setattr(hub, "api", lambda: there)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    result = train(tmp_path / "run", *words)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.output
    assert not (tmp_path / "run").exists() and {one[0] for one in there.asked} <= {"exists"}


def test_an_upload_that_fails_leaves_the_run_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "api", lambda: Hub(broken=True))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    result = train(tmp_path / "run", "--push-to-hub", "me/digits")
    said = " ".join(result.stderr.split())
    assert result.exit_code == 2 and "the connection was lost" in said
    assert f"flowleap export diffusers {tmp_path / 'run'} DIR --push-to-hub me/digits" in said
    assert (tmp_path / "run" / "ema.safetensors").exists()


def test_nothing_is_sent_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "api", lambda: pytest.fail("the hub was asked"))
    assert train(tmp_path / "run").exit_code == 0
    assert not (tmp_path / "run" / "diffusers").exists()
