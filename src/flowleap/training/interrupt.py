"""Ctrl-C (and a polite kill): the first finishes the step and saves, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interruption"]


class Interruption:
    """A context in which SIGINT and SIGTERM are remembered, not obeyed; called, it says whether one came.

    The second signal raises KeyboardInterrupt. Outside of the main thread, where Python allows no handlers,
    nothing changes. `promise` is what is said when the first comes.
    """

    def __init__(self, promise: str = "finishing this step, then saving; once more to stop at once") -> None:
        self.promise = promise
        self.signal: int | None = None
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
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        # A handler may run in the middle of another write to the terminal, so this one goes past all buffers.
        os.write(2, f"\n{self.promise}\n".encode())
