"""Progress of long work in the library: the command line decides how it is shown, by default not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

Tick = Callable[[int], None]
Shown = Callable[[str, int], AbstractContextManager[Tick]]


@contextmanager
def _silent(text: str, total: int) -> Iterator[Tick]:
    yield lambda done: None


_SHOWN: ContextVar[Shown] = ContextVar("shown", default=_silent)


def counted(text: str, total: int) -> AbstractContextManager[Tick]:
    """Show the progress of `total` items; yields a function that takes the number of newly finished items."""
    return _SHOWN.get()(text, total)


@contextmanager
def shown_by(shown: Shown) -> Iterator[None]:
    """Show the progress of work inside by a function (text, total) -> context manager, see `counted`."""
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)
