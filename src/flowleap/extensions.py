"""Your own methods, parts and networks, from a Python file or module that you name; no code is run unasked.

    imported("my_method.py")            # then methods.get("my_method"), serialize.from_dict, networks.build know them

A file defines, each by its name: functions without required arguments that return an `Objective` (methods), frozen
dataclasses (parts, for `--set loss=Name`) and `torch.nn.Module` classes (networks, for `--network Name`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from torch import nn

from flowleap import methods, networks, serialize
from flowleap.objectives import Objective

FOLDER = "imports"
"""The folder of a run with copies of the imported files."""


@dataclass(frozen=True)
class Imported:
    """An imported module: its name, its file and the SHA-256 of that, and the names that it defines."""

    name: str
    path: Path
    checksum: str
    methods: tuple[str, ...]
    parts: tuple[str, ...]
    networks: tuple[str, ...]


_LOADED: dict[str, Imported] = {}


def imported(source: str | Path) -> Imported:
    """Run a Python file or import a module, and register the methods, parts and networks that it defines.

    Importing an unchanged file again does nothing; a changed file replaces what it had registered.

    Raises: FileNotFoundError for a missing file; ValueError for code that fails, that defines none of these, or a name
        that is taken, also by a file of the same name in another folder.
    """
    text = str(source)
    is_file = text.endswith(".py") or "/" in text or Path(text).is_file()
    if is_file and not Path(text).is_file():
        raise FileNotFoundError(f"{text}: no such file to import")
    name = Path(text).name if is_file else text
    before = _LOADED.get(name)
    checksum = _checksum(Path(text)) if is_file else ""
    if before is not None and before.checksum == checksum and before.path == Path(text).resolve():
        return before
    if before is not None and is_file and before.path != Path(text).resolve():
        raise ValueError(
            f"{text} and {before.path} have the same name, by which a run remembers them: give one another name"
        )
    module = _run(Path(text).resolve()) if is_file else _module(text)
    path = Path(str(module.__file__)).resolve()
    if before is not None:
        forget(name)
    _LOADED[name] = _registered(module, name, path)
    return _LOADED[name]


def loaded() -> tuple[Imported, ...]:
    """Return all imported modules."""
    return tuple(_LOADED.values())


def sources() -> tuple[str, ...]:
    """Return what another process must import to have the same names."""
    return tuple(str(one.path) if one.name.endswith(".py") else one.name for one in loaded())


def checksums() -> dict[str, str]:
    """Return the SHA-256 of the imported files by name, as the config of a run records them."""
    return {one.name: one.checksum for one in loaded()}


def copy_into(place: Path, names: Mapping[str, str]) -> None:
    """Copy the imported files that a run records into its folder."""
    for one in loaded():
        if one.name in names and one.name.endswith(".py"):
            (place / FOLDER).mkdir(exist_ok=True)
            (place / FOLDER / one.name).write_bytes(one.path.read_bytes())


def missing(config: Mapping[str, Any], place: Path) -> str | None:
    """Return a message on parts or networks of a run that are not registered and how to import them, or None.

    Args:
        config: the values in the config.json of the run in `place`. Code in that folder is never run unasked.
    """
    unknown = sorted(
        {kind for kind in _kinds(config.get("objective")) if not serialize.known(kind)}
        | {kind for kind in _kinds(config.get("network")) if not networks.known(kind)}
    )
    if not unknown:
        return None
    what = f"{place} needs {', '.join(unknown)}, which flowleap does not have"
    sources = list(config.get("imports") or {})
    if not sources:
        return f"{what}: name the file or module that defines it with --import"
    held = [place / FOLDER / name if (place / FOLDER / name).is_file() else name for name in sources]
    options = " ".join(f"--import {source}" for source in held)
    return (
        f"{what}: it was made with {', '.join(sources)}, whose code is not run unasked. Read it, then add {options}, "
        "or name your own copy"
    )


def changed(config: Mapping[str, Any]) -> list[str]:
    """Return the names of imported files whose content differs from that recorded in the config of a run."""
    recorded: Mapping[str, str] = config.get("imports") or {}
    return [one.name for one in loaded() if recorded.get(one.name, one.checksum) != one.checksum]


def _kinds(value: Any) -> set[str]:
    """Return the names of all parts or networks in plain data."""
    if isinstance(value, list):
        return set().union(*map(_kinds, value))
    if not isinstance(value, Mapping):
        return set()
    own = {str(value[key]) for key in ("type", "kind") if key in value}
    return own.union(*(_kinds(item) for item in value.values()))


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(path: Path) -> ModuleType:
    """Run a file as a module; it can import the files beside it."""
    name = f"imported.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path.name} cannot be imported: {_said(error, path)}") from error
    return module


def _module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"there is no file and no module {name!r} to import") from error
        raise ValueError(f"{name} cannot be imported: {error}") from error
    except Exception as error:
        raise ValueError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    if not getattr(found, "__file__", None):
        raise ValueError(f"{name} is no module with a file of its own: name the .py file")
    return found


def _said(error: Exception, path: Path) -> str:
    """Return an error with the line of the file where it occurred."""
    if isinstance(error, SyntaxError):
        return f"{error.msg}, line {error.lineno}"
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}" + (f", line {lines[-1]}" if lines else "")


def _registered(module: ModuleType, name: str, path: Path) -> Imported:
    own = {
        key: thing
        for key, thing in vars(module).items()
        if not key.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    }
    made = {key: thing for key, thing in own.items() if inspect.isfunction(thing) and _is_method(thing)}
    types = {key: thing for key, thing in own.items() if isinstance(thing, type) and thing.__name__ == key}
    nets = {key: kind for key, kind in types.items() if issubclass(kind, nn.Module)}
    parts = {key: part for key, part in types.items() if is_dataclass(part) and key not in nets}
    if not (made or parts or nets):
        raise ValueError(
            f"{name} defines no method (a function that returns an Objective, by its annotation), no part (a frozen "
            "dataclass) and no network (an nn.Module)"
        )
    with ExitStack() as undone:
        for key, part in parts.items():
            serialize.add(part)
            undone.callback(serialize.remove, key)
        for key, kind in nets.items():
            networks.add(kind)
            undone.callback(networks.remove, key)
        for key, function in made.items():
            methods.add(key, function)
            undone.callback(methods.remove, key)
        undone.pop_all()
    return Imported(name, path, _checksum(path), tuple(made), tuple(parts), tuple(nets))


def _is_method(function: Any) -> bool:
    """Return whether a function needs no arguments and is annotated to return an `Objective`."""
    try:
        returned = get_type_hints(function).get("return")
    except NameError:
        return False
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return returned is Objective and not [
        p for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def forget(name: str) -> None:
    """Unregister what was imported under a name."""
    one = _LOADED.pop(name)
    for name in one.methods:
        methods.remove(name)
    for name in one.parts:
        serialize.remove(name)
    for name in one.networks:
        networks.remove(name)
