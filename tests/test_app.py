"""What the app does behind its page: runs, samples, HTML, curves, and what its server answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import export_runs
from flowleap import data, runs, samplers
from flowleap.app import curves, markup, sampling, server
from flowleap.app.library import KEPT, Library, Recent, found
from flowleap.app.sampling import Asked, between, interpolated, knob, make
from flowleap.cli import app
from flowleap.model import load
from flowleap.training import checkpoint

HOSTILE = ('<img src=x onerror="window.broken=1">', "a \"quoted\" & 'name'", "${window.broken=1} {{x}}")
ROW = {
    "seconds": 1.0,
    "images_per_second": 900.0,
    "raw_error": 0.5,
    "grad_norm": 0.3,
    "lr": 1e-3,
    "skipped": 0,
}


def log(place: Path, *steps: int) -> None:
    """Write a log of these steps."""
    lines = [json.dumps({"step": step, **ROW}) for step in steps]
    (place / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: one of classes with hostile names, one of points, and one without weights."""
    home = tmp_path_factory.mktemp("home")
    export_runs.run_folder(home / "images", dataset=export_runs.images(HOSTILE))
    points = export_runs.images((), (2,), kind="points")
    export_runs.run_folder(home / "points", network="mlp", dataset=points)
    begun = export_runs.run_folder(home / "begun", dataset=export_runs.images())
    for name in ("network", "ema"):
        (begun / f"{name}.safetensors").unlink()
    log(begun, 1, 2, 3)
    return home


@pytest.fixture(scope="module")
def library(home: Path) -> Library:
    return Library([home], device="cpu")


# ---------------------------------------------------------------- runs


def test_runs_are_found_the_newest_first_and_by_their_names(home: Path) -> None:
    for age, name in enumerate(("points", "begun", "images")):
        os.utime(home / name / "config.json", (1e9 - age, 1e9 - age))
    assert list(found([home])) == ["points", "begun", "images"]
    assert found([home / "images", home]) == {name: home / name for name in ("images", "points", "begun")}


def test_names_that_repeat_have_those_of_their_parents(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "runs" / "esc").mkdir(parents=True)
        (tmp_path / parent / "runs" / "esc" / "config.json").write_text("{}")
    (tmp_path / "a" / "runs").rename(tmp_path / "a" / "own")
    assert set(found([tmp_path / "a" / "own", tmp_path / "b"])) == {"own/esc", "runs/esc"}


def test_without_runs_it_says_what_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, message in (
        ([], "there is no run in runs/: train one first, with flowleap train"),
        (["nothing"], "nothing holds no run"),
    ):
        result = CliRunner().invoke(app, ["app", *words])
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_a_missing_extra_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["app", str(home)])
    assert result.exit_code == 2 and "pip install 'flowleap[app]'" in result.stderr


def test_only_listed_runs_are_opened(library: Library, home: Path) -> None:
    with pytest.raises(ValueError, match="there is no run"):
        library.model(str(home / "images"))
    with pytest.raises(FileNotFoundError, match="has no weights yet"):
        library.model("begun")


def test_a_run_that_is_gone_is_said(tmp_path: Path) -> None:
    export_runs.run_folder(tmp_path / "gone")
    library = Library([tmp_path])
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(ValueError, match="there is no run 'gone': reload the page"):
        library.model("gone")


def test_a_model_is_read_again_where_its_weights_have_changed(tmp_path: Path) -> None:
    place = export_runs.run_folder(tmp_path / "run")
    own = Library([place], device="cpu")
    before = own.model("run")
    assert own.model("run") is before
    weights = {name: value + 1 for name, value in before.network.state_dict().items()}
    checkpoint.write_tensors(place / "ema.safetensors", weights, before.run.step)
    os.utime(place / "ema.safetensors", (2e9, 2e9))
    after = own.model("run")
    assert after is not before and not torch.equal(after.sample(1), before.sample(1))


