"""One writer per folder: a lock that the system lets go of when its process ends, however it ends."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["LOCK", "locked"]

LOCK = ".lock"
FAR = 1 << 20  # a byte behind the text, so that the text can be read while that byte is locked


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold the lock of a folder; yields who held it last and ended without letting go, None where nobody did.

    Raises: ValueError where another process holds it, saying which.
    """
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            _take(file)
        except (BlockingIOError, PermissionError):
            who = (folder / LOCK).read_text(encoding="utf-8", errors="replace").strip() or "another process"
            raise ValueError(
                f"{folder} is being written by another compare ({who}): wait for it, or name another --out"
            ) from None
        file.seek(0)
        stale = file.read().strip() or None
        _write(file, f"process {os.getpid()} on {platform.node()} since {_now()}")
        try:
            yield stale
        finally:
            _write(file, "")


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _take(file: IO[str]) -> None:
    if sys.platform == "win32":
        import msvcrt

        position = file.tell()
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(position)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
