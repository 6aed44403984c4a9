"""Clients are there when a file says so: lines `client,from,until`, or of JSON with these three keys, in seconds.

A client that the file does not name is never there.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from quorate.availability._spans import Spans
from quorate.cluster import Seconds
from quorate.errors import DataError, RecipeError
from quorate.rand import Rand

_KEYS = ("client", "from", "until")


def trace(client: int, rand: Rand, *, file: Path, folder: Path, repeat: Seconds | None = None) -> Spans:
    """Follow a file.

    Args:
        file: CSV, with or without a heading, or JSON lines.
        folder: the recipe's, which `file` is relative to.
        repeat: seconds after which what the file says begins anew; None: it is said once.

    Raises:
        DataError: if the file can't be read.
        RecipeError: if `repeat` is 0.
    """
    if repeat is not None and repeat <= 0:
        raise RecipeError(f"`repeat` is seconds, above 0; got {repeat:g}", 'repeat = "24 h"')
    return Spans(_read(folder / file).get(client, ()), math.inf if repeat is None else repeat)


@lru_cache(maxsize=4)
def _read(path: Path) -> dict[int, list[tuple[float, float]]]:
    """Return the (from, until) of every client."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the trace of availability `{path}` can't be read: {error}") from error
    found: dict[int, list[tuple[float, float]]] = {}
    for number, line in enumerate(lines):
        if not line.strip() or (number == 0 and line.replace(" ", "") == ",".join(_KEYS)):
            continue
        try:
            client, start, end = _values(line)
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"`{path}`, line {number + 1}, is no `client,from,until` of numbers in order: {line[:60]!r}",
                "0,3600,7200",
            ) from error
        found.setdefault(client, []).append((start, end))
    return found


def _values(line: str) -> tuple[int, float, float]:
    values: Any = [json.loads(line)[key] for key in _KEYS] if line.lstrip().startswith("{") else line.split(",")
    client, start, end = int(values[0]), float(values[1]), float(values[2])
    if client < 0 or len(values) != len(_KEYS) or not -math.inf < start < end:
        raise ValueError("out of order")
    return client, start, end
