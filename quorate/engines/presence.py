"""Which of a simulated federation's clients are there: by their availability, and by the cluster's events.

A client whose machine stops is taken to be there until its server notices; one that goes as its availability says tells
so itself.
"""

from __future__ import annotations

import heapq
from itertools import compress
from math import inf
from typing import NamedTuple

from quorate.availability import Availability, Presence
from quorate.cluster import Cluster
from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.schedule import Absence, Pace, Schedule, described


class Loss(NamedTuple):
    """How a client's work comes to nothing.

    Args:
        at: seconds of the clock when it stops.
        told: when the server gets to know.
        why: in words.
    """

    at: float
    told: float
    why: str


class Presences:
    """Where all clients are, at times that do not go back.

    Args:
        cluster: whose events happen; machine number `size` is the server.
        availability: None for always.
        lasting: clients that are at work stay until they are through, whatever their availability says.

    Raises:
        RecipeError: if an event can't be meant, or is about the server.
    """

    def __init__(
        self, size: int, cluster: Cluster, rand: Rand, availability: Availability | None = None, lasting: bool = False
    ) -> None:
        self._size, self._lasting = size, lasting
        self._ways: list[Presence] | None = None
        if availability is not None:
            self._ways = [availability(client, rand) for client in range(size)]
        for event in cluster.event:
            if size in event.ranks and event.kind != "cut":
                raise RecipeError(
                    f"{described(event)}, but rank {size} is the federation's server, which does not fail here",
                    "name clients, or kill and restart a real server",
                )
        Schedule(cluster, size + 1)
        others = tuple(event for event in cluster.event if event.kind != "cut")
        self._schedule = Schedule(cluster.model_copy(update={"event": others}), size + 1)
        self.cuts = Schedule(cluster, size + 1).cuts
        """Between whom nothing travels when."""
        self._absences: dict[int, list[Absence]] = {}
        for absence in (*self._schedule.absences, *self._cut_off(cluster.detection)):
            self._absences.setdefault(absence.rank, []).append(absence)
        self._here = bytearray(size)
        self._changes: list[tuple[float, int]] | None = None

    def _cut_off(self, detection: float) -> list[Absence]:
        """Return the absences of those whom a cut separates from the server for so long that it notices."""
        found = []
        for cut in self.cuts:
            for one, other in (cut.sides, cut.sides[::-1]):
                if self._size in other and cut.until > cut.since + detection:
                    why, noticed = f"it was cut off at {cut.since:g} s", cut.since + detection
                    found += [Absence(client, noticed, noticed, cut.until, why) for client in sorted(one)]
        return found

    def pace(self, client: int) -> Pace | None:
        """Return how fast a client's machine is when; None if it is always as fast."""
        return self._schedule.pace(client)

    def there(self, now: float) -> list[int]:
        """Return who could be asked, ascending, those at work included."""
        if self._ways is None and not self._absences:
            return list(range(self._size))
        self._update(now)
        return list(compress(range(self._size), self._here))

    def next_arrival(self, now: float, busy: set[int]) -> float:
        """Return when somebody comes who is not there now, and not at work; inf for never."""
        if self._ways is None and not self._absences:
            return inf
        self._update(now)
        assert self._changes is not None
        times = [time for time, client in self._changes if not self._here[client] and client not in busy]
        return min(times, default=inf)

    def _update(self, now: float) -> None:
        if self._changes is None:
            self._changes = [(self._look(client, now), client) for client in range(self._size)]
            heapq.heapify(self._changes)
        while self._changes and self._changes[0][0] <= now:
            client = self._changes[0][1]
            heapq.heapreplace(self._changes, (self._look(client, now), client))

    def _look(self, client: int, now: float) -> float:
        """Take note whether a client is there now, and return until when that is so."""
        time = now
        here = self._is_there(client, now)
        self._here[client] = here
        while time < inf:
            time = self._next(client, time)
            if time == inf or self._is_there(client, time) != here:
                break
        return time

    def _is_there(self, client: int, time: float) -> bool:
        away = any(each.noticed <= time < each.back for each in self._absences.get(client, ()))
        return not away and (self._ways is None or self._ways[client].present(time))

    def _next(self, client: int, time: float) -> float:
        backs = [each.back for each in self._absences.get(client, ()) if each.noticed <= time < each.back]
        if backs:
            return max(backs)
        edges = [edge for each in self._absences.get(client, ()) for edge in (each.noticed, each.back) if edge > time]
        if self._ways is not None:
            edges.append(self._ways[client].next_change(time))
        return min(edges, default=inf)

    def loss(self, client: int, now: float) -> Loss:
        """Return how the work of a client that is asked now would come to nothing, if it took long enough."""
        found = Loss(inf, inf, "")
        for each in self._absences.get(client, ()):
            if each.back > now and each.stops < found.at:
                found = Loss(max(now, each.stops), max(now, each.noticed), each.why)
        if self._ways is not None and not self._ways[client].present(now):
            return min(found, Loss(now, now, "it was not there"))
        if self._ways is not None and not self._lasting:
            goes = self._ways[client].next_change(now)
            return min(found, Loss(goes, goes, "it went away"))
        return found
