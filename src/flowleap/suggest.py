"""Suggestions for misspelled names: every error about an unknown name ends with similar ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

__all__ = ["suggest"]

LONG = 40
"""Names of a list that is not repeated in an error which names those that are near."""


def suggest(name: str, known: Iterable[str], short: Mapping[str, str] | None = None) -> str:
    """Return "; did you mean a or b? Known: a, b, c", or "; known: a, b, c" where no name is near.

    A long list of known names is left out where some are near.

    Args:
        short: other names of some of them.

    >>> suggest("meanflo", ["esc", "meanflow"])
    '; did you mean meanflow? Known: esc, meanflow'
    >>> suggest("lrr", ["optimizer.lr", "seed"], {"lr": "optimizer.lr"})
    '; did you mean optimizer.lr? Known: optimizer.lr, seed'
    """
    names = {one: one for one in known}
    every, spellings = ", ".join(names), names | dict(short or {})
    found = difflib.get_close_matches(name, spellings, n=3, cutoff=0.5)
    near = dict.fromkeys(spellings[one] for one in found)
    if not near:
        return f"; known: {every}"
    return f"; did you mean {' or '.join(near)}?" + (f" Known: {every}" if len(names) <= LONG else "")
