"""The folder of a run: who may write into it, and what is noted about the machine and the code."""

from __future__ import annotations

import datetime
import difflib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from flowleap import data as data_sets
from flowleap import processes
from flowleap.extensions import FOLDER
from flowleap.files import free_name, replace_file
from flowleap.lock import LOCK, locked, vacant
from flowleap.provenance import NewerFormat, format_of, git_state, version
from flowleap.threads import Adaptive
from flowleap.training.config import TrainConfig, nested, to_dict

FORMAT = 2
"""Of config.json. The config of format 1 has no groups."""

NOTES = ("config.json", "environment.json", "metrics.jsonl", "quality.jsonl", LOCK)
"""What a run writes before its first step; the last two are empty then."""
PACKAGES = ("flowleap", "torch", "numpy", "scipy", "scikit-learn", "safetensors", "pydantic")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / "config.json").is_file()


def read(folder: Path) -> dict[str, Any]:
    """Return the content of the config.json of a run; `imported` is None for one that was trained here.

    Raises: FileNotFoundError where there is no run, naming its neighbors; ValueError for a broken file.
    """
    path = folder / "config.json"
    if not path.is_file():
        others = [other.name for other in folder.parent.glob("*") if is_run(other)]
        near = difflib.get_close_matches(folder.name, others, n=3, cutoff=0.5) or sorted(others)[:5]
        hint = f"; runs beside it: {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"{folder} holds no run (no config.json){hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        upgraded = format_of(path, content, FORMAT) < FORMAT
        config, dataset = content["config"], content["dataset"]
        config = found_from_here(nested(config) if upgraded else config, dataset)
    except NewerFormat:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: truncated or not the config of a run ({error})") from error
    return {"config": config, "dataset": dataset, "imported": content.get("imported")}


def write(folder: Path, config: TrainConfig, dataset: Mapping[str, Any], **about: Any) -> None:
    """Write the config.json of a run: its config, and what of the data set sampling needs to know."""
    head = {"format": FORMAT, "version": version("flowleap")}
    content = {**head, "config": to_dict(config), "dataset": dataset, **about}
    replace_file(folder / "config.json", json.dumps(content, indent=2) + "\n")


def found_from_here(config: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose data are named so that they are found from the present folder.

    A relative path is kept where it leads to where the data were when the run began, or where nothing is there any
    more; otherwise that place is named.
    """
    data, began = config["data"].get("name"), dataset.get("place")
    if not data or not began or data_sets.place(data) == began or not data_sets.present(began):
        return config
    return {**config, "data": {**config["data"], "name": began}}


@contextmanager
def held(folder: Path, *, new: bool = False, overwrite: bool = False) -> Iterator[str | None]:
    """Hold the lock of the folder of a run, and with `new` make the folder first; yields as `lock.locked`.

    With `overwrite`, a run that is there already is moved to <name>.old-N. Where the block of a new run raises before
    anything was trained, its folder is removed, so that the same command can be tried again, and a run that was moved
    is moved back.

    Raises: FileExistsError where the folder holds a run (without `overwrite`), or something else; ValueError where
        another process writes into it.
    """
    if not new:
        with locked(folder) as left:
            yield left
        return
    there = folder.exists()
    old = _claim(folder, overwrite=overwrite)
    try:
        with locked(folder) as left:
            if is_run(folder):  # made by another process in this moment
                raise FileExistsError(_taken(folder))
            try:
                yield left
            except Exception:
                _discard(folder, keep=there and old is None)
                raise
    except Exception:
        if old is not None and not folder.exists():
            os.rename(old, folder)
        raise


def refuse_taken(folder: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError for a folder that no new run can be written to: it holds one, or something else."""
    if is_run(folder):
        if not overwrite:
            raise FileExistsError(_taken(folder))
    elif folder.exists() and (not folder.is_dir() or not vacant(folder)):
        raise FileExistsError(f"{folder} is there but is not a run: name a new or an empty folder with --out")


def _claim(folder: Path, *, overwrite: bool) -> Path | None:
    """Make the folder of a new run; return where a run that was there has been moved to."""
    refuse_taken(folder, overwrite=overwrite)
    old = None
    if is_run(folder):
        with locked(folder):
            old = free_name(folder, ".old-", 1)
            os.rename(folder, old)
        (old / LOCK).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return old


def _taken(folder: Path) -> str:
    return (
        f"{folder} already holds a run: continue it with --resume, start anew with --overwrite "
        "(the old run is moved aside), or name another folder with --out"
    )


def _discard(folder: Path, *, keep: bool) -> None:
    """Remove what a run wrote that failed before it trained anything; `keep` leaves the folder itself."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    made = [path for path in files if path.parent != folder / FOLDER]  # imported files are copies
    if any(path.name not in NOTES or (path.name.endswith(".jsonl") and path.stat().st_size) for path in made):
        return
    for path in files:
        if path.name != LOCK:
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    if not keep:
        with suppress(OSError):  # Windows removes no open file
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def unused(folder: Path) -> Path:
    """Return `folder`, or the first of <folder>-2, <folder>-3, … that does not exist."""
    return free_name(folder, "-", 2) if folder.exists() else folder


def newest(folder: Path) -> Path:
    """Return the last of `folder`, <folder>-2, <folder>-3, … that exists: the run `unused` made last."""
    latest, number = folder, 2
    while (candidate := folder.with_name(f"{folder.name}-{number}")).exists():
        latest, number = candidate, number + 1
    return latest


def note_environment(path: Path, adaptive: Adaptive | None = None) -> None:
    """Add this start of the run to the file at `path`: time, command, versions, git state, machine, CPU threads."""
    sittings = json.loads(path.read_text(encoding="utf-8"))["sittings"] if path.exists() else []
    content = {"sittings": [*sittings, environment()]}
    replace_file(path, json.dumps(content, indent=2) + "\n")
    if adaptive is not None:
        note_threads(path, adaptive)


def note_threads(path: Path, adaptive: Adaptive) -> None:
    """Write the present number of CPU threads, and all since resume, into the file at `path`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["sittings"][-1] |= {"threads": adaptive.taken, "threads_used": sorted(adaptive.used)}
    replace_file(path, json.dumps(content, indent=2) + "\n")


def last_threads(folder: Path) -> tuple[int | None, bool]:
    """Return with how many CPU threads a run was last trained, and whether other numbers were tried while it trained.

    The number is None where that was on another machine.
    """
    path = folder / "environment.json"
    last = json.loads(path.read_text(encoding="utf-8"))["sittings"][-1] if path.exists() else {}
    here = last.get("cpus") == os.cpu_count()
    return last.get("threads") if here else None, "threads_used" in last


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
        "processes": processes.count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
