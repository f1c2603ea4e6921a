"""One finding of a diagnosis: how serious it is, its title, and a text that names the likely cause and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ORDER", "Finding", "Severity"]

Severity = Literal["note", "warning", "problem"]
ORDER: tuple[Severity, ...] = ("problem", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """What was found: its title, and a text with the numbers, the likely cause and what to do."""

    severity: Severity
    title: str
    text: str
