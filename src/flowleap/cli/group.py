"""Output of the command line: results on standard output; notes, progress and one-line errors on standard error."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

import typer
from typer.core import TyperGroup

from flowleap.cli.helping import fit_help
from flowleap.cli.spelling import mend
from flowleap.formatting import duration
from flowleap.streams import keep_printing, keep_printing_ascii
from flowleap.terminal import width_of, wrapped

if TYPE_CHECKING:
    from flowleap.tables import Table

TRACEBACK = "FLOWLEAP_TRACEBACK"
USAGE = 2
INTERRUPTED = 130
EVERY = 30.0
"""Seconds between lines of progress without a terminal."""
_QUIET = ContextVar("quiet", default=False)


def traceback_wanted() -> bool:
    """Whether FLOWLEAP_TRACEBACK=1 asks for tracebacks."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


def be_quiet(wanted: bool) -> None:
    """Print no notes and no progress until this command line has ended, see --quiet."""
    if wanted:
        _QUIET.set(True)


def say(text: str) -> None:
    """Print a note as one line on standard error, unless --quiet."""
    if not _QUIET.get():
        warn(text)


def warn(text: str) -> None:
    """Print a warning or an error as one line on standard error."""
    typer.echo(fitted(" ".join(text.split()), sys.stderr), err=True)


def echo(text: str) -> None:
    """Print a result on standard output."""
    typer.echo(fitted(text, sys.stdout))


def show(table: Table, *notes: str) -> None:
    """Print a table on standard output, and dim notes below it."""
    from flowleap.terminal import console, print_line

    screen = console()
    screen.print(table)
    for note in notes:
        print_line(screen, note, style="dim")


def print_json(value: Any) -> None:
    """Print plain data as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def fitted(text: str, stream: TextIO) -> str:
    """Wrap a text if its stream is a terminal."""
    width = width_of(stream)
    return text if width is None else wrapped(text, width)


@contextmanager
def spoken_warnings() -> Iterator[None]:
    """Print each different warning once, as one line on standard error."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning) and str(message) not in said:
            said.add(str(message))
            warn(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show a spinner with a text on standard error if it is a terminal, unless --quiet."""
    from rich.console import Console

    with nullcontext() if _QUIET.get() else Console(stderr=True).status(text):
        yield


@contextmanager
def counting(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` items on standard error: a bar on a terminal, else a line every half a minute.

    Yields a function that takes the number of newly finished items. Of several processes the first one shows it.
    """
    from rich.live import Live

    from flowleap.terminal import Bar, console

    bar, screen = Bar(total, text=text, counted=False), console(stderr=True)
    first, shown = os.environ.get("RANK", "0") == "0", time.perf_counter()

    def tick(done: int) -> None:
        nonlocal shown
        bar.done += done
        now = time.perf_counter()
        bar.parts = (f"{bar.done / (now - bar.start):,.1f}/s",)
        if not screen.is_terminal and first and now - shown >= EVERY:
            shown, left = now, bar.left()
            ending = "" if left is None else f", {duration(left)} left"
            say(f"{text}: {bar.done:,} of {total:,}, {bar.done / (now - bar.start):.1f}/s{ending}")

    if screen.is_terminal and first and not _QUIET.get():
        with Live(bar, console=screen, transient=True, refresh_per_second=4):
            yield tick
    else:
        yield tick


class OneLine(TyperGroup):
    """A group of commands whose errors are one line, without traceback."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        fit_help(self)
        mend(self, say)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        keep_printing()
        keep_printing_ascii()
        _QUIET.set(False)

        def run(alone: bool) -> Any:
            return super(OneLine, self).main(
                args, prog_name, complete_var, alone, windows_expand_args, **extra
            )

        if not standalone_mode or traceback_wanted():
            return run(standalone_mode)
        sys.exit(exit_code(lambda: run(False)))


def exit_code(run: Callable[[], Any]) -> int:
    """Run a command line, print an error in one line, and return the exit code."""
    from flowleap.progress import shown_by

    try:
        with spoken_warnings(), shown_by(counting):
            code = run()
        return code if isinstance(code, int) else 0
    except typer.Abort:
        warn("interrupted")
        return INTERRUPTED
    except (ValueError, OSError) as error:
        warn(f"error: {describe(error)}")
        return USAGE
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return usage_error(error)


def usage_error(error: Any) -> int:
    """Print an error of usage with the command for help, and return the exit code."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # no arguments: print the help, unless typer has
        if message:
            typer.echo(message)
    elif context is None:
        warn(f"error: {message}")
    else:
        warn(f"error: {message.rstrip('.')} (see {context.command_path} --help)")
    return int(error.exit_code)


def describe(error: Exception) -> str:
    """The message of an error; that of a system error begins with its file."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
