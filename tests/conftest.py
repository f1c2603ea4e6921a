"""Settings that all tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

# Parallel workers, and the commands they start, share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if sys.dont_write_bytecode:
    # Compiling torch and the tests anew takes each worker 25 s, and each command that a test starts 5 s. The bytecode
    # goes where it does not lie beside the sources.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

import pytest
from hypothesis import settings

# The same examples on every run and no stopwatch: torch's first call of a kind may take seconds.
settings.register_profile("flowleap", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("flowleap")


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the collector of garbage need not look at it again and again."""
    gc.enable()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


LONGEST = ("scale", "compare", "every_method", "data_source", "extensions", "runs", "features", "folder_data")
LONGEST += ("teachers", "estimate", "cli")
"""The files that take longest, in this order."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, then those of the most slow tests: neither of two workers waits long at the end."""
    marks = ("slow", "distributed", "browser")
    slow = Counter(item.path for item in items for mark in marks if item.get_closest_marker(mark))
    first = {f"test_{name}": -1000 + place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, -slow[item.path]))


@pytest.fixture(scope="session", autouse=True)
def pictures() -> Iterator[dict[str, Callable[..., None]]]:
    """Runs draw no pictures, which take 3 s of CPU time each; a test of pictures asks for `with_pictures`."""
    import torch  # not above: the process that only hands tests to its workers does without

    from flowleap.training import report

    torch.set_num_threads(1)
    drawing = {name: getattr(report, name) for name in ("draw_curves", "draw_budgets", "draw_samples")}
    with pytest.MonkeyPatch.context() as patch:
        for name in drawing:
            patch.setattr(report, name, lambda *arguments: None)
        yield drawing


@pytest.fixture
def with_pictures(monkeypatch: pytest.MonkeyPatch, pictures: dict[str, Callable[..., None]]) -> None:
    """Runs draw their pictures, but none of samples that take many steps."""
    from flowleap.training import report

    monkeypatch.setattr(report, "STEPS", (1, 2))
    for name, draw in pictures.items():
        monkeypatch.setattr(report, name, draw)
