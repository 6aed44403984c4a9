"""Which codec to use on a link: the least lossy one whose messages take next to no time beside the computation.

What each candidate takes is predicted from the link, the bytes of its messages and the seconds of coding them. The
choice depends on nothing but these numbers, and says why it is as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from quorate.errors import RunError
from quorate.report import units

Way = Literal["backend", "direct", "gather"]
"""How messages are combined: summed by the engine's all-reduce, summed after one hop, or decoded one by one."""


@dataclass(frozen=True)
class Link:
    """How long messages take between workers, each pair's link being as slow as the slowest.

    Args:
        size: n, the number of workers.
        rate: bytes per second that a worker can send, and receive at the same time.
        all_reduce: seconds that the engine's all-reduce of a few bytes takes.
        all_gather: seconds until a few bytes of everybody have reached everybody over connections of two: about the
            latency one way; inf if there are no such connections.
    """

    size: int
    rate: float
    all_reduce: float
    all_gather: float

    @classmethod
    def described(cls, size: int, latency: float, rate: float, transport: Literal["ideal", "gloo"] = "ideal") -> Link:
        """Return the link of a described cluster.

        Args:
            latency: seconds one way between two workers.
            rate: bytes per second.
            transport: "ideal": a ring has 2 (n - 1) hops of one latency; "gloo": it asks for each message, and our own
                messages take half a millisecond of the worker's time, as measured.
        """
        hops = 2 * (size - 1)
        if transport == "ideal" or size == 1:
            return cls(size, rate, hops * latency, latency if size > 1 else 0.0)
        return cls(size, rate, (2 * hops + 1) * latency, latency + 0.5e-3)

    def summed(self, bytes: float) -> tuple[float, Way]:
        """Return the seconds of summing messages of so many bytes on their way, and the faster way of doing so."""
        ring = self.all_reduce + self.occupied(bytes, "backend")
        direct = self.all_gather + self.occupied(bytes, "direct")
        return (direct, "direct") if direct < ring else (ring, "backend")

    def gathered(self, bytes: float) -> float:
        """Return the seconds until everybody has the messages of all, of so many bytes each."""
        return self.all_gather + self.occupied(bytes, "gather")

    def occupied(self, bytes: float, way: Way) -> float:
        """Return for how many seconds of the above a worker's link is busy."""
        times = 2 * (self.size - 1) / self.size if way == "backend" else self.size - 1
        return times * bytes / self.rate


@dataclass(frozen=True)
class Cost:
    """What a candidate's messages of one update are.

    Args:
        sizes: bytes that a worker says in each meeting, one after the other.
        encode: seconds.
        decode: seconds, of the messages of all workers.
        summed: messages are summed on their way.
    """

    sizes: tuple[float, ...]
    encode: float
    decode: float
    summed: bool

    @property
    def bytes(self) -> float:
        """What a worker says for one update."""
        return sum(self.sizes)

    def travel(self, link: Link) -> tuple[float, Way]:
        """Return the seconds of all meetings, coding left out, and the way that is best for the longest message."""
        if link.size == 1:
            return 0.0, "backend" if self.summed else "gather"
        if not self.summed:
            return sum(map(link.gathered, self.sizes)), "gather"
        way = link.summed(max(self.sizes))[1]
        start = link.all_reduce if way == "backend" else link.all_gather
        return sum(start + link.occupied(size, way) for size in self.sizes), way


@dataclass(frozen=True)
class Row:
    """What was found out about one candidate.

    Args:
        bytes: of a worker's messages; 0 if it can't be used.
        coding: seconds.
        seconds: of the whole meeting, coding included; inf if it can't be used.
        verdict: why it was chosen, or not.
    """

    name: str
    way: Way
    bytes: float
    coding: float
    seconds: float
    verdict: str


