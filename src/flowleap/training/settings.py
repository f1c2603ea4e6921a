"""Settings as users write them, FIELD=VALUE: fields of the config, options of the network, fields of the objective."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin

from flowleap import serialize
from flowleap.data import Preprocessing
from flowleap.networks import options as network_options
from flowleap.objectives import Objective
from flowleap.suggest import suggest
from flowleap.training.config import FIELDS, FLAT, GROUPS, TrainConfig, dotted, present

WHOLE = {
    "method": "name the method itself",
    "data.name": "use --data",
    "objective": "give its fields by their own names, as in times.diagonal=0.5",
    "imports": "use --import",
    "network": "use --network for its name, and network.width=64 for an option of it",
}
"""The fields of the config that are not set by `change`, and what to do instead."""
NAMED = {"recipe": "--recipe", "init.path": "--init", "teacher.path": "--teacher"}
"""Fields of a new run that other fields follow from, and their options."""
PREPROCESSING = tuple(f"data.{field.name}" for field in fields(Preprocessing))
"""The fields that say how images at a path are preprocessed."""


def change(config: TrainConfig, settings: Iterable[tuple[str, Any]]) -> TrainConfig:
    """Return a config with some values replaced, given by name as text or as they are.

    A field of the config ("schedule.warmup"), an option of the network ("network.width"), or a field of the objective
    at any depth ("times.diagonal", "loss.power").

    Raises: ValueError for an unknown name, with its neighbors, or a value that does not fit.
    """
    changed: dict[str, Any] = {}
    parts: list[tuple[str, str]] = []
    known = [f.name for f in fields(Objective)]
    for name, value in settings:
        head, _, rest = name.partition(".")
        path = FLAT.get(name, name)
        if head == "network" and rest:
            network = network_options.change(changed.get("network", config.network), rest, parse(value))
            changed["network"] = network
        elif path in WHOLE or head in WHOLE:
            raise ValueError(f"{name!r} is not set as a field: {WHOLE.get(path) or WHOLE[head]}")
        elif path in FIELDS or head in GROUPS:
            changed[dotted(name)] = parse_field(dotted(name), value)
        elif serialize.renamed(head, None, known)[0] in known:
            parts.append((name, value if isinstance(value, str) else json.dumps(value)))
        else:
            every = [
                *known,
                *(path for path in FIELDS if path not in WHOLE),
                "network.width",
                "network.depth",
            ]
            raise ValueError(f"unknown field {name!r}{suggest(head, every, FLAT)}")
    return config.replace(**changed, objective=serialize.overrides(config.objective, parts))


def refuse_named(settings: Iterable[tuple[str, Any]]) -> None:
    """Refuse settings of a new run that other fields follow from.

    Raises: ValueError.
    """
    for name, value in settings:
        path = FLAT.get(name, name)
        if path in NAMED and value is not None:
            raise ValueError(f"{name!r} is not set as a field: use {NAMED[path]} {value}")


def refuse_twice(given: Mapping[str, Any], settings: Iterable[tuple[str, Any]]) -> None:
    """Refuse settings that give a field another value than an option does.

    Args:
        given: values of options by the short names of their fields, None where they were not given.

    Raises: ValueError.
    """
    options = {FLAT[name]: (name, value) for name, value in given.items() if name in FLAT}
    for field, text in settings:
        name, value = options.get(present(field), (field, None))
        if value is not None and parse_field(present(field), text) != value:
            raise ValueError(
                f"--{name.replace('_', '-')} gives {value} and --set {field}={text}, which is the same field: leave "
                "one of them out"
            )


def preprocessing_of(settings: Iterable[tuple[str, Any]]) -> Preprocessing | None:
    """Return the preprocessing of images by settings such as ("data.size", "64"), ignoring others; None without any.

    Raises: ValueError for values that do not fit.
    """
    named = ((FLAT.get(name, name), value) for name, value in settings)
    given = {
        path.partition(".")[2]: parse_field(path, value) for path, value in named if path in PREPROCESSING
    }
    given = {name: value for name, value in given.items() if value is not None}
    return Preprocessing(**given) if given else None


def parse(value: Any) -> Any:
    """Read text as JSON where it is JSON ("64", "true", "[1, 2]"), "none" as None, the rest as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        return None if value.lower() in ("none", "null") else value


def parse_field(path: str, value: Any) -> Any:
    """Read the text of a field; "0.9,0.99" and a single number both make a tuple where one is expected."""
    if path in ("teacher.path", "init.path"):
        return None if value is None else str(value)
    several = tuple in (get_origin(hint) for hint in (FIELDS[path], *get_args(FIELDS[path])))
    if several and isinstance(value, str):
        return tuple(parse(part) for part in value.strip("[]()").split(",") if part.strip())
    return parse(value)