def test_few_models_are_kept() -> None:
    recent: Recent[int] = Recent()
    for index in range(KEPT + 1):
        recent.get(str(index), None, lambda index=index: index)  # type: ignore[misc]
    assert recent.get("1", None, lambda: -1) == 1 and recent.get("0", None, lambda: -1) == -1


def test_training_data_are_those_of_the_run_or_the_reason_is_told(library: Library, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="random"):
        library.real("images")
    place = export_runs.run_folder(tmp_path / "digits", dataset=data.load("digits"))
    assert Library([place], device="cpu").real("digits").shape == (1, 8, 8)


# ---------------------------------------------------------------- samples


def test_samples_are_those_of_the_library(home: Path, library: Library) -> None:
    made = make(library.model("images"), Asked(num=5, label=1, steps=2, seed=7))
    assert torch.equal(made.samples, load(home / "images", device="cpu").sample(5, 1, 2, 7))
    assert made.nfe == 2 and made.names == [HOSTILE[1]] * 5
    assert len(make(library.model("points"), Asked(num=1)).samples) == sampling.POINTS


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num": 65}, "num=65: a whole number from 1 to 64"),
        ({"num": 0}, "num=0"),
        ({"steps": 129}, "steps=129: a whole number from 1 to 128"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": None}, "seed: a number is expected"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"guidance": float("nan")}, "guidance: a number"),
        ({"num": "9"}, "num: a number"),
    ],
)
def test_more_than_a_batch_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Asked(**asked)


def test_guidance_is_there_where_the_model_knows_it(library: Library, tmp_path: Path) -> None:
    place = export_runs.run_folder(tmp_path / "dropped", label_dropout="0.2")
    model = load(place, device="cpu")
    assert knob(library.model("points")) is None and knob(library.model("images")) is None
    assert make(library.model("images"), Asked(num=3, guidance=3.0)).guidance is None
    assert knob(model) == sampling.Knob(1.0, sampling.SCALE, 2)
    both = make(model, Asked(num=3, guidance=3.0))
    assert (both.guidance, both.nfe) == (3.0, 2)
    assert make(model, Asked(num=3, guidance=1.0)).nfe == 1
    place = export_runs.run_folder(
        tmp_path / "told", **{"label_dropout": "0.2", "guidance": "GuidanceInput", "guidance.largest": "5"}
    )
    model = load(place, device="cpu")
    assert knob(model) == sampling.Knob(2.0, 5.0, 1)
    assert make(model, Asked(num=3, guidance=9.0)).guidance == 5.0


def test_interpolation_begins_and_ends_at_the_samples_of_both_seeds(library: Library) -> None:
    model = library.model("images")
    made = interpolated(model, Asked(num=3, steps=1, seed=4), 9, 5)
    rows = made.samples.unflatten(0, (3, 5))
    for end, seed in ((0, 4), (-1, 9)):
        assert torch.allclose(rows[:, end], model.sample(3, seed=seed), atol=1e-5)
    assert made.label is not None and made.label.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    for other, frames, message in ((4, 5, "both seeds are 4"), (5, 30, "more than 64"), (5, 1, "frames=1")):
        with pytest.raises(ValueError, match=message):
            interpolated(model, Asked(num=3, seed=4), other, frames)


def test_noise_between_two_seeds_is_as_long_as_theirs() -> None:
    a, b = samplers.noise(0, range(2), (1, 8, 8)), samplers.noise(1, range(2), (1, 8, 8))
    a, b = (
        a / a.flatten(1).norm(dim=1)[:, None, None, None],
        b / b.flatten(1).norm(dim=1)[:, None, None, None],
    )
    walk = between(a, b, 7)
    assert torch.allclose(walk.flatten(2).norm(dim=2), torch.ones(2, 7), atol=1e-6)
    assert torch.allclose(walk[:, 0], a, atol=1e-6) and torch.allclose(walk[:, -1], b, atol=1e-6)
    assert torch.allclose(between(a, a, 3), a[:, None].expand(-1, 3, -1, -1, -1))


