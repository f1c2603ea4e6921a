"""What a wrong name may have meant: every error about an unknown name ends with its neighbors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["suggest"]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean a or b? Known: a, b, c", or "; known: a, b, c" where no name is near.

    >>> suggest("meanflo", ["esc", "meanflow"])
    '; did you mean meanflow? Known: esc, meanflow'
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    every = ", ".join(names)
    return f"; did you mean {' or '.join(near)}? Known: {every}" if near else f"; known: {every}"
