"""Lines and progress bars that fit a terminal of any width without breaking words or numbers.

| what   | on a terminal                                       | in a file or a pipe |
|--------|-----------------------------------------------------|---------------------|
| a line | broken between words                                | one line            |
| a bar  | as many of its parts as fit, the last ones left out | not shown           |
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from flowleap.formatting import duration

if TYPE_CHECKING:
    from rich.console import Console

PIPED = 160
"""The width of tables without a terminal."""
GAP = 2
"""Spaces between the columns of a table."""
SHORTEST, LONGEST = 8, 40
"""The width of the bar itself."""


def console(*, stderr: bool = False) -> Console:
    """Return a console without markup, as wide as its terminal, or as `PIPED` without one."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPED
    return made


def width_of(stream: TextIO) -> int | None:
    """Return the width of the terminal of a stream, None where it is no terminal."""
    if not stream.isatty():
        return None
    named = os.environ.get("COLUMNS", "")
    if named.isdigit() and int(named):
        return int(named)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def wrapped(text: str, width: int, indent: str = "  ") -> str:
    """Break a text between words into lines of at most `width` columns; longer words stay whole but after a ";".

    Later lines of a paragraph begin with `indent` and what the first one begins with.

    >>> print(wrapped("measuring 1,000 samples", 16))
    measuring 1,000
      samples
    """
    broken = []
    for line in text.split("\n"):
        begin = line[: len(line) - len(line.lstrip())]
        words = [word.replace(";", ";\v") if len(word) > width else word for word in line.split(" ")]
        broken += textwrap.wrap(
            " ".join(words).strip(),
            max(width, len(begin) + len(indent) + 1),
            initial_indent=begin,
            subsequent_indent=begin + indent,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        ) or [""]
    return "\n".join(broken).replace("\v", "")


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """Print a line without markup: wrapped on a terminal, whole elsewhere."""
    shown = wrapped(text, console.width) if console.is_terminal else text
    console.print(shown, style=style, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A progress bar in one line: a bar, the count, the time left, and other numbers."""

    def __init__(self, total: int, done: int = 0, text: str = "", *, counted: bool = True) -> None:
        """Start at `done` of `total`, shown as both numbers with `counted`, else as a percentage."""
        self.total, self.done, self.text, self.counted = total, done, text, counted
        self.parts: Sequence[str] = ()
        self.first, self.start = done, time.perf_counter()

    def left(self) -> float | None:
        """Return the seconds left at the speed so far; None where nothing is done yet."""
        if not self.first < self.done < self.total:
            return None
        pace = (time.perf_counter() - self.start) / (self.done - self.first)
        return pace * (self.total - self.done)

    def line(self, width: int, full: str = "━", empty: str = "─") -> str:
        """Return the line in at most `width` columns: numbers that do not fit are left out, the last ones first."""
        share = self.done / self.total if self.total else 1.0
        left = self.left()
        count = f"{self.done:,}/{self.total:,}" if self.counted else f"{share:.0%}"
        numbers = count if left is None else f"{count}  {duration(left)} left"
        room = width - SHORTEST - GAP - len(numbers)
        about = f"{self.text}  " if self.text and len(self.text) + GAP <= room else ""
        room -= len(about)
        for part in self.parts:
            room -= len(part) + GAP
            if room < 0:
                break
            numbers += f"  {part}"
        size = max(1, min(LONGEST, width - len(about) - len(numbers) - GAP))
        filled = round(size * min(1.0, share))
        return f"{about}{full * filled}{empty * (size - filled)}  {numbers}"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Yield the line for a console."""
        from rich.text import Text

        signs = ("━", "─") if console.encoding.startswith("utf") else ("#", "-")
        yield Text(self.line(options.max_width, *signs), no_wrap=True, overflow="ignore")
