"""How long reading takes is shown by whoever has a screen: the command line says how, the library says what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

__all__ = ["counted", "shown_by"]

Tick = Callable[[int], None]
Shown = Callable[[str, int], AbstractContextManager[Tick]]


@contextmanager
def _silent(text: str, total: int) -> Iterator[Tick]:
    yield lambda done: None


_SHOWN: ContextVar[Shown] = ContextVar("shown", default=_silent)


def counted(text: str, total: int) -> AbstractContextManager[Tick]:
    """Show how much of something long is done, where somebody looks; yields what is told of each part done."""
    return _SHOWN.get()(text, total)


@contextmanager
def shown_by(shown: Shown) -> Iterator[None]:
    """Let what is read inside be shown by a function (text, total) -> context of a tick."""
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)
