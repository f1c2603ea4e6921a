"""What users type and import today: commands and options, methods, recipes, networks, settings, names, parts."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

import flowleap
from flowleap import methods, runs, serialize
from flowleap.cli import app
from flowleap.runs import recipes
from flowleap.training.config import flattened
from flowleap.training.settings import WHOLE

SURFACE = Path(__file__).resolve().parent / "surface.json"
ROOMS = (
    "paths",
    "derivatives",
    "schedules",
    "parameterization",
    "times",
    "losses",
    "velocities",
    "guidance",
    "samplers",
    "couplings",
    "data.batching",
    "objectives",
)
"""Where the parts of objectives are imported from."""
NEEDED = "needed"
"""What stands for a default where there is none."""


def today() -> dict[str, Any]:
    """Return the lists of today as JSON holds them."""
    found = {
        "commands": dict(sorted(commands(typer.main.get_command(app)).items())),
        "names": {
            "methods": sorted({*methods.names(), *methods.aliases()}),
            "recipes": sorted(recipes.names()),
            "networks": sorted(runs.NETWORKS),
            "flowleap": sorted(flowleap.__all__),
        },
        "settings": settings(),
        "parts": dict(sorted(parts().items())),
    }
    return dict(json.loads(json.dumps(found)))


def commands(command: Any, name: str = "") -> dict[str, list[str]]:
    """Return every spelling of the options of a command and of those below it, and its arguments, <1> and so on."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    spelled = [f"<{place}>" for place in range(1, len(arguments) + 1)]
    for param in command.params:
        spelled += [] if param in arguments else [*param.opts, *param.secondary_opts]
    found = {name or "flowleap": sorted(spelled)}
    for below, one in getattr(command, "commands", {}).items():
        found |= commands(one, f"{name} {below}".strip())
    return found


def settings() -> dict[str, Any]:
    """Return the fields of the config of a run that `--set` takes, with their values on digits."""
    every = flattened(runs.to_dict(runs.configure("esc", "digits")))
    return {name: value for name, value in every.items() if name not in WHOLE}


def parts() -> dict[str, dict[str, Any]]:
    """Return every part of an objective by its name: its fields and their defaults."""
    found: dict[str, dict[str, Any]] = {}
    for room in ROOMS:
        for name, part in vars(import_module(f"flowleap.{room}")).items():
            if (
                isinstance(part, type)
                and is_dataclass(part)
                and part.__name__ == name
                and serialize.known(name)
            ):
                found[name] = {
                    f.name: NEEDED if f.default is MISSING else serialize.to_dict(f.default)
                    for f in fields(part)
                }
    return found
