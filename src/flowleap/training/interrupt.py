"""Ctrl-C and SIGTERM: the first finishes the step and saves, the second stops at once; limits of time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from flowleap import processes

ECHO = 3.0
"""Seconds in which a launcher of several processes may repeat a signal that they have had already."""

AGAIN = 10.0
"""Seconds after which `TookTooLong` is raised again where a library did not let it through."""


class TookTooLong(BaseException):
    """What was computed took longer than it may; as KeyboardInterrupt, no Exception that a library handles itself."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """A context in which TookTooLong is raised after so many seconds, wherever the main thread is in its Python code.

    Where there is no SIGALRM (Windows), and in another thread, nothing is limited.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    running = True

    def stop(number: int, frame: FrameType | None) -> None:
        if running:
            raise TookTooLong

    former = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, former)


class Interruption:
    """A context in which SIGINT and SIGTERM are only recorded; called, it returns whether one came.

    The second signal raises KeyboardInterrupt. Outside of the main thread, where Python allows no handlers,
    nothing changes. `promise` is what is said when the first comes.
    """

    def __init__(self, promise: str = "finishing this step, then saving; once more to stop at once") -> None:
        self.promise = promise
        self.signal: int | None = None
        self.since = 0.0
        self.echo = ECHO if processes.launched() > 1 else 0.0
        self.former: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)
        self.former.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is not None and now - self.since < self.echo:
            return  # Ctrl-C reaches the processes, and then again through the launcher that it also reaches
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal, self.since = number, now
        if not processes.first():
            return
        # A handler may run in the middle of another write to the terminal, so this one goes past all buffers.
        os.write(2, f"\n{self.promise}\n".encode())
