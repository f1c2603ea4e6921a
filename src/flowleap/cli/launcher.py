"""Commands on several processes, started by torchrun or `accelerate launch`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from functools import wraps
from typing import Any

import typer

FAILED = 1


def on_all_processes(command: Callable[..., None]) -> Callable[..., None]:
    """Run a command on all processes that were started together; only the first one prints and warns.

    An error is printed once, by the first process that raises it.
    """

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        from flowleap import processes, threads

        code = 0
        try:
            with ExitStack() as held:
                held.enter_context(processes.together(str(options.get("device") or "auto")))
                held.enter_context(threads.limited(options.get("threads") or threads.most()))
                if not processes.first():
                    held.enter_context(redirect_stdout(io.StringIO()))
                    held.enter_context(warnings.catch_warnings())
                    warnings.simplefilter("ignore")
                try:
                    command(*args, **options)
                except typer.Exit as leaving:
                    code = leaving.exit_code
        except processes.Elsewhere:
            code = FAILED
        if code:
            raise typer.Exit(code)

    return run
