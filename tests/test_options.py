"""Options of the command line: one name for one thing in all commands, old names, numbers."""

import typing
from collections import defaultdict
from enum import Enum

import pytest
import typer
from typer.testing import CliRunner

from flowleap.cli import app, data, methods
from flowleap.cli.options import as_settings
from flowleap.cli.spelling import RENAMED

VARIES = {
    "--steps": "train takes optimizer steps; sample and evaluate take steps from noise to data",
    "--strict": "data check looks at everything and then leaves with status 1, what trains or encodes stops",
}
"""Options that are not the same thing in all commands, and why."""
OF_TRAINING_ONLY = {
    "--steps": "--budget",
    "--minutes": "--budget 30m",
    "--hours": "--budget 2h",
    "--seed": "--seeds",
    "--resume": "the same command goes on",
    "--overwrite": "a study is never replaced",
    "--no-eval": "a study is there to measure",
    "--log-every": "follows from the budget",
    "--sample-every": "runs of a study draw at their end",
    "--checkpoint-every": "follows from the budget",
    "--checkpoints-total-limit": "--set checkpoints_total_limit=N",
    "--validation-labels": "runs of a study draw at their end",
    "--track": "--set track=tensorboard",
    "--push-to-hub": "flowleap export diffusers RUN DIR --push-to-hub",
    "--private": "flowleap export diffusers RUN DIR --push-to-hub",
    "--pairs": "of one method: --set reflow:pairs=N",
    "--pair-steps": "of one method: --set reflow:pair_steps=N",
    "--per-device": "the runs of a study have a process each: --set per_device=N",
    "--accumulate": "--set accumulate=N",
    "--shard": "the runs of a study have a process each",
    "--compile": "--set compiled=true",
    "--check": "--set check=true",
    "--dry-run": "a study measures its steps before the start anyway",
    "--json": "belongs to --dry-run; a study leaves table.json",
    "--recipe": "all runs of a study have the same settings",
    "--init": "all runs of a study have the same initial weights",
}
"""Options of train that compare and ablate do not take, and what there is instead."""


def commands():
    """The function of every command by its name."""
    groups = {"": app, "data ": data.app, "methods ": methods.app}
    return {
        f"{prefix}{one.name}": one.callback
        for prefix, group in groups.items()
        for one in group.registered_commands
    }


def told(hint):
    """What an annotation says of its option: the kind of its values, and the first words of its help."""
    kind, info = typing.get_args(hint)[:2]
    optional = typing.get_origin(kind) is not typing.Literal and typing.get_args(kind)
    kind = next(one for one in optional or (kind,) if one is not type(None))
    if typing.get_origin(kind) is typing.Literal or (isinstance(kind, type) and issubclass(kind, str | Enum)):
        kind = str
    words = "".join(c for c in info.help if c.isalnum() or c in " -").split()
    return str(kind), " ".join(words[:3])


def options(command):
    """The options of a command by their names."""
    hints = typing.get_type_hints(command, include_extras=True)
    found = {}
    for name, hint in hints.items():
        info = typing.get_args(hint)[1:2]
        if info and isinstance(info[0], typer.models.OptionInfo):
            named = [info[0].default, *(info[0].param_decls or ())]
            declared = [word for word in named if isinstance(word, str) and word.startswith("--")]
            found[declared[0].split("/")[0] if declared else f"--{name.replace('_', '-')}"] = told(hint)
    return found


def test_an_option_is_of_one_kind_and_means_one_thing_in_all_commands():
    seen = defaultdict(set)
    for command in commands().values():
        for name, what in options(command).items():
            seen[name].add(what)
    different = {name: sorted(what) for name, what in seen.items() if len(what) > 1}
    assert different.keys() == VARIES.keys(), different


@pytest.mark.parametrize("study", ["compare", "ablate"])
def test_studies_take_what_train_takes(study):
    mine, of_train = options(commands()[study]), options(commands()["train"])
    assert of_train.keys() - mine.keys() == OF_TRAINING_ONLY.keys()
    assert {
        "--lr",
        "--size",
        "--square",
        "--flip",
        "--precision",
        "--workers",
        "--strict",
        "--show",
    } <= mine.keys()


def test_options_of_a_study_are_settings_of_all_its_runs(monkeypatch, tmp_path):
    from flowleap import studies

    asked = []
    monkeypatch.setattr(studies, "compare", lambda request, *_, **__: asked.append(request) or Done())
    words = [
        "--methods",
        "esc",
        "--size",
        "16",
        "--flip",
        "--lr",
        "0.01",
        "--precision",
        "bf16",
        "--set",
        "warmup=0.1",
    ]
    for start in (["compare", *words], ["ablate", "esc", *words[2:]]):
        result = CliRunner().invoke(app, [*start, "--show", "2,1", "--out", str(tmp_path / "s")])
        assert result.exit_code == 0, result.output
    first, second = asked
    settings = {
        ("data.size", "16"),
        ("data.flip", "true"),
        ("optimizer.lr", "0.01"),
        ("parallel.precision", "bf16"),
        ("schedule.warmup", "0.1"),
    }
    assert set(first.settings) == set(second.settings) == settings
    assert first.steps == second.steps == (2, 1)
    assert as_settings(None, size=None) == ()


class Done:
    failed = False


def test_old_names_of_options_work_and_tell_the_new_one(capsys):
    known = {name.split()[-1]: options(command) for name, command in commands().items()}
    for command, names in RENAMED.items():
        assert names.keys().isdisjoint(known[command].keys() - {"--shard"})
        assert set(names.values()) <= known[command].keys()
    result = CliRunner().invoke(app, ["evaluate", "no-such-run", "--batch=5"])
    assert "note: --batch is called --per-device now" in result.stderr
    assert "no-such-run" in result.stderr and "--batch" not in result.stdout


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e39"])
@pytest.mark.parametrize(
    ("command", "option"),
    [("sample", "--guidance"), ("evaluate", "--guidance"), ("train", "--lr"), ("compare", "--lr"), ("ema", "--width"),
     ("sample", "--renoise")],
)  # fmt: skip
def test_numbers_that_are_not_finite_are_refused_by_the_name_of_their_option(command, option, number):
    words = ["run"] if command in ("sample", "evaluate", "ema") else []
    result = CliRunner().invoke(app, [command, *words, option, number])
    assert result.exit_code == 2
    assert option in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_a_place_without_data_names_what_is_beside_it(tmp_path):
    (tmp_path / "photos").mkdir()
    result = CliRunner().invoke(app, ["train", "--data", str(tmp_path / "photo"), "--dry-run"])
    assert result.exit_code == 2 and "no such file or folder" in result.stderr
    assert f"did you mean {tmp_path / 'photos'}?" in " ".join(result.stderr.split())
