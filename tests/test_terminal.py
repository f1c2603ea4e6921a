"""What is printed fits 60 and 80 columns, and breaks neither a word nor a number."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flowleap.cli import app
from flowleap.evaluation import quality_table
from flowleap.formatting import number
from flowleap.tables import Table
from flowleap.terminal import Bar, print_line, wrapped
from flowleap.training.log import Reporter

WIDTHS = (60, 80)


def screen(width: int, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, _environ={})


def printed(console: Console) -> str:
    return console.file.getvalue()


def row(nfe: int, distance: float | None = 12345.678) -> dict:
    return {
        "nfe": nfe, "steps": nfe, "distance": distance, "interval": [12001.25, 12999.75], "kernel_distance": 1.2345,
        "kernel_error": 0.123, "agreement": 0.987, "precision": 0.74, "recall": 0.11, "nearest_ratio": 1.07,
        "copies": 0.0, "seconds": 1234.56, "features": "fashion-mnist", "metric": "FD-fashion-mnist",
        "kernel_metric": "KD-fashion-mnist", "floor": 10.25, "judge": 0.936, "reference": "digits", "num": 1000,
        "reference_split": "all", "reference_size": 1797, "reference_seen": True,
        "protocol": "flowleap/v2;FD-fashion-mnist;n=1000;ref=digits/all:1797@314b97e8b73b;labels=cycle;weights=a",
    }  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
def test_the_quality_table_keeps_every_number_whole(width):
    rows, console = [row(nfe) for nfe in (1, 2, 4, 128)], screen(width)
    console.print(quality_table.table(rows))
    text = printed(console)
    assert max(map(len, text.splitlines())) <= width
    for cell in ("12,346 (12,001–13,000)", "1,234 ± 123", "0.987", "0.74/0.11", "1.07", "1,235"):
        assert text.count(cell) == 4
    assert "FD-fashion-mnist" in text and "…" not in text


def test_a_small_distance_keeps_its_digits():
    found = [number(value) for value in (0.00018, 0.3161, 0.0, None, 1234567.0)]
    assert found == ["0.000180", "0.316", "0.00", "–", "1.23e6"]


def table_lines(table: Table, width: int) -> list[str]:
    return [line for line, _ in table.lines(width)]


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_break_between_words_and_repeat_their_first_column(width):
    table = Table(["", "one method", "another"], text=(0, 1, 2))
    words = "probability 0.000123 of LogitNormal(mean=-0.4, std=1) and 1,000,000,000.5 images of_every_class"
    table.add("time law", words, f"{words}\n  inner: {words}")
    table.add("weight", "–", "none")
    lines = table_lines(table, width)
    assert max(map(len, lines)) <= width
    whole = set(" ".join([words, words, "inner: time law weight one method another – none"]).split())
    assert set(re.sub("─+", "", "\n".join(lines)).split()) == whole
    assert sum(line.startswith("weight") for line in table_lines(table, 30)) == 2


def test_a_word_wider_than_the_table_is_broken_and_nothing_is_lost():
    table = Table(["name", "what"], text=(0, 1))
    table.add("x", "b" * 100)
    lines = table_lines(table, 40)
    assert max(map(len, lines)) <= 40 and "".join(lines).count("b") == 100


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_break_between_words_on_a_terminal_and_nowhere_in_a_pipe(width):
    text = (
        "trained on 1,234,567 images; " * 8
        + "/a/path/that/is/long/enough/to/be/wider/than/the/terminal/itself.npz"
    )
    there, piped = screen(width), screen(width, terminal=False)
    print_line(there, text)
    print_line(piped, text)
    assert printed(piped) == text + "\n"
    assert printed(there).split() == text.split()
    assert max(map(len, printed(there).splitlines()[:-1])) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_bar_of_training_keeps_what_fits_and_cuts_nothing(width):
    bar = Bar(1_000_000, 0)
    bar.done, bar.start = 50_000, time.perf_counter() - 3600
    bar.parts = ["12345 images/s", "error 0.9713", "grad 1.462", "‖du/dt‖ 0.8013"]
    line = bar.line(width)
    assert len(line) <= width and "50,000/1,000,000  19:00:00 left" in line
    assert [part for part in bar.parts if part in line] == bar.parts[: 1 if width == 60 else 2]
    assert line.endswith(bar.parts[0 if width == 60 else 1])


def test_the_bar_of_a_measurement_says_of_what_and_how_long():
    bar = Bar(4000, text="measuring 1,000 samples at 1, 2, 4, 128 steps", counted=False)
    assert bar.left() is None and bar.line(80).endswith("  0%")
    bar.done, bar.start = 1000, time.perf_counter() - 30
    assert bar.line(80).startswith(bar.text) and bar.line(80).endswith("  25%  1:30 left")
    assert len(bar.line(80)) <= 80 and bar.text not in bar.line(50) and "1:30 left" in bar.line(50)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_training_on_a_terminal_shows_whole_numbers(width):
    reporter = Reporter(screen(width))
    numbers = {
        "step": 1500, "images_per_second": 12345.6, "raw_error": 0.97134, "grad_norm": 1.4623,
        "derivative_norm": 0.80134, "skipped": 3,
    }  # fmt: skip
    with reporter.progress(4000, 0):
        reporter.row(numbers)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed(reporter.console)).replace("\r", "\n")
    assert "1,500/4,000" in text and "skipped 3" in text and "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_run_says_a_note_once():
    reporter = Reporter(screen(80, terminal=False))
    for line in (
        "changed from esc: label_dropout 0.1 → 0",
        "step 1",
        "changed from esc: label_dropout 0.1 → 0",
    ):
        reporter.say(line)
    assert printed(reporter.console).splitlines() == ["changed from esc: label_dropout 0.1 → 0", "step 1"]


def commands(group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, (*path, name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_help_names_every_option_whole(width):
    import typer

    group = typer.main.get_command(app)
    for path in commands(group):
        text = CliRunner(env={"COLUMNS": str(width)}).invoke(app, [*path, "--help"]).output
        assert text.startswith("Usage: ") and "─" not in text and "[[" not in text, path
        command = group
        for name in path:
            command = command.commands[name]
        for param in command.params:
            for option in (one for one in param.opts if one.startswith("--")):
                assert re.search(rf"(^|\s){option}(?![\w-])", text), (path, option)
        wide = [line for line in text.splitlines() if len(line) > width]
        assert all(max(map(len, line.split())) > width - 30 for line in wide), wide


def test_a_protocol_id_breaks_between_its_parts():
    text = (
        "protocol: flowleap/v2;FD-point;n=1000;ref=two-moons/all:10000@f65ac19bef66;labels=none;weights=ema"
    )
    lines = wrapped(text, 60).split("\n")
    assert max(map(len, lines)) <= 60 and "".join(line.strip() for line in lines) == text
    assert wrapped(text, 200) == text


def test_wrapped_keeps_paragraphs_and_what_they_begin_with():
    assert wrapped("", 10) == "" and wrapped("  a b", 20) == "  a b"
    assert wrapped("  law: one two three", 14) == "  law: one two\n    three"
