"""Objectives as plain data and back, as in the config.json of a run; and changes of their fields, as by `--set`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any

from flowleap.fields import fits, hints, needed, wrong
from flowleap.objectives import Objective
from flowleap.suggest import suggest

__all__ = [
    "add",
    "differences",
    "from_dict",
    "known",
    "override",
    "overrides",
    "remove",
    "renamed",
    "to_dict",
    "upgraded",
]

_ROOMS = (
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
RENAMED = {"Rival": "AuxiliaryNetwork", "auto": "Auto"}
"""Other names of parts, old ones and short ones, and what they are called."""
RENAMED_FIELDS = {"told": "conditioning", "floor": "sigma_min", "pace": "lr_scale"}
"""Old names of fields and what they are called now: `Objective`, `LinearPath`, `AuxiliaryNetwork`."""
RENAMED_VALUES = {"told": {"landing": "t,r", "nothing": "t", "data": "t,end"}}
"""Old values of fields by the old name of the field."""


def to_dict(value: Any) -> Any:
    """Return a value as JSON-able data: {"type": "SortedPair", "law": {…}, "diagonal": 0.75, …}.

    Raises: ValueError for a part that holds a network, which is no plain value.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__
        if kind not in _types():
            raise ValueError(
                f"{kind} cannot be written down as plain data: it is not a part known to flowleap"
            )
        return {"type": kind, **{f.name: to_dict(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{type(value).__name__} cannot be written down as plain data: {value!r}")


def from_dict(data: Any) -> Any:
    """Return the value that `to_dict` wrote.

    Raises: ValueError for unknown types or fields, naming their neighbors.
    """
    if isinstance(data, list):
        return tuple(from_dict(item) for item in data)
    if not isinstance(data, dict):
        return data
    kind = data.get("type")
    if kind is None:
        raise ValueError(f'{data!r} is no part: {{"type": "Conditional"}} with its fields is expected')
    kind = RENAMED.get(str(kind), kind)
    if not isinstance(kind, str) or kind not in _types():
        raise ValueError(f"unknown part {kind!r}{suggest(str(kind), _types())}")
    cls = _types()[kind]
    known = [f.name for f in fields(cls)]
    data = {field: value for name, item in data.items() for field, value in [renamed(name, item, known)]}
    for name in data:
        if name != "type" and name not in known:
            raise ValueError(f"{kind} has no field {name!r}{suggest(name, known)}")
    missing = [f.name for f in fields(cls) if needed(f) and f.name not in data]
    if missing:
        shown = ", ".join(f'"{name}": …' for name in missing)
        raise ValueError(f'{kind} needs {" and ".join(missing)}: give {{"type": "{kind}", {shown}}}')
    given = {name: from_dict(item) for name, item in data.items() if name != "type"}
    for name, value in given.items():
        if not fits(value, hints(cls)[name]):
            raise ValueError(wrong(cls, name, value))
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"{kind} cannot be made from {sorted(data)}: {error}") from error


def differences(first: Any, second: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Return where two values written by `to_dict` differ: (dotted name, first, second); other types as a whole."""
    found = []
    for key in first:
        a, b = first[key], second[key]
        if a == b:
            continue
        name = f"{prefix}{key}"
        alike = isinstance(a, dict) and isinstance(b, dict) and a["type"] == b["type"]
        found += differences(a, b, f"{name}.") if alike else [(name, a, b)]
    return found


def renamed(name: str, value: Any, known: Collection[str]) -> tuple[str, Any]:
    """Return a field and its value as they are called now, given the fields that the part has.

    >>> renamed("told", "nothing", ["conditioning"]), renamed("path", {}, ["path"])
    (('conditioning', 't'), ('path', {}))
    """
    if name in known or RENAMED_FIELDS.get(name, "") not in known:
        return name, value
    values = RENAMED_VALUES.get(name, {})
    return RENAMED_FIELDS[name], values.get(value, value) if isinstance(value, str) else value


def upgraded(data: Any) -> Any:
    """Return what `to_dict` of an earlier version wrote as it is written today; unknown parts stay as they are.

    Names are those of today, and fields that are new have their defaults.
    """
    if isinstance(data, list):
        return [upgraded(item) for item in data]
    if not isinstance(data, dict):
        return data
    kind = RENAMED.get(data.get("type", ""), data.get("type"))
    known = {f.name: f for f in fields(_types()[kind])} if kind in _types() else {}
    found = dict(renamed(name, upgraded(item), known) for name, item in data.items())
    found |= {"type": kind} if "type" in data else {}
    new = {name: f.default for name, f in known.items() if name not in found and f.default is not MISSING}
    return found | {name: to_dict(value) for name, value in new.items()}


def override(objective: Objective, field: str, text: str) -> Objective:
    """Return the objective with one field changed: override(meanflow(), "times.diagonal", "0.5").

    `text` is JSON, or the name of a part with its defaults ("PlugIn"), or a part in full
    ('{"type": "PlugIn", "probability": 0.2}').

    Raises: ValueError for an unknown field (naming its neighbors) or a value that does not fit.
    """
    return overrides(objective, [(field, text)])


def overrides(objective: Objective, settings: Iterable[tuple[str, str]]) -> Objective:
    """Return the objective with several fields changed at once, so that parts which need one another can move together.

    Raises: as `override`.
    """
    changes: dict[str, Any] = {}
    known = [f.name for f in fields(Objective)]
    for field, text in settings:
        head, *rest = field.split(".")
        if not rest:
            head, text = _now(head, text, known)
        if head not in known:
            raise ValueError(f"{field}: Objective has no field {head!r}{suggest(head, known)}")
        old = changes.get(head, getattr(objective, head))
        new = _parse(text)
        changes[head] = _override(old, rest, new, field) if rest else _fitting(Objective, head, new, field)
    return replace(objective, **changes)


def _override(value: Any, names: list[str], new: Any, whole: str) -> Any:
    if not is_dataclass(value) or isinstance(value, type):
        raise ValueError(
            f"{whole}: {names[0]!r} is asked of {value!r}, which has no fields; give the whole part, as in "
            f'{whole.rsplit(".", 1)[0]}={{"type": "…", "{names[0]}": …}}'
        )
    known = [f.name for f in fields(value)]
    if not names[1:]:
        names[0], new = _now(names[0], new, known)
    if names[0] not in known:
        others = suggest(names[0], known) if known else ", and no other: give another part in its place"
        raise ValueError(f"{whole}: {type(value).__name__} has no field {names[0]!r}{others}")
    old = getattr(value, names[0])
    inner = (
        _override(old, names[1:], new, whole) if names[1:] else _fitting(type(value), names[0], new, whole)
    )
    return replace(value, **{names[0]: inner})


def _now(name: str, value: Any, known: Collection[str]) -> tuple[str, Any]:
    """Return `renamed`, with a warning where a name has changed."""
    now, meant = renamed(name, value, known)
    if now != name:
        warnings.warn(f"{name}={value} is called {now}={meant} now", UserWarning, stacklevel=3)
    return now, meant


def _fitting(owner: type, name: str, new: Any, whole: str) -> Any:
    hint = hints(owner)[name]
    if not fits(new, hint):
        raise ValueError(wrong(owner, name, new, f"{whole}={new!r}"))
    whole_number = isinstance(new, int) and not isinstance(new, bool)
    return float(new) if whole_number and fits(0.5, hint) else new


def _parse(text: str) -> Any:
    if RENAMED.get(text, text) in _types():
        return from_dict({"type": text})
    try:
        return from_dict(json.loads(text))
    except json.JSONDecodeError:
        return {"none": None, "true": True, "false": False}.get(text.lower(), text)


def add(part: type) -> None:
    """Make a part of your own known by its name, a frozen dataclass.

    Raises: ValueError where the name is taken.
    """
    if part.__name__ in _types():
        raise ValueError(f"there is a part {part.__name__} already: give yours another name")
    _OWN[part.__name__] = part


def remove(name: str) -> None:
    """Forget a part that was added."""
    _OWN.pop(name, None)


def known(name: str) -> bool:
    """Return whether there is a part of this name, or was one."""
    return RENAMED.get(name, name) in _types()


_OWN: dict[str, type] = {}


def _types() -> dict[str, type]:
    return {**_types_of_flowleap(), **_OWN}


@cache
def _types_of_flowleap() -> dict[str, type]:
    rooms = [import_module(f"flowleap.{room}") for room in _ROOMS]
    found = [
        (room.__name__, thing) for room in rooms for thing in vars(room).values() if isinstance(thing, type)
    ]
    own = [cls for room, cls in found if cls.__module__.startswith(room) and is_dataclass(cls)]
    return {cls.__name__: cls for cls in own if not cls.__name__.startswith("_")}
