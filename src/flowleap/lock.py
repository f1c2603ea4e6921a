"""A lock for folders, so that one process writes to each; the system releases it when the process ends.

The lock is a file in the folder that the kernel locks (`flock`, on Windows `msvcrt.locking`); its text names the
process. An unlocked file with text was left by a process that was killed. On a file system without locks the text
alone counts, as long as its process lives.
"""

from __future__ import annotations

import datetime
import errno
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LOCK = ".lock"
FAR = 1 << 20  # a byte behind the text, which can be read while that byte is locked
HOLDER = re.compile(r"process (?P<process>\d+) on (?P<host>.*) since .*")
HALF = re.compile(r"\..*\.(writing|stale)")
"""Names of the temporary files and folders of `flowleap.files`."""
UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""Errors of file systems without locks."""


def vacant(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock, and temporary files of a process that was killed."""
    return all(path.name == LOCK or HALF.fullmatch(path.name) for path in folder.iterdir())


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold the lock of an existing folder; yields the text of a process that was killed while holding it, or None.

    Raises: ValueError if another process holds it, with its id, machine and time; also if a process of another machine
        did not release it, since this machine cannot know whether it still runs.
    """
    path = folder / LOCK
    file, sure = _hold(path)
    with file:
        file.seek(0)
        left = file.read().strip()
        if left:
            _refuse(path, left, sure)
        now = datetime.datetime.now(datetime.UTC)
        _write(file, f"process {os.getpid()} on {platform.node()} since {now:%Y-%m-%d %H:%M:%S} UTC")
        try:
            yield left or None
        finally:
            _write(file, "")
            with suppress(OSError):  # Windows removes no open file; an empty one is no lock
                if _is(file, path):
                    path.unlink()


def _hold(path: Path) -> tuple[IO[str], bool]:
    """Open and lock the file; the flag says whether the file system supports locks."""
    while True:
        file = path.open("a+", encoding="utf-8", errors="replace")
        try:
            sure = _take(file)
        except (BlockingIOError, PermissionError):
            with file:  # its holder may remove it at this moment
                file.seek(0)
                raise _held(path, file.read().strip()) from None
        if _is(file, path):
            return file, sure
        file.close()  # its former holder removed it at this moment


def _refuse(path: Path, text: str, sure: bool) -> None:
    """Raise ValueError for a lock that was not released, unless its process is known to have ended."""
    holder = HOLDER.fullmatch(text)
    if holder is None:
        return
    if holder["host"] != platform.node():
        raise ValueError(
            f"{path.parent} was being written by {text}, which is another machine and did not release it: if that "
            f"process is gone, remove {path} and repeat the command"
        )
    if not sure and _alive(int(holder["process"])):
        raise _held(path, text)


def _held(path: Path, text: str) -> ValueError:
    return ValueError(
        f"{path.parent} is being written by {text or 'another process'}: wait for it to end, or name another folder "
        "with --out"
    )


def _alive(process: int) -> bool:
    """Whether a process runs on this machine."""
    if sys.platform == "win32":  # os.kill would terminate it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _is(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _take(file: IO[str]) -> bool:
    """Lock an open file; False if the file system does not support locks.

    Raises: BlockingIOError, PermissionError if another process holds the lock.
    """
    if sys.platform == "win32":
        import msvcrt

        position = file.tell()
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(position)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNKNOWN:
            return False
        raise
    return True
