"""Numbers as people read them: SI prefixes for bytes, and seconds from microseconds to hours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

NOTHING = "–"  # noqa: RUF001 - the typographic dash of an empty table cell


@dataclass(frozen=True)
class Unit:
    """A unit's sign, and how many seconds or bytes it stands for."""

    sign: str
    worth: float


SECONDS = (Unit("µs", 1e-6), Unit("ms", 1e-3), Unit("s", 1.0), Unit("min", 60.0), Unit("h", 3600.0))
BYTES = tuple(Unit(sign, 1000.0**power) for power, sign in enumerate(("B", "kB", "MB", "GB", "TB", "PB")))


def unit_of_seconds(largest: float) -> Unit:
    """Return the unit in which times up to `largest` seconds are written; minutes and hours from two on."""
    fitting = [unit for unit in SECONDS if largest >= (unit.worth if unit.worth <= 1 else 2 * unit.worth)]
    if fitting:
        return fitting[-1]
    return SECONDS[0] if largest > 0 else SECONDS[2]


def unit_of_bytes(largest: float) -> Unit:
    """Return the unit in which amounts up to `largest` bytes are written."""
    return [unit for unit in BYTES if largest >= unit.worth or unit is BYTES[0]][-1]


def seconds(value: float | None) -> str:
    """Write a time given in seconds, e.g. "350 ms"."""
    return _amount(value, unit_of_seconds)


def size(value: float | None) -> str:
    """Write a number of bytes, e.g. "1.23 MB"."""
    if value is not None and 0 <= value < 1000:
        return f"{value:.0f} B"
    return _amount(value, unit_of_bytes)


def count(value: float | None) -> str:
    """Write a whole number with commas between the thousands."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if math.isfinite(value) else str(value)


def share(value: float | None) -> str:
    """Write a number in [0, 1] to four places."""
    return NOTHING if value is None else f"{value:.4f}"


def plain(value: float | None) -> str:
    """Write a number without unit to four significant digits."""
    return NOTHING if value is None else f"{value:.4g}"


def _amount(value: float | None, choose: Callable[[float], Unit]) -> str:
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    unit = choose(abs(value))
    scaled = value / unit.worth
    digits = 0 if scaled >= 100 or scaled == 0 else 1 if scaled >= 10 else 2
    return f"{scaled:,.{digits}f} {unit.sign}"
