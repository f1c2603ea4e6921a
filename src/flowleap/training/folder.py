"""The folder of a run: who may write into it, and what is noted about the machine and the code."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from flowleap.files import free_name, replace_file
from flowleap.provenance import git_state, version

__all__ = ["claim", "is_run", "newest", "note_environment", "unused"]

PACKAGES = ("flowleap", "torch", "numpy", "scipy", "scikit-learn", "safetensors", "pydantic")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / "config.json").is_file()


def claim(folder: Path, *, overwrite: bool = False) -> Path:
    """Make the folder of a new run; with `overwrite`, a run that is there already is moved to <name>.old-N.

    Raises: FileExistsError where the folder holds a run (without `overwrite`), or something else.
    """
    if is_run(folder):
        if not overwrite:
            raise FileExistsError(
                f"{folder} already holds a run: continue it with --resume, start anew with --overwrite "
                "(the old run is moved aside), or name another folder with --out"
            )
        os.rename(folder, free_name(folder, ".old-", 1))
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there but is not a run: name a new or an empty folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unused(folder: Path) -> Path:
    """Return `folder`, or the first of <folder>-2, <folder>-3, … that does not exist."""
    return free_name(folder, "-", 2) if folder.exists() else folder


def newest(folder: Path) -> Path:
    """Return the last of `folder`, <folder>-2, <folder>-3, … that exists: the run `unused` made last."""
    latest, number = folder, 2
    while (candidate := folder.with_name(f"{folder.name}-{number}")).exists():
        latest, number = candidate, number + 1
    return latest


def note_environment(path: Path) -> None:
    """Add this sitting to the file at `path`: time, command, versions, git state, machine."""
    sittings = json.loads(path.read_text(encoding="utf-8"))["sittings"] if path.exists() else []
    content = {"sittings": [*sittings, environment()]}
    replace_file(path, json.dumps(content, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Return what a number may depend on besides the config: versions, git state, machine, command."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "git": git_state(Path(__file__).parent),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
