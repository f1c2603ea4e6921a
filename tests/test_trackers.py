"""Trackers: TensorBoard reads what a run logged; a run goes on in the same place, and where a tracker fails."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from flowleap import runs
from flowleap.training import trackers
from flowleap.training.trackers import KINDS, Tracker, Trackers

SMALL = {"batch": 20, "eval_num": 100, "sample_every": 2, "log_every": 1, "device": "cpu", "threads": 1}


def configured(steps: int = 4, **changes: Any) -> runs.TrainConfig:
    settings = [("network.width", 32), ("network.depth", 1), ("evaluation.online_share", 0)]
    about = {**SMALL, "steps": steps, "show": (1,), **changes}
    return runs.configure("meanflow", "digits", network="mlp", settings=settings, **about)


class Remembering(Tracker):
    """A tracker that keeps what it is sent."""

    package = "tensorboard"
    sent: ClassVar[list[tuple[Any, ...]]] = []
    broken: ClassVar[set[str]] = set()

    def begun(self) -> Any:
        return self

    def start(self) -> None:
        self.note("start", self.step, self.id)

    def note(self, what: str, *about: Any) -> None:
        if what in self.broken:
            raise RuntimeError(f"{what} is broken\nsecond line")
        self.sent.append((what, *about))

    def config(self, values: Any) -> None:
        self.note("config", dict(values))

    def log(self, values: dict[str, Any], step: int) -> None:
        self.note("log", values, step)

    def picture(self, path: Path, step: int) -> None:
        self.note("picture", path.name, step)

    def finish(self) -> None:
        self.note("finish")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setitem(KINDS, "tensorboard", Remembering)
    monkeypatch.setattr(Remembering, "sent", [])
    monkeypatch.setattr(Remembering, "broken", set())
    return Remembering.sent


def kinds(sent: list[tuple[Any, ...]]) -> list[str]:
    return [what for what, *_ in sent]


@pytest.mark.slow
def test_a_run_sends_all_it_logs_and_goes_on_in_the_same_place(
    sent: list[tuple[Any, ...]], tmp_path: Path, with_pictures: None
) -> None:
    config = configured(track=("tensorboard",))
    place = runs.train(config, tmp_path / "run").folder
    assert kinds(sent)[:2] == ["start", "config"] and kinds(sent)[-1] == "finish"
    assert sent[1][1] == config.flat()
    logged = {step: values for what, values, step in (row for row in sent if row[0] == "log")}
    metrics = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert sorted(logged) == [1, 2, 3, 4] and logged[2]["train/loss"] == metrics[1]["loss"]
    table = json.loads((place / "table.json").read_text())
    assert logged[4]["table/distance at 1 steps"] == table[0]["distance"]
    drawn = [row[1:] for row in sent if row[0] == "picture"]
    assert drawn and all((place / "samples" / name).exists() for name, _ in drawn)
    first = sent[0][2]
    sent.clear()
    with pytest.warns(UserWarning, match="4 steps become 5"):
        runs.train(configured(5, track=("tensorboard",)), place, resume=True)
    assert sent[0] == ("start", 4, first) and "config" not in kinds(sent)
    assert {row[2] for row in sent if row[0] == "log"} == {5}


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["start", "config", "log", "picture", "finish"])
def test_a_tracker_that_fails_does_not_stop_a_run(
    broken: str,
    sent: list[tuple[Any, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    with_pictures: None,
) -> None:
    Remembering.broken.add(broken)
    result = runs.train(configured(2, track=("tensorboard",)), tmp_path / "run")
    assert result.step == 2 and result.signal is None and (result.folder / "ema.safetensors").exists()
    said = capsys.readouterr().out
    assert said.count("the tracker tensorboard failed and is sent nothing more") == 1
    assert f"{broken} is broken" in said and "second line" not in said
    assert broken not in kinds(sent)


@pytest.mark.slow
def test_a_damaged_file_of_ids_begins_anew(tmp_path: Path, sent: list[tuple[Any, ...]]) -> None:
    said: list[str] = []
    for text in ("{", "[1]"):
        (tmp_path / "trackers.json").write_text(text)
        Trackers(["tensorboard"], tmp_path, 3, said.append).start({})
        assert list(json.loads((tmp_path / "trackers.json").read_text())) == ["tensorboard"]
    assert len(said) == 2 and all("trackers begin a new run" in line for line in said)
    assert kinds(sent) == ["start", "config", "start", "config"]


def test_tensorboard_holds_scalars_pictures_settings_and_table(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    picture, said = tmp_path / "step-000002.png", []
    Image.new("RGB", (30, 20), (255, 0, 0)).save(picture)
    rows = [{"steps": 1, "nfe": 1, "distance": 2.5, "metric": "FD"}]
    for done, more in ((0, [1, 2, 3]), (2, [3, 4])):
        told = Trackers(["tensorboard"], tmp_path, done, said.append)
        told.start({"seed": 3})
        for step in more:
            told.log({"step": step, "loss": step + 0.5 * done, "norm": None})
        told.picture(picture, 2 + done)
        told.finish()
    assert said == []
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0)], (
        "the numbers of step 3 are those of the run that went on"
    )
    assert found.Tags()["images"] == ["samples"] and found.Images("samples")[0].width == 30
    assert "config/text_summary" in found.Tags()["tensors"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["tensorboard"]
    assert trackers.finite(rows[0]) == {"steps": 1.0, "nfe": 1.0, "distance": 2.5}


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_what_accelerate_is_given_is_what_it_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trackers that are not installed here are made with arguments that Accelerate has, by one id for a run."""
    tracking = pytest.importorskip("accelerate.tracking")
    kind = {"wandb": "WandBTracker", "trackio": "TrackioTracker", "mlflow": "MLflowTracker"}[name]
    made: list[dict[str, Any]] = []
    signature = inspect.signature(getattr(tracking, kind).__init__)

    class StandIn:
        tracker: Any = type("Run", (), {"info": type("Info", (), {"run_id": "one"})()})()

        def __init__(self, *args: Any, **about: Any) -> None:
            bound = signature.bind(self, *args, **about)
            made.append({**bound.arguments, **bound.arguments.get("kwargs", {})})

        def start(self) -> None:
            pass

        store_init_configuration = finish = lambda self, *about: None

    monkeypatch.setattr(tracking, kind, StandIn)
    for _ in range(2):
        told = Trackers([name], tmp_path / "run", 0, pytest.fail)
        (tmp_path / "run").mkdir(exist_ok=True)
        told.start({})
        told.finish()
    first, second = made
    if name == "mlflow":
        assert (first["run_id"], second["run_id"]) == (None, "one")
    else:
        by = "id" if name == "wandb" else "name"
        assert first[by] == second[by] and first["resume"] == "allow"


def test_unknown_and_missing_trackers_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--track wandb needs the package wandb: pip install wandb"):
        runs.train(configured(track=("wandb",)), tmp_path / "run")
    with pytest.raises(ValueError, match="did you mean tensorboard"):
        runs.train(configured(track=("tensorbord",)), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert configured().track == ()
