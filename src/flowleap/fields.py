"""Checks of the fields of a part against their annotations, with errors in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flowleap.suggest import suggest

__all__ = ["LARGEST", "check", "fits", "hints", "in_words", "needed", "wrong"]

LARGEST = 2**63
"""Whole numbers are smaller than this, as those of tensors are."""
SINGLE = 3.4e38
"""The largest number of single precision, in which losses are computed."""


def check(part: Any) -> None:
    """Refuse a part, a dataclass, one of whose fields holds what its annotation does not allow.

    Raises: ValueError naming the field, what was given, what is expected, and the nearest part.
    """
    owner: Any = type(part)
    for field in fields(part):
        value = getattr(part, field.name)
        if not fits(value, hints(owner)[field.name]):
            raise ValueError(wrong(owner, field.name, value))


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is what an annotation says: numbers finite, parts of the class that is asked for."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return any(value == option and isinstance(value, type(option)) for option in inner)
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return isinstance(value, tuple) and all(fits(v, inner[0]) for v in value)
        same = isinstance(value, tuple) and len(value) == len(inner)
        return same and all(fits(v, h) for v, h in zip(value, inner, strict=True))
    if origin is Sequence:
        return isinstance(value, tuple | list) and all(fits(v, inner[0]) for v in value)
    if origin is Callable:
        return callable(value)
    if hint is Any:
        return True
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    return isinstance(value, hint)


def wrong(owner: type, name: str, value: Any, said: str | None = None) -> str:
    """Say what is wrong with the value of a field: what was given, in the words of `said`, and what is expected."""
    hint = hints(owner)[name]
    given = f"{owner.__name__}.{name}={value!r}" if said is None else said
    if isinstance(value, float) and not _finite(value):
        return f"{given} is not finite in single precision: {owner.__name__}.{name} is {in_words(hint)}"
    known = _candidates(hint)
    meant = value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
    hinted = suggest(meant, known) if known else ""
    if known and is_dataclass(value) and not isinstance(value, type) and meant not in known:
        hinted += f"; a part of your own inherits from {in_words(hint)} of flowleap.interfaces"
    return f"{given} does not fit: {owner.__name__}.{name} is {in_words(hint)}{hinted}"


def needed(field: Field[Any]) -> bool:
    """Return whether a field of a dataclass has no default."""
    return field.default is MISSING and field.default_factory is MISSING


@cache
def hints(of: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the annotations of a class or a function, resolved; Any for all where one is for type checkers only."""
    try:
        return get_type_hints(of)
    except NameError:
        return defaultdict(lambda: Any)


def _finite(value: float) -> bool:
    return abs(value) <= SINGLE  # False of what is no number


def in_words(hint: Any) -> str:
    """Return an annotation as one reads it.

    >>> in_words(Literal["t, r", "t"])
    "'t, r' or 't'"
    """
    if get_origin(hint) is Literal:
        return " or ".join(repr(option) for option in get_args(hint))
    return str(getattr(hint, "__name__", hint)).replace("flowleap.interfaces.", "").replace("flowleap.", "")


def _candidates(hint: Any) -> list[str]:
    """Return the names of the parts, made without arguments, that a field takes."""
    options = [option for option in get_args(hint) or (hint,) if isinstance(option, type)]
    known = {cls for option in options for cls in _family(option) if is_dataclass(cls)}
    free = [cls for cls in known if not any(needed(f) for f in fields(cls))]
    return sorted(cls.__name__ for cls in free if not cls.__name__.startswith("_") and fits(cls(), hint))


def _family(cls: type) -> list[type]:
    """Return a class and all that inherit from it."""
    below: list[type] = cls.__subclasses__()
    return [cls, *(other for child in below for other in _family(child))]
