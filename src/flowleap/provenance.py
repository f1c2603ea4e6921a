"""Versions of packages and the commit of the code, as recorded with results."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


class NewerFormat(ValueError):
    """A file is of a format that this version of flowleap does not know."""


def version(package: str) -> str | None:
    """Return the installed version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def format_of(path: Path, content: Mapping[str, Any], newest: int) -> int:
    """Return the format of a file, its "format"; its "version" is that of flowleap that wrote it.

    Raises: NewerFormat for a format above `newest`, naming the version that reads it; KeyError without one.
    """
    found = content["format"]
    if found not in range(1, newest + 1):
        writer = content.get("version")
        cure = f"flowleap {writer} wrote it: install that or a later one" if writer else "install a newer one"
        raise NewerFormat(
            f"{path} has format {found}, and flowleap {version('flowleap')} reads formats up to {newest}; {cure}"
        )
    return int(found)


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
