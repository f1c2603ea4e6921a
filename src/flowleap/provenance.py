"""Versions of packages and the commit of the code, as recorded with results."""

from __future__ import annotations

import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path
from typing import Any


def version(package: str) -> str | None:
    """Return the installed version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the code in `folder` and whether there are uncommitted changes; None without a repository.

    A folder inside another project's repository, as installed packages may be, is not tracked there and has none.
    """
    try:
        _, commit, status = (
            subprocess.run(
                ["git", *command], cwd=folder, capture_output=True, text=True, check=True, timeout=10
            ).stdout
            for command in (
                ["ls-files", "--error-unmatch", "."],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}


@cache
def commit() -> str | None:
    """Return the commit of flowleap, "76199e4" or "76199e4+changes"; None for an installed package."""
    state = git_state(Path(__file__).parent)
    return None if state is None else state["commit"][:7] + ("+changes" if state["dirty"] else "")
