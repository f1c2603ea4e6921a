"""The scripts and the notebook in examples/ do what they say, with a few training steps."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from flowleap import extensions
from flowleap.export import runtime
from flowleap.networks.options import core
from served import or_skip

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FIGURES = {"idea"}
"""Scripts that draw a figure of the documentation."""


def loop(told: str) -> None:
    assert "one-step distance after training" in told
    assert Image.open("two_moons.png").width > 100


def network(told: str) -> None:
    config = json.loads(Path("runs/own-network/config.json").read_text())["config"]
    assert core(config["network"])["kind"] == "Convolutions" and config["schedule"]["steps"] == 3
    assert Image.open("own_network.png").width > 100


def objective(told: str) -> None:
    for start in ("thirds: distance", "meanflow: distance"):
        rows = [line for line in told.splitlines() if line.startswith(start)]
        assert [row.split()[-2] for row in rows] == ["1", "4"], told


def folder_to_web(told: str) -> None:
    assert len(list(Path("photos").rglob("*.png"))) == 1797 and "page: model and page have" in told
    assert {"index.html", "model.onnx", "onnxruntime.wasm"} <= {path.name for path in Path("page").iterdir()}


def in_diffusers(told: str) -> None:
    assert "8 images of (8, 8) pixels, of class 7" in told
    assert Path("digits-pipeline/model_index.json").exists() and Image.open("in_diffusers.png").width > 100


CHECKS: dict[str, Callable[[str], None]] = {
    "folder_to_web": folder_to_web,
    "in_diffusers": in_diffusers,
    "own_loop": loop,
    "own_network": network,
    "own_objective": objective,
}
"""What each script must leave in its folder and print."""


def test_every_script_is_checked() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == CHECKS.keys() | FIGURES


@pytest.fixture
def script(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """A script, in an empty folder, with a few training steps."""
    spec = importlib.util.spec_from_file_location(request.param, EXAMPLES / f"{request.param}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, request.param, module)  # where dataclasses look names up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STEPS", 3)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)
    before = extensions.loaded()
    yield module
    for one in set(extensions.loaded()) - set(before):
        extensions.forget(one.name)


@pytest.mark.slow
@pytest.mark.parametrize("script", CHECKS, indirect=True)
def test_a_script_runs(script: ModuleType, with_pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    if script.__name__ == "folder_to_web":
        or_skip(runtime.found)
    script.main()
    CHECKS[script.__name__](capsys.readouterr().out)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    text = (EXAMPLES / "digits.ipynb").read_text(encoding="utf-8")
    assert text.count("STEPS = 1500") == 1
    notebook = nbformat.reads(text.replace("STEPS = 1500", "STEPS = 3"), as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    sizes = [Image.open(BytesIO(b64decode(picture))).size for picture in shown]
    assert len(sizes) == 3 and min(width for width, _ in sizes) > 100, sizes
    assert not [output for output in outputs if output["output_type"] == "error"]
