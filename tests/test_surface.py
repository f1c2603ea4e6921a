"""What users type, import and write down stays: names may be added, and none goes but for another one in its place.

The lists are in tests/golden/surface.json; `python tests/golden/make.py` adds new names to it and takes none away.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

import flowleap
from flowleap import methods, runs, serialize
from flowleap.cli import app
from flowleap.networks import options
from flowleap.runs import recipes
from flowleap.training.config import FLAT
from golden import surface

BEFORE: dict[str, Any] = json.loads(surface.SURFACE.read_text(encoding="utf-8"))
NOW = surface.today()
RENAMED: dict[str, dict[str, str]] = {
    "commands": {},  # "train --old": "train --new", or "old": "new" for a command
    "methods": {},
    "recipes": {},
    "networks": {},
    "flowleap": {"values": "serialize"},
    "settings": {old: new for old, new in FLAT.items() if old in BEFORE["settings"]},
    "parts": {
        "Objective.told": "Objective.conditioning",
        "LinearPath.floor": "LinearPath.sigma_min",
        "Rival": "AuxiliaryNetwork",
        "Rival.pace": "AuxiliaryNetwork.lr_scale",
    },  # "Part.old": "Part.new" for a field, or "Old": "New" for a part
}
"""Old names and the new ones that stand for them. The old ones still work, which is tested here."""
NAMED = "gone: keep the old name working and say in RENAMED what it is called now"
FILLED: dict[str, dict[str, Any]] = {
    "AuxiliaryNetwork": {"objective": serialize.to_dict(flowleap.Objective())},
    "Perceptual": {"file": "vgg.pth"},
}
"""Values of the fields that have no default."""
STILL = {
    "methods": methods.get,
    "recipes": recipes.get,
    "networks": options.named,
    "flowleap": lambda name: getattr(flowleap, name),
}
"""How a name is looked up."""


def called(kind: str, name: str) -> str:
    """Return what a name is called now; options go with their command, and fields with their part."""
    names = RENAMED[kind]
    for separator in (" ", "."):
        head, there, rest = name.rpartition(separator)
        if there and head in names and name not in names:
            return f"{names[head]}{separator}{rest}"
    return names.get(name, name)


def gone(kind: str, before: Any, now: Any) -> list[str]:
    """Return the names that are there no more under any name."""
    assert set(RENAMED[kind]) <= set(before), "only names of before are renamed"
    return [name for name in before if called(kind, name) not in now]


def spelled(lists: dict[str, Any], separator: str) -> list[str]:
    """Return every key, and every entry of it with the key before it."""
    return [*lists, *(f"{key}{separator}{entry}" for key, entries in lists.items() for entry in entries)]


def test_no_command_and_no_option_is_gone():
    assert gone("commands", *(spelled(lists["commands"], " ") for lists in (BEFORE, NOW))) == [], NAMED


def test_old_spellings_of_options_are_understood():
    """Words are parsed before --help ends the command."""
    for old in RENAMED["commands"]:
        words = [word for word in old.split() if word != "flowleap"]
        value = ["1"] if words[-1].startswith("-") else []
        result = CliRunner().invoke(app, [*words, *value, "--help"])
        assert result.exit_code == 0, (old, result.stderr)


@pytest.mark.parametrize("kind", BEFORE["names"])
def test_no_name_is_gone(kind):
    assert gone(kind, BEFORE["names"][kind], NOW["names"][kind]) == [], NAMED
    for name in BEFORE["names"][kind]:
        STILL[kind](name)


def test_no_setting_is_gone():
    assert gone("settings", BEFORE["settings"], NOW["settings"]) == [], NAMED
    usual = runs.configure("esc", "digits")
    for name, value in BEFORE["settings"].items():
        assert runs.change(usual, [(name, value)]) == usual, f"{name} is not {value!r} any more"


def test_no_part_and_no_field_is_gone():
    assert gone("parts", *(spelled(lists["parts"], ".") for lists in (BEFORE, NOW))) == [], NAMED


@pytest.mark.parametrize("name", BEFORE["parts"])
def test_a_part_is_made_as_before(name):
    """What an earlier version wrote of a part with all its defaults is the part with the defaults of today."""
    stated = {field: value for field, value in BEFORE["parts"][name].items() if value != surface.NEEDED}
    now = called("parts", name)
    given = FILLED.get(now, {})
    assert set(stated) | set(given) == set(BEFORE["parts"][name])
    assert serialize.from_dict({"type": name, **stated, **given}) == serialize.from_dict(
        {"type": now, **given}
    )