@dataclass(frozen=True)
class Choice:
    """A candidate, and why.

    Args:
        name: as it stands in the list of candidates.
        because: a sentence.
        rows: all candidates, in their order.
    """

    name: str
    way: Way
    because: str
    rows: tuple[Row, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return what a run's folder holds of it."""
        rows = [[row.name, row.way, row.bytes, row.coding, str(row.seconds), row.verdict] for row in self.rows]
        return {"name": self.name, "way": self.way, "because": self.because, "rows": rows}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Choice:
        """Read what `facts` has returned.

        Raises:
            RunError: if it is something else.
        """
        try:
            rows = tuple(
                Row(name, way, bytes, coding, float(seconds), verdict)
                for name, way, bytes, coding, seconds, verdict in facts["rows"]
            )
            return cls(facts["name"], facts["way"], facts["because"], rows)
        except (LookupError, TypeError, ValueError) as error:
            raise RunError(f"the run's folder does not say which codec was chosen: {error}") from error

    def cells(self) -> list[tuple[str, ...]]:
        """Return the rows as people read them: candidate, bytes, coding, meeting, way, verdict."""
        shown: list[tuple[str, ...]] = []
        for row in self.rows:
            numbers = (units.size(row.bytes), units.seconds(row.coding), units.seconds(row.seconds), row.way)
            shown.append((row.name, *(numbers if row.seconds < inf else (units.NOTHING,) * 4), row.verdict))
        return shown

    def __str__(self) -> str:
        cells = [HEADINGS, *self.cells()]
        widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(each, widths, strict=True)) for each in cells]
        return "\n".join([f"adaptive: {self.name}, because {self.because}", *(f"  {line}".rstrip() for line in lines)])


HEADINGS = ("candidate", "a message", "coding", "meeting", "by", "verdict")


def choose(candidates: Mapping[str, Cost | str], link: Link, compute: float, fraction: float = 0.05) -> Choice:
    """Choose the first candidate that lengthens a step by next to nothing, or else by about as little as possible.

    A candidate will do if its meeting takes at most `fraction` of the computation, or if a step with it is at most
    `fraction` longer than with the fastest one. So more computation never makes the choice lossier, and no faster link
    does so where the meeting takes no more than its fraction.

    Args:
        candidates: from the least to the most lossy; instead of a cost, why it can't be used.
        compute: seconds that a worker computes between two meetings, while nothing travels.
        fraction: of the computation, or of a step.

    Raises:
        RunError: if no candidate can be used.
    """
    travels = {name: cost.travel(link) for name, cost in candidates.items() if isinstance(cost, Cost)}
    seconds = {name: _coding(candidates[name]) + travels[name][0] for name in travels}
    fastest = min(seconds.values(), default=inf)
    if fastest == inf:
        why = "; ".join(f"{name}: {cost}" for name, cost in candidates.items())
        raise RunError(f"`adaptive` finds no candidate that can be used ({why})", "name others in `candidates`")
    allowed = fraction * compute + (1 + fraction) * fastest
    name = next(each for each, taken in seconds.items() if taken <= allowed)
    names = list(candidates)
    rows = []
    for place, each in enumerate(names):
        cost = candidates[each]
        if not isinstance(cost, Cost) or seconds[each] == inf:
            rows.append(Row(each, "gather", 0.0, 0.0, inf, f"can't be used: {_why_not(cost)}"))
            continue
        verdict = "chosen" if each == name else "lossier than needed"
        if place < names.index(name):
            verdict = f"a step takes {(compute + seconds[each]) / (compute + fastest):.3g} times the fastest's time"
        rows.append(Row(each, travels[each][1], cost.bytes, _coding(cost), seconds[each], verdict))
    because = _because(names.index(name) == 0, link, seconds[name], compute, fraction)
    return Choice(name, travels[name][1], because, tuple(rows))


def _coding(cost: Cost | str) -> float:
    return cost.encode + cost.decode if isinstance(cost, Cost) else inf


def _why_not(cost: Cost | str) -> str:
    return cost if isinstance(cost, str) else "there are no connections of two"


def _because(first: bool, link: Link, taken: float, compute: float, fraction: float) -> str:
    if link.size == 1:
        return "one worker alone sends nothing"
    least = "it is the least lossy, and " if first else ""
    takes = f"a meeting takes {units.seconds(taken)} beside {units.seconds(compute)} of computing"
    if taken <= fraction * compute:
        return f"{least}{takes}, at most {fraction:.0%} of it" + ("" if first else ", and of no less lossy candidate")
    fast = f"a step is at most {fraction:.0%} longer than with the fastest candidate"
    return f"{least}{takes}, and {fast}" + ("" if first else ", unlike with any less lossy one")
