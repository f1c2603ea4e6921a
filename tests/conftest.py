"""Settings that all tests share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # parallel workers, and the commands they start, share the cores

import pytest
import torch
from hypothesis import settings

from flowleap.training import report

torch.set_num_threads(1)

# The same examples on every run and no stopwatch: torch's first call of a kind may take seconds.
settings.register_profile("flowleap", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("flowleap")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of the most slow tests: of two workers, neither waits long for the other at the end."""
    marks = ("slow", "distributed", "browser")
    slow = Counter(item.path for item in items for mark in marks if item.get_closest_marker(mark))
    items.sort(key=lambda item: -slow[item.path])


PICTURES = {name: getattr(report, name) for name in ("draw_curves", "draw_budgets", "draw_samples")}


@pytest.fixture(scope="session", autouse=True)
def no_pictures() -> Iterator[None]:
    """Runs draw no pictures, which take 3 s of CPU time each; a test of pictures asks for `with_pictures`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PICTURES:
            patch.setattr(report, name, lambda *arguments: None)
        yield


@pytest.fixture
def with_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw their pictures, but none of samples that take many steps."""
    monkeypatch.setattr(report, "BUDGETS", (1, 2))
    for name, draw in PICTURES.items():
        monkeypatch.setattr(report, name, draw)
