"""Presence as a list of times from which and until which a client is there, once or again and again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import floor, inf


class Spans:
    """A client that is there in [from, until) seconds.

    Args:
        spans: (from, until) in seconds; those that overlap or touch are one.
        period: seconds after which they come again; inf for never.
    """

    def __init__(self, spans: Sequence[tuple[float, float]], period: float = inf) -> None:
        merged: list[tuple[float, float]] = []
        for start, end in sorted(spans if period == inf else _folded(spans, period)):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            elif start < end:
                merged.append((start, end))
        if len(merged) > 1 and (merged[0][0], merged[-1][1]) == (0, period):
            merged = [*merged[1:-1], (merged[-1][0], merged[0][1] + period)]
        self._starts, self._ends, self._period = [a for a, _ in merged], [b for _, b in merged], period
        self._always = merged == [(0, period)]

    def present(self, time: float) -> bool:
        """See `Presence`."""
        return bool(self._starts) and (self._always or time < self._end(self._last_begun(time)))

    def next_change(self, time: float) -> float:
        """See `Presence`."""
        if not self._starts or self._always:
            return inf
        place = self._last_begun(time)
        end = self._end(place)
        return end if time < end else self._start(place + 1)

    def _last_begun(self, time: float) -> int:
        """Return the place of the last span that has begun, counted on through all periods; -1 if none has."""
        n = len(self._starts)
        if self._period == inf:
            return bisect_right(self._starts, time) - 1
        place = floor((time - self._starts[0]) / self._period) * n
        while self._start(place) > time:
            place -= 1
        while self._start(place + 1) <= time:
            place += 1
        return place

    def _start(self, place: int) -> float:
        return self._at(self._starts, place, inf)

    def _end(self, place: int) -> float:
        return self._at(self._ends, place, -inf)

    def _at(self, times: list[float], place: int, beyond: float) -> float:
        turn, index = divmod(place, len(times))
        if self._period == inf:
            return times[index] if turn == 0 else beyond
        return times[index] + turn * self._period


def _folded(spans: Sequence[tuple[float, float]], period: float) -> Iterator[tuple[float, float]]:
    """Yield the parts of [0, period) in which one of the spans, coming again and again, is."""
    for start, end in spans:
        first = start - floor(start / period) * period
        last = first + min(end - start, period)
        yield first, min(last, period)
        if last > period:
            yield 0.0, last - period
