"""Numbers, counts and times as text for people."""

from __future__ import annotations

import math

BLANK = "–"
"""What stands for a number that is not there."""


def number(value: float | None, digits: int = 3, *, places: int | None = None, sign: str = "") -> str:
    """Return a number with some significant digits, or with fixed decimal places; a dash for None.

    Args:
        sign: "+" writes that of a positive number as well.

    >>> number(0.31642), number(0.5), number(1234.5), number(-0.0012), number(2e-5, 2), number(None)
    ('0.316', '0.500', '1,234', '−0.00120', '2.0e−5', '–')
    >>> number(0.98765, places=2), number(0.25, places=4, sign="+")
    ('0.99', '+0.2500')
    """
    if value is None:
        return BLANK
    if not math.isfinite(value):
        return f"{value:g}"
    mantissa, power = f"{value:{sign}.{digits - 1}e}".split("e")
    if places is None and not -5 < int(power) < 6:
        return f"{mantissa}e{int(power)}".replace("-", "−")
    places = max(0, digits - 1 - int(power)) if places is None else places
    return f"{value:{sign},.{places}f}".replace("-", "−")


def scaled(value: float | None, unit: str = "") -> str:
    """Return a large number with the prefix of its unit.

    >>> scaled(1_234_567), scaled(999), scaled(7e9, "B"), scaled(12, "B"), scaled(None)
    ('1.23 M', '999', '7 GB', '12 B', '–')
    """
    if value is None:
        return BLANK
    prefixes = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    scale, prefix = next((one for one in prefixes if value >= one[0]), (1.0, ""))
    return f"{value / scale:.{'0f' if scale == 1 else '3g'}} {prefix}{unit}".rstrip()


def plural(count: int, word: str) -> str:
    """Return a count with its word.

    >>> plural(1, "run"), plural(3000, "run")
    ('1 run', '3,000 runs')
    """
    return f"{count:,} {word}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """Return a time as a clock shows it.

    >>> duration(75), duration(3725), duration(200_000)
    ('1:15', '1:02:05', '2 d 7 h')
    """
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def roughly(seconds: float) -> str:
    """Return a time in one unit; a very long one in days as well.

    >>> roughly(75), roughly(500), roughly(9000), roughly(2400 * 3600)
    ('75 s', '8 min', '2.5 h', '2,400 h (100 days)')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    if hours < 2:
        return f"{seconds / 60:.0f} min"
    return f"{hours:,.1f} h" if hours < 1000 else f"{hours:,.0f} h ({hours / 24:,.0f} days)"
