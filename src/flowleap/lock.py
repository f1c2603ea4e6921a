"""One writer for each folder: a lock that the system releases when its process ends, however it ends.

The lock is a file in the folder that the kernel locks (`flock`, on Windows `msvcrt.locking`); its text says who holds
it. A file that is not locked but has a text was left by a process that was killed. Where the file system knows no
locks, the text alone decides: it counts as long as its process lives.
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

__all__ = ["LOCK", "locked", "vacant"]

LOCK = ".lock"
FAR = 1 << 20  # a byte behind the text, so that the text can be read while that byte is locked
HOLDER = re.compile(r"process (?P<process>\d+) on (?P<host>.*) since .*")
HALF = re.compile(r"\..*\.(writing|stale)")
"""What `flowleap.files` calls a file or folder that is not in its place yet."""
UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""What a file system answers that has no locks."""


def vacant(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock, and what a writer that was killed left half written."""
    return all(path.name == LOCK or HALF.fullmatch(path.name) for path in folder.iterdir())


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold the lock of a folder that exists; yields who was killed while holding it, None where nobody was.

    Raises: ValueError where another process holds it, naming its number, its machine and since when; and where a
        process of another machine held it and did not release it, which only its owner can know to be gone.
    """
    path = folder / LOCK
    file, sure = _hold(path)
    with file:
        file.seek(0)
        left = file.read().strip()
        if left:
            _refuse(path, left, sure)
        _write(file, f"process {os.getpid()} on {platform.node()} since {_now()}")
        try:
            yield left or None
        finally:
            _write(file, "")
            with suppress(OSError):  # Windows removes no open file; an empty one is no lock
                if _is(file, path):
                    path.unlink()


def _hold(path: Path) -> tuple[IO[str], bool]:
    """Open and lock the file of a lock; the flag says whether the file system knows locks."""
    while True:
        file = path.open("a+", encoding="utf-8", errors="replace")
        try:
            sure = _take(file)
        except (BlockingIOError, PermissionError):
            with file:  # its holder may remove it from the folder in this moment
                file.seek(0)
                raise _held(path, file.read().strip()) from None
        if _is(file, path):
            return file, sure
        file.close()  # its former holder removed it in this moment


def _refuse(path: Path, text: str, sure: bool) -> None:
    """Refuse a lock that was left, unless its process is known to be gone.

    Raises: ValueError.
    """
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
    """Whether a process of this machine is there."""
    if sys.platform == "win32":  # os.kill would end it
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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _take(file: IO[str]) -> bool:
    """Lock an open file; False where the file system knows no locks.

    Raises: BlockingIOError, PermissionError where another process holds the lock.
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
