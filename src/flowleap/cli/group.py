"""How the command line speaks when something is wrong: one clear line on standard error, exit code 2, no traceback."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["OneLine", "say", "spoken_warnings", "traceback_wanted"]

TRACEBACK = "FLOWLEAP_TRACEBACK"
USAGE = 2
INTERRUPTED = 130


def traceback_wanted() -> bool:
    """Whether the environment asks for tracebacks: FLOWLEAP_TRACEBACK=1."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


def say(text: str) -> None:
    """One line on standard error, where notes, warnings and errors go: standard output is for results."""
    typer.echo(" ".join(text.split()), err=True)


@contextmanager
def spoken_warnings() -> Iterator[None]:
    """Print each different warning once, as one line on standard error."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning) and str(message) not in said:
            said.add(str(message))
            say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


class OneLine(TyperGroup):
    """A group of commands whose errors are one line: what was given, what is expected, what to do."""

    def main(
        self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        if not standalone_mode or traceback_wanted():
            return super().main(args, *rest, standalone_mode=standalone_mode, **extra)
        sys.exit(self._run(args, *rest, **extra))

    def _run(self, args: Sequence[str] | None, *rest: Any, **extra: Any) -> int:
        try:
            with spoken_warnings():
                code = super().main(args, *rest, standalone_mode=False, **extra)
            return code if isinstance(code, int) else 0
        except typer.Abort:
            say("interrupted")
            return INTERRUPTED
        except (ValueError, OSError) as error:
            say(f"error: {describe(error)}")
            return USAGE
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            return usage_error(error)


def usage_error(error: Any) -> int:
    """Print what is wrong with a command line, and where its help is; return the exit code."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # no arguments at all ask for the help, which may be printed by now
        if message:
            typer.echo(message)
    elif context is None:
        say(f"error: {message}")
    else:
        say(f"error: {message.rstrip('.')} (see {context.command_path} --help)")
    return int(error.exit_code)


def describe(error: Exception) -> str:
    """The message of an error in one line; system errors name their file first."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
