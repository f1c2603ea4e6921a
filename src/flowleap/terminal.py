"""Lines, tables and bars that fit a terminal of any width without breaking a word or a number.

| what        | on a terminal                                                    | in a file or a pipe          |
|-------------|------------------------------------------------------------------|------------------------------|
| a line      | broken between words                                             | one line                     |
| a table     | text cells wrap between words; columns that do not fit follow in | up to `PIPED` columns wide   |
|             | a block of their own, the first column repeated                  |                              |
| a bar       | as many of its parts as fit, the last ones left out              | not shown                    |
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Bar", "FittedTable", "console", "duration", "print_line", "roughly", "width_of", "wrapped"]

PIPED = 160
"""Columns of a table where there is no terminal to fit into."""
GAP = 2
"""Spaces between the columns of a table."""
NARROWEST = 16
"""Columns that a text cell is given before its column goes into the next block."""
SHORTEST, LONGEST = 8, 40
"""Columns of the bar itself."""


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes text literally, as wide as its terminal, or as a table needs where there is none."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPED
    return made


def width_of(stream: TextIO) -> int | None:
    """Return the number of columns of the terminal behind a stream, None where it is no terminal."""
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
    """Print a line, taken literally: broken between words on a terminal, whole elsewhere."""
    shown = wrapped(text, console.width) if console.is_terminal else text
    console.print(shown, style=style, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Return a time for the eye.

    >>> duration(75), duration(3725), duration(200_000)
    ('1:15', '1:02:05', '2 d 7 h')
    """
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def roughly(seconds: float) -> str:
    """Return a time in one unit.

    >>> roughly(75), roughly(500), roughly(9000)
    ('75 s', '8 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------- tables


@dataclass
class FittedTable:
    """A table that fits its console; `rich` prints it, and `lines` returns it.

    Args:
        titles: of the columns; "" for none. They wrap between words.
        text: the columns whose cells wrap between words and begin at the left; all others are numbers, which stay
            whole and end at the right.
        styles: of the rows, where they have one.
        ruled: a rule follows each row; `sections` names the rows that one follows.
    """

    titles: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    text: Sequence[int] = (0,)
    styles: dict[int, str] = field(default_factory=dict)
    ruled: bool = False
    sections: Sequence[int] = ()

    def add(self, *cells: str, style: str | None = None) -> None:
        """Add a row."""
        if style is not None:
            self.styles[len(self.rows)] = style
        self.rows.append(cells)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Yield the lines for a console."""
        from rich.text import Text

        for line, style in self.lines(options.max_width):
            line = line if console.encoding.startswith("utf") else line.replace("─", "-")
            yield Text(line, style=style or "", no_wrap=True, overflow="ignore", end="\n")

    def lines(self, width: int) -> list[tuple[str, str | None]]:
        """Return the table in lines of at most `width` columns, each with its style.

        Only a single word or number that is wider than the table itself is broken.
        """
        found: list[tuple[str, str | None]] = []
        for columns in self._blocks(width):
            if found:
                found.append(("", None))
            found += self._block(columns, self._widths(columns, width))
        return found

    def _cells(self, column: int) -> list[str]:
        return [row[column] for row in self.rows]

    def _least(self, column: int) -> int:
        """The fewest columns that a column takes without breaking a word."""
        title = max(map(len, self.titles[column].split()), default=0)
        if column not in self.text:
            return max([title, *map(len, self._cells(column))])
        lines = [line for cell in self._cells(column) for line in cell.split("\n")]
        words = max((_indent(line) + len(word) for line in lines for word in line.split()), default=0)
        return max(title, words)

    def _natural(self, column: int) -> int:
        """The columns that a column would like to have."""
        if column not in self.text:
            return self._least(column)
        lines = [line for cell in self._cells(column) for line in cell.split("\n")]
        return max([len(self.titles[column]), *map(len, lines)])

    def _blocks(self, width: int) -> list[list[int]]:
        """The columns of each block: the first one with as many others as fit beside it."""
        if len(self.titles) == 1:
            return [[0]]
        first = min(self._least(0), width // 2)
        blocks: list[list[int]] = []
        room = 0
        for column in range(1, len(self.titles)):
            least = max(self._least(column), min(NARROWEST, self._natural(column)))
            if not blocks or least + GAP > room:
                blocks.append([0])
                room = width - first
            blocks[-1].append(column)
            room -= least + GAP
        return blocks

    def _widths(self, columns: Sequence[int], width: int) -> list[int]:
        """How wide each column of a block is: what is left over goes where most text waits for it."""
        widths = [self._least(column) for column in columns]
        wanted = [self._natural(column) for column in columns]
        left = width - GAP * (len(columns) - 1) - sum(widths)
        more = wanted[0] - widths[0]
        if (
            wanted[0] <= width // 3 and more <= left
        ):  # what rows are called stays in one line where there is room
            widths[0] += more
            left -= more
        while left < 0 and max(widths) > 1:  # a word alone is wider than the table
            widths[widths.index(max(widths))] -= 1
            left += 1
        while left > 0 and any(have < want for have, want in zip(widths, wanted, strict=True)):
            needs = [want - have for have, want in zip(widths, wanted, strict=True)]
            widths[needs.index(max(needs))] += 1
            left -= 1
        return widths

    def _block(self, columns: Sequence[int], widths: Sequence[int]) -> list[tuple[str, str | None]]:
        rule = ("─" * (sum(widths) + GAP * (len(widths) - 1)), None)
        found: list[tuple[str, str | None]] = []
        if any(self.titles[column] for column in columns):
            titles = [self.titles[column] for column in columns]
            found = [(line, "bold") for line in self._line(columns, titles, widths, low=True)] + [rule]
        for number, row in enumerate(self.rows):
            cells = [row[column] for column in columns]
            found += [(line, self.styles.get(number)) for line in self._line(columns, cells, widths)]
            if (self.ruled or number in self.sections) and number + 1 < len(self.rows):
                found.append(rule)
        return found

    def _line(
        self, columns: Sequence[int], cells: Sequence[str], widths: Sequence[int], low: bool = False
    ) -> list[str]:
        """The lines of one row; cells of fewer lines stand at the top, or `low`."""
        parts = [_folded(cell, width) for cell, width in zip(cells, widths, strict=True)]
        height = max(map(len, parts))
        padded = [[""] * (height - len(part)) + part if low else part + [""] * height for part in parts]
        made = []
        for line in range(height):
            row = [
                part[line].ljust(width) if column in self.text else part[line].rjust(width)
                for part, column, width in zip(padded, columns, widths, strict=True)
            ]
            made.append((" " * GAP).join(row).rstrip())
        return made


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _folded(cell: str, width: int) -> list[str]:
    """The lines of a cell: broken between words, and inside of a word that is wider than the cell."""
    lines = wrapped(cell, width, indent="").split("\n")
    return [line[start : start + width] for line in lines for start in range(0, max(1, len(line)), width)]


# ---------------------------------------------------------------- bars


class Bar:
    """How far something long is, in one line: a bar, the count, the time that is left, and other numbers."""

    def __init__(self, total: int, done: int = 0, text: str = "", *, counted: bool = True) -> None:
        """Begin at `done` of `total`; `counted` shows both numbers, otherwise there is a percentage."""
        self.total, self.done, self.text, self.counted = total, done, text, counted
        self.parts: Sequence[str] = ()
        self.first, self.start = done, time.perf_counter()

    def left(self) -> float | None:
        """Return the seconds to the end at the pace so far; None where nothing is done yet."""
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
