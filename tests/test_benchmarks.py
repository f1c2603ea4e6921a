"""The benchmarks of time run, each as small as it can be, and leave a page, its numbers and its picture."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["step_cost", "scaling", "digits_profile", "sampling", "memory", "drawing", "peers"]
)
def test_a_smoke_run_leaves_a_page_its_numbers_and_a_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = BENCHMARKS / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--tiny", "--threads", "1", "--write", str(tmp_path)])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(script), run_name="__main__")
    numbers = json.loads((tmp_path / f"{name}.json").read_text())
    assert numbers["command"] == f"uv run python benchmarks/{name}.py --tiny --threads 1 --write"
    assert {"machine", "CPU threads", "torch"} <= numbers["about"].keys()
    assert (tmp_path / f"{name}.md").read_text().startswith("# ")
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
