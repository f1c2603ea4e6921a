"""The parts of the page that generates in a browser: its noise, its runtime, its text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flowleap import samplers
from flowleap.export import npm, runtime, web
from flowleap.export.npm import Package

HOSTILE = ["\"quotes\" & 'more'", "</script><img src=x onerror=alert(1)>", "<!--"]
ABOUT = {
    "classes": HOSTILE,
    "shape": [3, 8, 8],
    "image": [3, 8, 8],
    "times": {"1": [1.0, 0.0], "4": [1.0, 0.75, 0.5, 0.25, 0.0]},
    "guidance": None,
    "precision": "fp32",
    "sampler": "chain",
    "start": 1.0,
    "end": 0.0,
    "files": [{"name": "model.onnx", "bytes": 1}, {"name": "onnxruntime.wasm", "bytes": 2}],
    "noise": {"stream": 4044060355, "drawn": "so"},
}
RUN = SimpleNamespace(
    folder=Path("runs/esc"),
    kind="image",
    shape=(3, 8, 8),
    network=torch.nn.Linear(2, 2),
    weights="ema",
    flow=SimpleNamespace(guidance_input=False),
    config=SimpleNamespace(method="esc", data=SimpleNamespace(name="digits"), network={"kind": "DiT"}),
)


# ------------------------------------------------------------------ noise


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_noise_of_the_page_is_that_of_samples():
    """Sizes that are, and are not, multiples of the sixteen numbers that torch makes at a time; seeds of two words."""
    asked = [[0, 0], [7, 3], [2**32 - 1, 63], [2**40 + 5, 2]]
    for shape in ((1, 8, 8), (3, 5, 5), (16,)):
        size = torch.Size(shape).numel()
        script = (
            f"{(web.PAGE / 'noise.js').read_text()}\nconst noise = makeNoise({web.STREAM_KEY}, {size});"
            f"console.log(JSON.stringify({json.dumps(asked)}.map(([seed, index]) => [...noise(seed, index)])));"
        )
        done = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60, check=True)
        made = torch.tensor(json.loads(done.stdout))
        for (seed, index), row in zip(asked, made, strict=True):
            torch.testing.assert_close(row, samplers.noise(seed, [index], shape).flatten(), atol=2e-6, rtol=0)


# ------------------------------------------------------------------ text


class Parts(HTMLParser):
    """The elements of a page by their names, with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.text.setdefault(tag, []).append("")
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.text[self.inside][-1] += data


def test_text_of_users_is_harmless_in_the_page():
    parts = Parts(web.page(RUN, ABOUT, HOSTILE[1], "1.30.0"))
    names = [tag for tag, _ in parts.elements]
    assert "img" not in names and names.count("script") == 2
    assert parts.text["h1"] == [HOSTILE[1]]
    held, _ = parts.text["script"]
    assert json.loads(held)["classes"] == HOSTILE
    assert not set("<>&") & set(held)
    assert [text for text in parts.text["span"] if text in HOSTILE] == HOSTILE


