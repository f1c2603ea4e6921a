"""Ctrl-C and SIGTERM: the first finishes the step and saves, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from flowleap import processes

ECHO = 3.0
"""Seconds in which a launcher of several processes may repeat a signal that they have had already."""


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
