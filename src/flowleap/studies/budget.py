"""Training budgets in steps, images or time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["steps", "images", "seconds"]
UNITS: dict[str, tuple[Unit, float]] = {
    "step": ("steps", 1),
    "steps": ("steps", 1),
    "img": ("images", 1),
    "kimg": ("images", 1e3),
    "mimg": ("images", 1e6),
    "s": ("seconds", 1),
    "m": ("seconds", 60),
    "min": ("seconds", 60),
    "h": ("seconds", 3600),
}


@dataclass(frozen=True)
class Budget:
    """A training budget: a number of steps, images or seconds."""

    amount: float
    unit: Unit
    text: str

    def steps(self, batch: int) -> float:
        """Return the number of steps at a batch size; raises ValueError for a time, which must be measured."""
        if self.unit == "seconds":
            raise ValueError(f"a budget of {self.text} is a time: how many steps it allows must be measured")
        return self.amount if self.unit == "steps" else self.amount / batch


def parse(text: str) -> Budget:
    """Parse a budget: 400steps, 50kimg (thousand images), 90s, 3m or 1h.

    Raises: ValueError for a number that is not positive, a missing or an unknown unit, or a broken step.

    >>> parse("3m").amount, parse("50kimg").steps(batch=100), parse("400steps").steps(batch=100)
    (180.0, 500.0, 400.0)
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", text.lower())
    known = "expected a number and its unit, as in 400steps, 50kimg, 90s, 3m or 1h"
    if found is None:
        raise ValueError(f"budget {text!r}: {known}")
    number, name = float(found[1]), found[2]
    if name not in UNITS:
        raise ValueError(
            f"budget {text!r} has {f'the unknown unit {name!r}' if name else 'no unit'}: {known}"
        )
    unit, factor = UNITS[name]
    if number <= 0 or (unit == "steps" and number != int(number)):
        raise ValueError(f"budget {text!r}: {known}; steps are whole numbers from 1 up")
    return Budget(number * factor, unit, text.strip())
