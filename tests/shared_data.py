"""Where the images and weights are that some tests need, and that no package brings along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(
    os.environ.get("FLOWLEAP_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, where one of these files is not there."""
    lacking = [name for name in names if not (SHARED / name).is_file()]
    said = f"{', '.join(lacking)}: not in ../shared/data, nor in FLOWLEAP_SHARED_DATA"
    return pytest.mark.skipif(bool(lacking), reason=said)
