"""Help texts for a terminal of any width: names of options are never truncated, texts break between words."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from flowleap.cli.examples import EXAMPLES
from flowleap.terminal import width_of, wrapped

WIDEST = 100
"""The largest width of a help text, and the width without a terminal."""
DEFAULT = re.compile(r"\[default: \((.*)\)(; [^\]]*)?\]$")
"""A default in words, which typer puts into two kinds of brackets."""
NAMES = 26
"""Width of the column of option names; longer names have a line of their own."""


def fit_help(command: Any, name: str = "") -> None:
    """Let a command of this name, as in "data check", and its sub-commands print `help_text` as their help."""

    def write(context: Any, formatter: Any) -> None:
        formatter.write(help_text(command, context, columns(), EXAMPLES.get(name, ())) + "\n")

    command.format_help = write
    for word, below in getattr(command, "commands", {}).items():
        fit_help(below, f"{name} {word}".strip())


def columns() -> int:
    """Return the width of a help text."""
    named = os.environ.get("COLUMNS", "")
    wide = width_of(sys.stdout) or (int(named) if named.isdigit() else WIDEST)
    return max(20, min(WIDEST, wide))


def help_text(command: Any, context: Any, width: int, examples: Sequence[str] = ()) -> str:
    """Return the help of a command: usage, description, arguments, options, sub-commands and examples."""
    pieces = [plain(piece) for piece in command.collect_usage_pieces(context)]
    usage = f"Usage: {context.command_path} {' '.join(pieces)}"
    found = [wrapped(usage, width), *paragraphs(command.help or "", width)]
    records: dict[str, list[tuple[str, str]]] = {"Arguments:": [], "Options:": []}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None:
            name, text = record
            title = "Arguments:" if param.param_type_name == "argument" else "Options:"
            records[title].append((plain(name), DEFAULT.sub(r"[default: \1\2]", text)))
    below = getattr(command, "commands", {})
    records["Commands:"] = [
        (name, one.get_short_help_str(1000)) for name, one in below.items() if not one.hidden
    ]
    found += ["\n".join([title, *entries(rows, width)]) for title, rows in records.items() if rows]
    if examples:
        found.append("\n".join(["Examples:", *(wrapped(f"  {line}", width, "    ") for line in examples)]))
    return "\n\n".join(found)


def plain(name: str) -> str:
    """Return the name of an optional argument with one pair of brackets instead of two."""
    return name.replace("[[", "[").replace("]]", "]")


def paragraphs(text: str, width: int) -> list[str]:
    """Return the paragraphs of a docstring, wrapped."""
    return [wrapped(" ".join(part.split()), width, indent="") for part in text.strip().split("\n\n") if part]


def entries(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Return the lines of a two-column list of names and texts."""
    rows = list(rows)
    names = min(NAMES, max(len(name) for name, _ in rows), width // 3)
    lines = []
    for name, text in rows:
        told = wrapped(" ".join(text.split()), width - names - 4, indent="").split("\n")
        if len(name) > names:
            lines += [f"  {line}" for line in wrapped(name, width - 2).split("\n")]
        else:
            lines.append(f"  {name:{names}}  {told.pop(0)}".rstrip())
        lines += [f"  {'':{names}}  {line}".rstrip() for line in told]
    return lines