# ---------------------------------------------------------------- HTML


def test_names_of_classes_and_runs_are_escaped(library: Library) -> None:
    made = make(library.model("images"), Asked(num=3))
    text = markup.samples(made) + markup.about(made) + markup.message(HOSTILE[0], "error")
    text += (
        markup.section(HOSTILE[0]) + markup.table([HOSTILE[0]], [[HOSTILE[0]]]) + markup.facts([HOSTILE[0]])
    )
    assert text.count("<img") == text.count('<img src="data:image/png;base64,') == 3
    assert "onerror=&quot;" in text and 'onerror="' not in text


def test_points_are_drawn_and_latents_say_what_decodes_them(library: Library, tmp_path: Path) -> None:
    assert "<path" in markup.samples(make(library.model("points"), Asked()))
    latents = export_runs.images((), (4, 8, 8), kind="latents")
    model = load(export_runs.run_folder(tmp_path / "latents", dataset=latents), device="cpu")
    assert "--vae" in markup.samples(make(model, Asked(num=1)))


def test_curves_go_on_with_the_log(home: Path, tmp_path: Path) -> None:
    text = curves.show(home / "begun", "begun")
    total = runs.length(runs.read_config(home / "begun"))
    assert f"step 3 of {total}" in text and text.count("<svg") == 3 and "Unweighted error" in text
    before = curves.stamp(home / "begun")
    log(home / "begun", 1, 2, 3, 4)
    assert curves.stamp(home / "begun") != before and f"step 4 of {total}" in curves.show(home / "begun", "x")
    row = {"step": 2, "nfe": 1, "weights": "ema-0.999@2", "distance": 1.25, "metric": "FD-pixel"}
    (home / "begun" / "quality.jsonl").write_text(json.dumps(row) + "\n")
    assert "<td>1.25</td>" in curves.show(home / "begun", "x")
    assert "without the log" in curves.show(tmp_path, "x")


# ---------------------------------------------------------------- server


def answered(path: str, host: str = "127.0.0.1:1", origin: str | None = None, local: bool = True) -> int:
    """Return the status that the guard answers with, 200 where it lets a request pass."""
    said: list[Any] = []

    async def passed(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        said.append(message)

    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(server.Guard(passed, local=local)(scope, None, send))  # type: ignore[arg-type]
    assert dict(said[0]["headers"])[b"content-security-policy"].startswith(b"default-src 'self'")
    return int(said[0]["status"])


def test_what_the_page_needs_is_answered_and_nothing_else() -> None:
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/queue/join", "/gradio_api/heartbeat/abc"):
        assert answered(path) == 200, path
    for path in (
        "/gradio_api/file=/etc/hostname", "/file=/etc/hostname", "/gradio_api/upload", "/gradio_api/proxy=http://x",
        "/assets/../../etc/hostname", "/gradio_api/info", "/monitoring", "/docs",
    ):  # fmt: skip
        assert answered(path) == 404, path


def test_other_hosts_and_origins_are_refused() -> None:
    assert answered("/", "example.org") == 403 and answered("/", "example.org", local=False) == 200
    assert answered("/", "localhost:7") == 200 and answered("/", "[::1]:7") == 200
    assert answered("/", origin="http://example.org") == 403
    assert answered("/", origin="http://127.0.0.1:1") == 200


def test_a_port_that_is_taken_is_named(home: Path) -> None:
    with server.bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["app", str(home), "--port", str(port)])
    assert result.exit_code == 2
    assert (
        f"port {port} of 127.0.0.1 is taken by another program: choose another with --port" in result.stderr
    )
    with pytest.raises(ValueError, match="cannot be used"):
        server.bound("203.0.113.1", 0)
    assert not server.is_loopback("0.0.0.0") and server.is_loopback("::1")
