"""Checks before a command runs: old names of options still work, and numbers must be finite."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import typer

from flowleap.fields import SINGLE

RENAMED: dict[str, dict[str, str]] = {
    "train": {"--eval-num": "--num"},
    "sample": {"--batch": "--per-device"},
    "evaluate": {"--batch": "--per-device"},
    "compare": {"--steps-to-evaluate": "--show"},
    "ablate": {"--steps-to-evaluate": "--show"},
    "encode": {"--batch": "--per-device", "--shard": "--per-file"},
}
"""Old and present names of the options of a command."""


def mend(command: Any, say: Any) -> None:
    """Let a command and its sub-commands accept old names of options, with a note, and refuse infinite numbers."""
    parse = command.parse_args

    def parse_args(context: Any, args: list[str]) -> list[str]:
        given, told = renamed(args, RENAMED.get(command.name or "", {}))
        rest: list[str] = parse(context, given)
        if os.environ.get("RANK", "0") == "0":
            for old, new in told.items():
                say(f"note: {old} is called {new} now")
        refuse_infinite(command, context)
        return rest

    command.parse_args = parse_args
    for below in getattr(command, "commands", {}).values():
        mend(below, say)


def renamed(args: list[str], names: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the words of a command line with old names of options replaced, and the replaced names.

    >>> renamed(["run", "--eval-num=20", "--", "--eval-num"], {"--eval-num": "--num"})
    (['run', '--num=20', '--', '--eval-num'], {'--eval-num': '--num'})
    """
    end = args.index("--") if "--" in args else len(args)
    found, told = [], {}
    for word in args[:end]:
        name, equals, value = word.partition("=")
        if name in names:
            told[name] = names[name]
            word = f"{names[name]}{equals}{value}"
        found.append(word)
    return found + args[end:], told


def refuse_infinite(command: Any, context: Any) -> None:
    """Raise typer.BadParameter for a number that is not finite in single precision."""
    for param in command.params:
        value = context.params.get(param.name)
        if isinstance(value, float) and not abs(value) <= SINGLE:
            raise typer.BadParameter(
                f"{value:g}: expected a finite number", ctx=context, param_hint=param.opts[0]
            )
