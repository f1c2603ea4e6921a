"""Comfort of the command line: completion, examples, exit codes, --quiet, --json, NO_COLOR."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer import completion
from typer.main import get_command
from typer.testing import CliRunner

from flowleap import terminal
from flowleap.cli import app, group
from flowleap.cli.examples import EXAMPLES

READING = (
    "recipes",
    "sample",
    "evaluate",
    "report",
    "diagnose",
    "cite",
    "data check",
    "methods list",
    "methods show",
    "methods table",
    "methods diff",
)
"""The commands that print what they read."""


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The commands by their names, groups included."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from commands(below, f"{name} {word}".strip())


COMMANDS = dict(commands(get_command(app)))


def call(*words: str, **env: str) -> Any:
    return CliRunner(env=env).invoke(app, list(words), prog_name="flowleap")


# Examples and exit codes


@pytest.mark.slow
def test_every_help_ends_with_examples_of_its_command() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    for name, examples in EXAMPLES.items():
        said = call(*name.split(), "--help").stdout
        shown = said.split("\nExamples:\n")[1]
        assert " ".join(shown.split()) == " ".join(" ".join(examples).split())
        assert name == "ema" or all(line.startswith(f"flowleap {name}".strip()) for line in examples), name


@pytest.mark.parametrize("line", sorted({line for lines in EXAMPLES.values() for line in lines}))
def test_an_example_has_options_that_there_are(line: str) -> None:
    name = max((name for name in COMMANDS if line.startswith(f"flowleap {name}".strip())), key=len)
    known = {spelled for param in COMMANDS[name].params for spelled in (*param.opts, *param.secondary_opts)}
    assert {word for word in shlex.split(line) if word.startswith("--")} <= known, line


def test_exit_codes_are_those_of_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    said = " ".join(call("--help").stdout.split())
    assert "0 done; 1 training diverged" in said and "2 wrong options" in said and "130 after Ctrl-C" in said
    assert call("methods", "list").exit_code == 0
    assert call("methods", "show", "no-such-method").exit_code == 2
    assert call("methods", "list", "--no-such-option").exit_code == 2

    def interrupt() -> None:
        raise group.typer.Abort

    assert group.exit_code(interrupt) == 130


# --json and --quiet


def test_reading_commands_take_json_and_quiet() -> None:
    for name in READING:
        known = {spelled for param in COMMANDS[name].params for spelled in param.opts}
        assert {"--json", "--quiet", "-q"} <= known, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "recipes",
        "recipes esc-b2",
        "cite esc",
        "methods list",
        "methods show esc",
        "methods diff esc meanflow",
    ],
)
def test_json_is_json_and_nothing_else(line: str) -> None:
    result = call(*line.split(), "--json", "--quiet")
    assert result.exit_code == 0 and json.loads(result.stdout) and result.stderr == ""


def test_citations_as_json_hold_the_bibtex() -> None:
    papers = json.loads(call("cite", "esc", "--json").stdout)
    assert "\n\n".join(paper["bibtex"] for paper in papers) + "\n" == call("cite", "esc").stdout


def test_quiet_leaves_out_notes_and_progress_but_no_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "EVERY", 0.0)

    def talk() -> int:
        group.say("a note")
        with group.spoken_warnings():
            group.warnings.warn("a warning", stacklevel=1)
        with group.counting("progress", 3) as tick:
            tick(1)
        raise ValueError("an error")

    always = ["warning: a warning", "error"]
    for quiet, expected in ((False, ["a note", always[0], "progress", always[1]]), (True, always)):
        token = group._QUIET.set(False)
        group.be_quiet(quiet)
        assert group.exit_code(talk) == 2
        group._QUIET.reset(token)
        lines = capsys.readouterr().err.splitlines()
        assert [re.split(r": (?=an|1)", line)[0] for line in lines] == expected, lines


def test_quiet_ends_with_its_command(tmp_path: Path) -> None:
    assert call("methods", "list", "-q").exit_code == 0
    old = call("sample", str(tmp_path), "--batch", "5")  # a note on the old name of the option
    assert "note: --batch is called --per-device now" in old.stderr


# Colors


def test_no_color_leaves_colors_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed() -> str:
        screen: Console = terminal.console()
        screen.file = io.StringIO()
        terminal.print_line(screen, "problem", style="bold red")
        return screen.file.getvalue()

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "31m" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in printed() and "problem" in printed()


# Completion


def completed(shell: str, line: str) -> list[str]:
    """What a shell is told about the last word of a line."""
    words = line.split(" ")
    env = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    result = call(_FLOWLEAP_COMPLETE=f"complete_{shell}", **env)
    if shell == "zsh":
        return re.findall(r'"([^":]+)":"', result.stdout)
    return [row.split("\t")[0] for row in result.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_and_options_are_completed(shell: str) -> None:
    assert completed(shell, "flowleap re") == ["recipes", "report"]
    assert completed(shell, "flowleap methods d") == ["diff"]
    assert set(completed(shell, "flowleap train --re")) == {"--resume", "--recipe"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for_a_shell(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found, path = completion.install(shell=shell, prog_name="flowleap", complete_var="_FLOWLEAP_COMPLETE")
    assert found == shell and path.is_relative_to(tmp_path)
    assert "_FLOWLEAP_COMPLETE" in path.read_text() and f"complete_{shell}" in path.read_text()


@pytest.mark.slow
def test_the_script_completes_in_bash(tmp_path: Path) -> None:
    """The script that --show-completion prints, in a real shell."""
    program = tmp_path / "flowleap"
    program.write_text(f"#!{sys.executable}\nfrom flowleap.cli import main\nmain()\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    script = completion.get_completion_script(
        prog_name="flowleap", complete_var="_FLOWLEAP_COMPLETE", shell="bash"
    )
    name = re.search(r"complete .*-F (\w+) flowleap", script)
    assert name is not None
    (tmp_path / "rc").write_text(
        f"{script}\nCOMP_WORDS=(flowleap meth)\nCOMP_CWORD=1\n{name[1]} flowleap meth flowleap\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["bash", str(tmp_path / "rc")], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.stdout.strip() == "methods", done.stderr
