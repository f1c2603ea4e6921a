"""Ablations: a method without some of its components, or with other values, as settings of its runs.

The components of a method are the fields in which it differs from the method it builds on.

    >>> [component.name for component in components("esc", methods.get("esc"))]
    ['gradual-end', 'plug-in', 'learned-weight', 'class-consistent']
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from itertools import product
from typing import Any

from flowleap import methods, serialize
from flowleap.objectives import Objective
from flowleap.suggest import suggest
from flowleap.training.config import FIELDS, FLAT

BUILT_ON = {"esc": "meanflow", "shortcut_repo": "shortcut", "shortcut_esc": "shortcut"}
"""The method that a method extends."""
NAMES = {
    "Gradual": "gradual-end",
    "PlugIn": "plug-in",
    "LearnedVariance": "learned-weight",
    "ClassGroups": "class-consistent",
}
"""The names of components by their type; others have the name of their field."""
GOVERNED = (
    *("method", "data.name", "objective", "network", "seed", "parallel.device", "name"),
    *("teacher.path", "teacher.weights", "teacher.checksum"),
    *("schedule.steps", "schedule.log_every", "schedule.sample_every", "schedule.checkpoint_every"),
    *(path for path in FIELDS if path.startswith("evaluation.")),
)
"""Fields of a config that the study sets, or that would make its rows incomparable."""
ALL = "all"
Settings = list[tuple[str, str]]


@dataclass(frozen=True)
class Component:
    """A part that a method adds to the one it builds on.

    Args:
        name: with hyphens.
        field: of the objective.
        part: the value of the field.
        without: its value where the component is left out: what the part wraps, or that of the other method.
    """

    name: str
    field: str
    part: Any
    without: Any

    @property
    def setting(self) -> tuple[str, str]:
        """The setting that leaves it out."""
        return self.field, json.dumps(serialize.to_dict(self.without))

    def goes_by(self, name: str) -> bool:
        """Whether this is its name, field or type, in any spelling."""
        return _key(name) in (_key(self.name), _key(self.field), _key(type(self.part).__name__))


def _key(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def components(method: str, objective: Objective) -> tuple[Component, ...]:
    """Return the components of a method that are left in an objective, which is that method or a changed one.

    A part that wraps one of the type that the other method has is replaced by what it wraps.
    """
    if method not in BUILT_ON:
        return ()
    own, plain = methods.get(method), methods.get(BUILT_ON[method])
    found = []
    for name in (f.name for f in fields(Objective) if f.name != "name"):
        part, other, usual = (getattr(whole, name) for whole in (objective, plain, own))
        if usual == other or type(part) is not type(usual):
            continue
        kept = [getattr(part, f.name) for f in fields(part)] if is_dataclass(part) else []
        without = next((inner for inner in kept if is_dataclass(inner) and type(inner) is type(other)), other)
        if part != without:
            found.append(Component(NAMES.get(type(part).__name__, name), name, part, without))
    return tuple(found)


def named(method: str, objective: Objective, names: Sequence[str]) -> tuple[Component, ...]:
    """Return the components of some names, "all" for all of them.

    Raises: ValueError for a method without components, an unknown name, with similar ones, or a repeated one.
    """
    known, shown = components(method, objective), method.replace("_", "-")
    if not known:
        raise ValueError(
            f"{shown} has no components to leave out: those of {', '.join(BUILT_ON).replace('_', '-')} are known; "
            "ablate its fields with --over FIELD=VALUE,VALUE"
        )
    if tuple(names) == (ALL,):
        return known
    found = []
    for name in names:
        meant = [component for component in known if component.goes_by(name)]
        if not meant:
            every = [*(component.name for component in known), ALL]
            raise ValueError(f"{shown} has no component {name!r}{suggest(name.replace('_', '-'), every)}")
        if meant[0] in found:
            raise ValueError(f"component {meant[0].name} twice: name each one once, or all")
        found += meant
    return tuple(found)


def dropped(method: str, objective: Objective, names: Sequence[str]) -> dict[str, Settings]:
    """Return the rows of an ablation by label: all components, each left out, each alone, none."""
    parts, shown = named(method, objective, names), method.replace("_", "-")
    rows: dict[str, Settings] = {shown: []}
    rows |= {f"{shown} without {one.name}": [one.setting] for one in parts}
    if len(parts) > 2:  # of two, one left out is the other alone
        for kept in parts:
            rows[f"{shown} with {kept.name} alone"] = [one.setting for one in parts if one is not kept]
    if len(parts) > 1:
        rows[f"{shown} with none"] = [one.setting for one in parts]
    return rows


def crossed(
    method: str, objective: Objective, over: Sequence[tuple[str, Sequence[str]]]
) -> dict[str, Settings]:
    """Return the rows of an ablation by label: every combination of the values of some fields.

    Raises: ValueError for a field that the study sets, a repeated one, or one without values.
    """
    names = [name for name, _ in over]
    paths = [FLAT.get(name, name) for name in names]
    for path, (name, texts) in zip(paths, over, strict=True):
        if path in GOVERNED:
            raise ValueError(f"--over {name}: a study decides this itself; ablate another field")
        if paths.count(path) > 1:
            raise ValueError(f"--over {name} twice: give all its values at once, as in {name}=V1,V2")
        if not texts or not all(texts) or len(set(texts)) < len(texts):
            raise ValueError(
                f"--over {name}={','.join(texts)}: different values are expected, as in {name}=V1,V2"
            )
    shown, rows = method.replace("_", "-"), {}
    fulls = [full_name(objective, name) for name in names]
    for texts in product(*(texts for _, texts in over)):
        told = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))
        meant = [spelled(objective, full, text) for full, text in zip(fulls, texts, strict=True)]
        rows[f"{shown}, {told}"] = list(zip(fulls, meant, strict=True))
    return rows


def full_name(objective: Objective, name: str) -> str:
    """Return the full dotted name of a field given by its first and last part, as in times.diagonal for
    times.pair.diagonal; any other name as it is."""
    known = dotted(serialize.to_dict(objective))
    head, _, last = name.partition(".")
    near = [one for one in known if last and one.startswith(f"{head}.") and one.endswith(f".{last}")]
    return near[0] if name not in known and len(near) == 1 else name


def spelled(objective: Objective, name: str, text: str) -> str:
    """Return a value as settings spell it: a part may be named by its first word, as in "linear" for LinearPath.

    >>> spelled(methods.esc(), "path", "trigonometric"), spelled(methods.esc(), "velocity", "plug-in")
    ('TrigPath', 'PlugIn')
    """
    part: Any = objective
    for field in name.split("."):
        part = getattr(part, field, None)
    if not is_dataclass(part):
        return text
    room = import_module(type(part).__module__)
    kinds = [kind for kind, thing in vars(room).items() if isinstance(thing, type) and is_dataclass(thing)]
    words = {
        kind: re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", kind)[0].lower() for kind in kinds if kind[0] != "_"
    }
    key = _key(text)
    found = [kind for kind in words if _key(kind) == key] or [
        kind for kind, word in words.items() if key == word or (len(word) > 3 and key.startswith(word))
    ]
    return found[0] if len(found) == 1 else text


def dotted(plain: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of all fields of a value in plain data."""
    found = []
    for key, value in plain.items():
        if key != "type":
            found += [f"{prefix}{key}"]
            found += dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


def choices(text: str) -> tuple[str, tuple[str, ...]]:
    """Split FIELD=V1,V2,… at the commas that are not inside a bracket or a string.

    >>> choices('loss={"type": "AdaptivePower", "power": 0.5},Squared')
    ('loss', ('{"type": "AdaptivePower", "power": 0.5}', 'Squared'))
    """
    name, _, rest = text.partition("=")
    parts, depth, quoted = [""], 0, False
    for letter in rest:
        quoted ^= letter == '"'
        depth += 0 if quoted else (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return name.strip(), tuple(part.strip() for part in parts)


def remainder(method: str, objective: Objective) -> list[tuple[str, Any, Any]]:
    """Return where a method without its components differs from the one it builds on: (field, left, there)."""
    plain = methods.get(BUILT_ON[method])
    bare = replace(objective, **{one.field: one.without for one in components(method, objective)})
    plain = replace(plain, name=bare.name, label_dropout=bare.label_dropout)
    return serialize.differences(serialize.to_dict(bare), serialize.to_dict(plain))
