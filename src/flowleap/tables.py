"""Tables for a terminal of any width, Markdown, and HTML (`report.html.jinja` of reports).

On a terminal text cells wrap between words; columns that do not fit follow in a block of their own, in which the first
column is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowleap.terminal import GAP, wrapped

NARROWEST = 16
"""The least width of a text column beside others; below it the column goes into the next block."""


@dataclass(frozen=True)
class Cell:
    """A cell with more than its text.

    Args:
        bound: an interval or an error, written behind the text.
        mark: a class of its HTML element, for emphasis.
        look: the number of the color and marker of the run that the text names, for HTML.
    """

    text: str
    bound: str = ""
    mark: str = ""
    look: int | None = None

    def __str__(self) -> str:
        return f"{self.text} {self.bound}".rstrip()


@dataclass
class Table:
    """Titles and rows of cells, printable by `rich`; see `lines`.

    Args:
        titles: of the columns; "" for none. They wrap between words.
        text: the columns whose cells wrap between words and begin at the left; all others are numbers, which stay
            whole and end at the right.
        styles: of the rows, where they have one.
        ruled: a rule follows each row; `sections` names the rows that one follows.
        heads: the number of first columns that name a row; an empty first cell continues the one above it.
    """

    titles: Sequence[str]
    rows: list[Sequence[str | Cell]] = field(default_factory=list)
    text: Sequence[int] = (0,)
    styles: dict[int, str] = field(default_factory=dict)
    ruled: bool = False
    sections: Sequence[int] = ()
    heads: int = 1

    @classmethod
    def of_words(cls, *titles: str, ruled: bool = False) -> Table:
        """Return an empty table in which all cells are text."""
        return cls(titles, text=range(len(titles)), ruled=ruled)

    def add(self, *cells: str | Cell, style: str | None = None) -> None:
        """Add a row."""
        if style is not None:
            self.styles[len(self.rows)] = style
        self.rows.append(cells)

    def markdown(self, notes: Sequence[str] = ()) -> str:
        """Return the table as Markdown, with a list of notes below it."""
        rule = ["---" if column in self.text else "---:" for column in range(len(self.titles))]
        lines = [[str(cell).replace("|", "\\|") for cell in row] for row in (self.titles, rule, *self.rows)]
        drawn = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([*drawn, *([""] if notes else []), *(f"- {note}" for note in notes)]) + "\n"

    def parts(self) -> list[list[tuple[str | None, int, Sequence[str | Cell]]]]:
        """Return the sections for HTML: of each row its style, how many rows its first cell spans (0: none), its cells.

        A row with a style of its own is a section of its own.
        """
        found: list[list[tuple[str | None, int, Sequence[str | Cell]]]] = [[]]
        for number, row in enumerate(self.rows):
            style = self.styles.get(number)
            if number and (style is not None or number - 1 in self.sections):
                found.append([])
            below = [str(one[0]) for one in self.rows[number + 1 :]]
            span = next((count for count, first in enumerate(below) if first), len(below)) + 1
            found[-1].append((style, span if str(row[0]) else 0, row))
        return found

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
        return [str(row[column]) for row in self.rows]

    def _least(self, column: int) -> int:
        """The least width of a column that breaks no word."""
        title = max(map(len, self.titles[column].split()), default=0)
        if column not in self.text:
            return max([title, *map(len, self._cells(column))])
        lines = [line for cell in self._cells(column) for line in cell.split("\n")]
        words = max((_indent(line) + len(word) for line in lines for word in line.split()), default=0)
        return max(title, words)

    def _natural(self, column: int) -> int:
        """The width of a column without line breaks."""
        if column not in self.text:
            return self._least(column)
        lines = [line for cell in self._cells(column) for line in cell.split("\n")]
        return max([len(self.titles[column]), *map(len, lines)])

    def _blocks(self, width: int) -> list[list[int]]:
        """The columns of each block: the first one and as many others as fit beside it."""
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
        """The width of each column of a block; spare width goes to the column that lacks most."""
        widths = [self._least(column) for column in columns]
        wanted = [self._natural(column) for column in columns]
        left = width - GAP * (len(columns) - 1) - sum(widths)
        more = wanted[0] - widths[0]
        if wanted[0] <= width // 3 and more <= left:  # names of rows stay in one line where there is room
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
            cells = [str(row[column]) for column in columns]
            found += [(line, self.styles.get(number)) for line in self._line(columns, cells, widths)]
            if (self.ruled or number in self.sections) and number + 1 < len(self.rows):
                found.append(rule)
        return found

    def _line(
        self, columns: Sequence[int], cells: Sequence[str], widths: Sequence[int], low: bool = False
    ) -> list[str]:
        """The lines of one row; cells of fewer lines are aligned to the top, or with `low` to the bottom."""
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
