"""The teacher of an objective: a trained map is put into every part that needs one."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from flowleap.flow_map import FlowMap
from flowleap.interfaces import Composition, Part

__all__ = ["check_teacher", "taught"]


def check_teacher(o: Composition, flow: FlowMap) -> None:
    """Refuse a teacher on another path, or one whose weights cannot become those of the student.

    Raises: ValueError.
    """
    if flow.path != o.path:
        raise ValueError(
            f"{o.name} lives on {o.path}, but its teacher on {flow.path}: train a teacher on the same path"
        )
    copied = o.starts_from_teacher or o.frozen.holds_teacher
    rather = f"give both the same, as a run of {o.frozen.taught_by.replace('_', '-')} has"
    if copied and flow.parameterization != o.parameterization:
        raise ValueError(
            f"{o.name} goes on from the weights of its teacher, which give {flow.parameterization}, not "
            f"{o.parameterization}: {rather}"
        )
    if o.frozen.network_kind is not None and flow.conditioning != o.conditioning:
        raise ValueError(
            f"{o.name} asks one network or the other by the time, and its own has conditioning={o.conditioning!r}, "
            f"but its first stage {flow.conditioning!r}: {rather}"
        )


def taught(value: Any, flow: FlowMap) -> Any:
    """Return a part with the map in it and in its own parts, wherever one is missing."""
    if isinstance(value, Part) and value.needs_teacher:
        return value.with_teacher(flow)
    parts = {f.name: getattr(value, f.name) for f in fields(value)}
    inner = {n: v for n, v in parts.items() if is_dataclass(v) and not isinstance(v, type | FlowMap)}
    changed = {n: new for n, v in inner.items() if (new := taught(v, flow)) is not v}
    return replace(value, **changed) if changed else value
