"""The settings of a run: groups, short names, and files of earlier and of newer versions."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flowleap import runs
from flowleap.cli import app
from flowleap.cli.options import renamed
from flowleap.studies import Request
from flowleap.studies import plan as study
from flowleap.training import folder
from flowleap.training.config import FIELDS, FLAT, GROUPS, from_fields

GOLDEN = Path(__file__).resolve().parent / "golden"
OLD = json.loads((GOLDEN / "configs" / "esc.json").read_text(encoding="utf-8"))
USUAL = runs.configure("esc", "digits")


def written(place: Path, **changes: object) -> Path:
    """The folder of a run with a config.json of this version, changed."""
    place.mkdir()
    folder.write(place, USUAL, OLD["dataset"])
    content = json.loads((place / "config.json").read_text(encoding="utf-8")) | changes
    (place / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return place


def test_every_field_of_an_earlier_version_is_in_a_group_or_at_the_top():
    assert {FLAT.get(name, name) for name in OLD["config"]} <= set(FIELDS)
    assert {path.partition(".")[0] for path in FLAT.values()} == set(GROUPS)


@pytest.mark.parametrize("name", sorted(FLAT))
def test_a_short_name_is_the_field_in_its_group(name):
    """In `configure` and `replace`, without a warning."""
    value = {"ema": (0.5,), "data": "two-moons"}.get(name, USUAL.flat()[FLAT[name]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed = USUAL.replace(**{name: value})
    assert changed == USUAL.replace(**{FLAT[name]: value}) and changed.flat()[FLAT[name]] == value


def test_the_same_setting_by_its_short_name_and_by_its_path():
    settings = {"lr": "1e-3", "ema": "0.9,0.99", "watch_share": "0", "teacher": "12", "flip": "true"}
    short = runs.change(USUAL, settings.items())
    assert short == runs.change(USUAL, [(FLAT[name], text) for name, text in settings.items()])
    assert short.optimizer.ema == (0.9, 0.99) and short.teacher.path == "12" and short.data.flip is True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lrr", "unknown field 'lrr'; did you mean optimizer.lr"),
        ("optimizer.lrr", "unknown field 'optimizer.lrr'; did you mean optimizer.lr"),
        ("watch_shar", "unknown field 'watch_shar'; did you mean evaluation.online_share"),
        ("teacher_path", "unknown field 'teacher_path'; did you mean teacher.path"),
        ("data", "'data' is not set as a field: use --data"),
        ("optimizer", "unknown field 'optimizer'"),
    ],
)
def test_an_unknown_setting_names_the_nearest_path(name, message):
    with pytest.raises(ValueError, match=message):
        runs.change(USUAL, [(name, "1")])


def test_a_value_that_does_not_fit_is_named_by_its_path():
    fields = USUAL.flat()
    for changes, message in (
        ({"lr": -1.0}, r"optimizer\.lr=-1.0: input should be greater than 0"),
        ({"betas": (0.9,)}, r"optimizer.betas=\(0.9,\): more values are expected"),
        ({"seed": True}, "seed=True: a truth value does not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            from_fields(fields | {FLAT.get(name, name): value for name, value in changes.items()})
    del fields["optimizer.lr"]
    with pytest.raises(ValueError, match=r"optimizer\.lr.*a value is needed"):
        from_fields(fields)


def test_a_renamed_field_of_the_command_line_works_and_says_its_new_name():
    with pytest.warns(UserWarning) as caught:
        found = renamed(["lr=1e-3", "esc:watch_share=0", "times.diagonal=0.5", "optimizer.clip=2"])
    assert found == [
        ("optimizer.lr", "1e-3"),
        ("esc:evaluation.online_share", "0"),
        ("times.diagonal", "0.5"),
        ("optimizer.clip", "2"),
    ]
    said = [str(one.message) for one in caught]
    assert said == [
        "--set lr is called optimizer.lr now",
        "--set esc:watch_share is called esc:evaluation.online_share now",
    ]
    command = ["train", "--resume", "--out", "nowhere", "--set", "warmup=0.1"]
    assert "warning: --set warmup is called schedule.warmup now" in CliRunner().invoke(app, command).stderr


@pytest.mark.parametrize("command", [["train"], ["compare", "--methods", "esc"]])
def test_an_option_and_a_setting_of_the_same_field_must_agree(command, tmp_path):
    both = [*command, "--lr", "1e-3", "--out", str(tmp_path / "out"), "--set"]
    result = CliRunner().invoke(app, [*both, "optimizer.lr=2e-3"])
    text = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2
    assert "--lr gives 0.001 and --set optimizer.lr=2e-3, which is the same field: leave one" in text
    assert not (tmp_path / "out").exists()
    agreeing = CliRunner().invoke(app, [*both, "lr=0.001", "--set", "no.field=1"])
    assert "unknown field 'no.field'" in agreeing.stderr


def test_an_old_config_is_upgraded_in_memory_and_its_file_when_the_run_writes(tmp_path):
    place = Path(shutil.copytree(GOLDEN / "runs" / "shortcut" / "run", tmp_path / "run"))
    before = (place / "config.json").read_bytes()
    config = runs.read_config(place)
    assert config.schedule.steps == 12 and config.evaluation.online_share == 0
    assert (place / "config.json").read_bytes() == before
    runs.train(None, place, resume=True)
    content = json.loads((place / "config.json").read_text(encoding="utf-8"))
    assert content["format"] == 2 and content["config"]["evaluation"]["online_share"] == 0
    assert runs.read_config(place) == config


def test_a_newer_format_is_named_with_the_version_that_reads_it(tmp_path):
    place = written(tmp_path / "run", format=3, version="9.1.0", config={})
    with pytest.raises(
        ValueError, match=r"config.json has format 3.*reads formats up to 2; flowleap 9\.1\.0 wrote"
    ):
        runs.read_config(place)
    assert runs.read_config(written(tmp_path / "other")) == USUAL


def test_a_study_of_an_earlier_version_is_continued_by_old_and_new_names(tmp_path):
    asked = Request(("esc",), settings=(("optimizer.lr", "1e-3"), ("esc:optimizer.clip", "2")))
    row = study.Row("esc", "paper", USUAL, 1, 1, 1, 1.0)
    study.write(tmp_path, study.Plan(asked, "steps", (row,)))
    assert study.read(tmp_path).rows == (row,)
    content = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    content["rows"][0]["config"] = OLD["config"]
    content["request"]["settings"] = [["lr", "1e-3"], ["esc:clip", "2"]]
    (tmp_path / "plan.json").write_text(json.dumps(content | {"format": 1}), encoding="utf-8")
    plan = study.read(tmp_path)
    now = runs.change(USUAL, [("target.derivative", "TwoPass")])
    then = plan.rows[0].config
    assert then.replace(network=now.network) == now, "but for options of the network that are newer"
    assert then.network == {name: now.network[name] for name in then.network}
    study.compatible(plan.request, asked, tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps(content | {"format": 3, "rows": {}}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"plan.json has format 3"):
        study.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "option"),
    [("recipe", "--recipe"), ("init.path", "--init"), ("init", "--init"), ("teacher", "--teacher")],
)
def test_what_other_settings_follow_from_is_an_option_and_no_setting(name, option):
    with pytest.raises(ValueError, match=f"is not set as a field: use {option} somewhere"):
        runs.configure("esc", "two-moons", settings=[(name, "somewhere")])


def test_a_network_goes_by_its_name():
    with pytest.raises(ValueError, match="a name is expected"):
        runs.configure("esc", "two-moons", network={"kind": "MLP"})  # type: ignore[arg-type]
