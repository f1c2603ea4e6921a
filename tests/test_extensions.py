"""Methods, parts and networks from a file of the user: the file in docs/extending.md, literally."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flowleap import extensions, methods, networks, runs, serialize
from flowleap.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
WORDS = ["--steps", "1", "--batch", "16", "--no-eval", "--sample-every", "0", "--device", "cpu"]
SMALL = [*WORDS, "--set", "evaluation.online_share=0", "--set", "network.width=16"]


def call(*words: object):
    return CliRunner(env={"COLUMNS": None}).invoke(app, [str(word) for word in words])


def ok(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


@pytest.fixture
def file(tmp_path):
    """The file of the page; what it defines is known only during a test."""
    found = tmp_path / "two_jumps.py"
    found.write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], encoding="utf-8")
    yield found
    forget()


def forget():
    for one in extensions.loaded():
        extensions.forget(one.name)


@pytest.mark.slow
def test_the_file_of_the_page_is_shown_trained_sampled_and_never_run_unasked(file, tmp_path):
    run = tmp_path / "run"
    given = ["--import", file]
    told = json.loads(ok("methods", "diff", "two-jumps", "shortcut", "--json", *given))
    assert {row["field"] for row in told} == {"target", "loss"}
    ok("train", "two-jumps", "--network", "Tiny", "--out", run, *SMALL, *given)
    config = json.loads((run / "config.json").read_text())["config"]
    copy = run / "imports" / "two_jumps.py"
    assert copy.read_bytes() == file.read_bytes() and list(config["imports"]) == ["two_jumps.py"]

    forget()
    copy.write_text("raise SystemExit('run unasked')")
    result = call("sample", run)
    assert result.exit_code == 2 and f"add --import {copy}" in result.stderr and "unasked" in result.stderr
    assert "Cauchy, Tiny, TwoJumps" in result.stderr

    ok("sample", run, "--num", "2", *given)
    file.write_text(file.read_text() + "\n# changed\n")
    assert "not as it was when" in call("sample", run, "--num", "2", "--overwrite", *given).stderr


def test_parts_and_networks_fit_methods_of_flowleap(file):
    extensions.imported(file)
    config = runs.configure("meanflow", network="Tiny", settings=[("loss", "Cauchy"), ("loss.c", "2")])
    assert config.objective.loss.c == 2.0 and config.network["width"] == 64
    learned = runs.configure("esc", network="Tiny")
    assert learned.network["kind"] == "WithLogVariance", "a network without a log-variance is given one"
    with pytest.raises(ValueError, match=r"network.width='wide' does not fit: Tiny.width is int"):
        runs.configure("meanflow", network="Tiny", settings=[("network.width", "wide")])
    assert serialize.from_dict(serialize.to_dict(methods.get("two-jumps"))) == methods.get("two_jumps")
    with pytest.raises(ValueError, match="did you mean Tiny"):
        runs.configure("meanflow", network="Tinny")


def test_a_file_again_changes_nothing_a_changed_one_takes_its_place_and_a_namesake_is_refused(file):
    first = extensions.imported(file)
    assert extensions.imported(file) is first
    file.write_text(file.read_text().replace("c=0.5", "c=0.25"))
    extensions.imported(file)
    assert methods.get("two_jumps").loss.c == 0.25
    other = file.parent / "other" / file.name
    other.parent.mkdir()
    other.write_text(file.read_text())
    with pytest.raises(ValueError, match="have the same name"):
        extensions.imported(other)
    forget()
    assert "two_jumps" not in methods.names() and not networks.known("Tiny") and not serialize.known("Cauchy")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "defines no method"),
        ("x = 1\ny = x / 0", "cannot be imported: ZeroDivisionError: division by zero, line 2"),
        ("x =", "cannot be imported: invalid syntax, line 1"),
        (
            "from flowleap import Objective\ndef esc() -> Objective:\n    return Objective()",
            "a method esc already",
        ),
        ("from dataclasses import dataclass\n@dataclass\nclass PlugIn:\n    pass", "a part PlugIn already"),
        ("from torch import nn\nclass DiT(nn.Module):\n    pass", "a network DiT already"),
    ],
)
def test_files_that_are_of_no_use_are_refused_and_leave_nothing_known(tmp_path, text, said):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        extensions.imported(file)
    assert extensions.loaded() == ()


@pytest.mark.parametrize(
    ("source", "said"), [("no.py", "no such file"), ("no_module", "no file and no module")]
)
def test_files_and_modules_that_are_not_there_are_named(source, said):
    result = call("methods", "list", "--import", source)
    assert result.exit_code == 2 and said in result.stderr


IN_FLOWLEAP = f"""
import pytest
from typer.testing import CliRunner
from flowleap.cli import app