def test_the_policy_allows_this_script_and_this_style_alone():
    parts = Parts(web.page(RUN, ABOUT, None, "1.30.0"))
    policy = next(
        a["content"] for tag, a in parts.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    rules = {name: words for name, *words in (rule.split() for rule in (policy or "").split(";"))}
    digests = {
        kind: "'sha256-"
        + base64.b64encode(hashlib.sha256(parts.text[kind][-1].encode()).digest()).decode()
        + "'"
        for kind in ("script", "style")
    }
    assert rules == {
        "default-src": ["'none'"],
        "connect-src": ["'self'"],
        "img-src": ["data:", "blob:"],
        "style-src": [digests["style"]],
        "script-src": ["'self'", digests["script"], "'wasm-unsafe-eval'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert not any("style" in attributes for _, attributes in parts.elements)
    assert not any(name.startswith("on") for _, attributes in parts.elements for name in attributes)


def test_many_classes_are_a_list_and_none_are_nothing():
    many = web.page(RUN, ABOUT | {"classes": [str(n) for n in range(web.CHIPS + 1)]}, None, "1.30.0")
    assert many.count("<option") == web.CHIPS + 1 and 'type="radio"' not in many
    none = web.page(RUN, ABOUT | {"classes": []}, None, "1.30.0")
    assert "<fieldset" not in none and 'id="turns"' not in none


def test_the_title_says_data_and_steps():
    assert "<title>digits in one step</title>" in web.page(RUN, ABOUT, None, "1.30.0")
    assert f"<title>{html.escape('a < b')}</title>" in web.page(RUN, ABOUT, "a < b", "1.30.0")


@pytest.mark.parametrize(
    ("changes", "steps", "said"),
    [
        ({}, (1,), "two numbers of steps"),
        ({"kind": "points", "shape": (2,)}, (1, 4), "are points"),
        ({"kind": "latents", "shape": (4, 8, 8)}, (1, 4), "--decode"),
        ({"shape": (2, 8, 8)}, (1, 4), "2 channels"),
        ({"shape": (1, 3, 3)}, (1, 4), "fewer than 16 numbers"),
    ],
)
def test_what_the_page_cannot_show_is_refused_before_anything_is_written(tmp_path, changes, steps, said):
    run = SimpleNamespace(**vars(RUN) | changes)
    with pytest.raises(ValueError, match=re.escape(said)):
        web.write(run, tmp_path / "page", steps=steps)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "model.onnx").write_text("another")
    with pytest.raises(ValueError, match="something else than a page of flowleap, and is left as it is"):
        web.write(RUN, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"thesis.txt", "model.onnx"}


# ------------------------------------------------------------------ runtime


@pytest.fixture
def archive(tmp_path) -> Path:
    """What `npm pack` writes, with small files in the place of large ones."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name in runtime.CPU.names:
        (folder / Path(name).name).write_text("/*!\n * ONNX Runtime Web v1.30.0\n */")
    file = tmp_path / runtime.PACKAGE.archive
    with tarfile.open(file, "w:gz") as made:
        made.add(tmp_path / "package", "package")
    return file


@pytest.fixture
def package(archive, monkeypatch, tmp_path) -> Package:
    """The same package, with the checksum of that archive, an empty cache, and an npm that copies it."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program(tmp_path, monkeypatch, f'cp "{archive}" .')
    return replace(runtime.PACKAGE, integrity=f"sha512-{digest}")


def program(tmp_path: Path, monkeypatch, line: str) -> None:
    """Put a program npm of one line in the place of the real one."""
    file = tmp_path / "bin" / "npm"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)
    monkeypatch.setattr(npm, "program", lambda: str(file))


def test_npm_is_asked_once(package, tmp_path, monkeypatch):
    first = package.packed()
    assert first.is_relative_to(tmp_path / "cache") and package.is_whole(first)
    program(tmp_path, monkeypatch, "echo asked again >&2; exit 1")
    assert package.packed() == first


def test_a_damaged_archive_is_brought_again(package):
    package.packed().write_bytes(b"half")
    assert package.is_whole(package.packed())


def test_another_file_than_expected_is_refused(package, tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, f"echo something else > {package.archive}")
    with pytest.raises(OSError, match="checksum differs"):
        package.packed()
    assert not (tmp_path / "cache" / "flowleap" / package.archive).exists()


def test_without_npm_it_is_said_what_to_do(package, tmp_path, monkeypatch):
    monkeypatch.setattr(npm, "program", lambda: None)
    with pytest.raises(
        OSError, match=r"install Node.js or pip install 'flowleap\[web\]'.*npm pack .*--runtime"
    ):
        package.packed()
    program(tmp_path, monkeypatch, "echo no network >&2; exit 1")
    with pytest.raises(OSError, match=r"\(no network\).*npm pack .*--runtime"):
        package.packed()


def test_npm_is_found_beside_python(tmp_path, monkeypatch):
    for folder in ("bin", "elsewhere"):
        (tmp_path / folder).mkdir()
    file = tmp_path / "bin" / "npm"
    file.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(npm.sys, "executable", str(tmp_path / "bin" / "python"))
    assert npm.program() == str(file)


def test_the_runtime_is_taken_from_an_archive_or_a_folder(archive, tmp_path):
    places = (archive, tmp_path, tmp_path / "package", tmp_path / "package" / "dist")
    for place in places:
        assert sorted(runtime.found(given=place)) == ["onnxruntime.js", "onnxruntime.wasm"]
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        runtime.found(given=tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="unpacked package of npm is expected"):
        runtime.found(given=tmp_path / "package" / "dist" / "..", build=runtime.GPU)
    (tmp_path / "text.tgz").write_text("no archive")
    with pytest.raises(ValueError, match="no archive that npm pack writes"):
        runtime.found(given=tmp_path / "text.tgz")


def test_another_version_of_the_runtime_is_said(tmp_path):
    for name in runtime.CPU.names:
        (tmp_path / Path(name).name).write_text("/*!\n * ONNX Runtime Web v1.29.1\n */")
    with pytest.warns(UserWarning, match=r"onnxruntime-web 1\.29\.1, and the page is tested with 1\.30\.0"):
        runtime.found(given=tmp_path)


def test_files_of_the_wheel_come_before_those_of_the_cache(tmp_path, monkeypatch, package):
    pytest.importorskip("onnxruntime", reason="onnxruntime, which has the licenses, is not installed")
    monkeypatch.setattr(runtime, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(runtime, "PACKAGE", package)
    assert runtime.found()["onnxruntime.js"].startswith(b"/*!")
    runtime.main()
    monkeypatch.setattr(npm, "program", lambda: None)
    shutil.rmtree(tmp_path / "cache")
    assert sorted([*runtime.found(), "LICENSES.txt"]) == sorted(
        path.name for path in (tmp_path / "shipped").iterdir()
    )
    assert "MIT License" in (tmp_path / "shipped" / "LICENSES.txt").read_text(encoding="utf-8")
