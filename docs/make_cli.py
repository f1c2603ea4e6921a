"""Write the help text of every command into docs/cli.md, below its marker.

uv run python docs/make_cli.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from flowleap.cli import app

PAGE = Path(__file__).with_name("cli.md")
MARKER = "<!-- Written by docs/make_cli.py from here on. -->"


def commands(command: Any, name: str = "flowleap") -> Iterator[str]:
    """Yield the names of a command and of all commands below it, such as "flowleap data check"."""
    yield name
    for word, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from commands(below, f"{name} {word}")


def section(name: str) -> str:
    """Return the help text of a command as a section of Markdown."""
    runner = CliRunner(env={"COLUMNS": "100"})
    words = [*name.split()[1:], "--help"]
    return f"## `{name}`\n\n```text\n{runner.invoke(app, words).stdout.strip()}\n```\n"


def sections() -> dict[str, str]:
    """Return the section of every command by its name."""
    return {name: section(name) for name in commands(get_command(app))}


if __name__ == "__main__":
    written = PAGE.read_text(encoding="utf-8").split(MARKER)[0]
    PAGE.write_text("\n".join([written + MARKER + "\n", *sections().values()]), encoding="utf-8")