assert pytest.main(["-q", "-p", "no:cacheprovider", "-c", "none.ini", "test_conformance.py", "-k", "two_jumps"]) == 0
for line in (
    "methods show two-jumps", "cite two-jumps", "train two-jumps --out run {" ".join(SMALL)}", "sample run --num 2",
    "compare --methods two-jumps,shortcut --budget 8steps --seeds 1 --num 80 --show 1 --batch 16 --device cpu",
):
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, (line, result.stderr, result.exception)
    print(result.stdout)
"""


@pytest.mark.slow
def test_a_method_is_added_to_flowleap_as_the_page_says(file, tmp_path):
    """One file, one function, one line of the conformance suite: tested, shown, cited, trained, sampled, compared."""
    room = tmp_path / "flowleap"
    shutil.copytree(ROOT / "src" / "flowleap", room, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(r"^   ```python\n(.*?)^   ```", PAGE, re.DOTALL | re.MULTILINE)
    imports, export, function = map(textwrap.dedent, blocks)
    lines = file.read_text().splitlines()
    nodes = ast.parse(file.read_text()).body
    usual = [ast.unparse(one) for one in nodes if isinstance(one, ast.Import | ast.ImportFrom)]
    usual = [line for line in usual if "flowleap" not in line]
    (found,) = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name == "TwoJumps"]
    body = lines[found.decorator_list[0].lineno - 1 : found.end_lineno]
    (room / "objectives" / "two_jumps.py").write_text("\n".join([*usual, imports, *body]) + "\n")
    for path, before, added in (
        (room / "objectives" / "__init__.py", "\n__all__", f"\n{export}"),
        (room / "methods.py", "\n_METHODS:", f"\n{function}\n"),
        (room / "methods.py", '    "esc": esc,\n', '    "two_jumps": two_jumps,\n'),
        (room / "methods.py", '    "about",\n', '    "two_jumps",\n'),
    ):
        text = path.read_text()
        assert text.count(before) == 1, (path, before)
        path.write_text(text.replace(before, added + before))
    suite = (ROOT / "tests" / "test_conformance.py").read_text()
    (line,) = re.findall(r"in `OBJECTIVES`: `(.*?)`", PAGE)
    (tmp_path / "test_conformance.py").write_text(
        suite.replace("OBJECTIVES = (\n", f"OBJECTIVES = (\n    {line}\n")
    )
    (tmp_path / "none.ini").touch()
    done = subprocess.run(
        [sys.executable, "-c", IN_FLOWLEAP], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "TwoJumps" in done.stdout and "frans2024one" in done.stdout


@pytest.mark.slow
def test_the_file_of_the_page_is_typed_strictly(file, monkeypatch):
    api = pytest.importorskip("mypy.api")
    monkeypatch.setenv("MYPYPATH", str(ROOT / "src"))
    cache = ROOT / ".mypy_cache" / "strict"  # with other options mypy would begin anew in the same place
    out, err, code = api.run(
        ["--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={cache}", str(file)]
    )
    assert code == 0, out + err
