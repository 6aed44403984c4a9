"""All clients are there all the time."""

from __future__ import annotations

from math import inf

from quorate.availability._spans import Spans
from quorate.rand import Rand

_EVER = Spans([(-inf, inf)])


def always(client: int, rand: Rand) -> Spans:
    """Return one presence for all."""
    return _EVER
