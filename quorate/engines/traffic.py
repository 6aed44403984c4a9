"""What goes on between a simulated server and its clients: requests, computations, replies, and what is lost.

A request goes down to its client, which computes, and its reply goes up; the links of the server and of each client are
shared by what goes through them (`engines/network.py`). Events happen in the order of (virtual time, order of
scheduling).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from quorate.cluster import Cluster
from quorate.engines.errands import Errand, Phase, loaded, saved
from quorate.engines.network import Network, Sides
from quorate.engines.presence import Presences
from quorate.federated import Request
from quorate.rand import Rand
from quorate.trace import Trace
from quorate.trees import Tree, branch, leaf

_STEP, _LOSS, _CUT = range(3)  # kinds of events


class Traffic:
    """Carries errands.

    Args:
        size: number of clients; machine number `size` is the server.
        cluster: what computing and talking costs.
        rand: for speeds that vary.
        presences: who is lost when.
        trace: of what is sent and computed.
        cost: gradients of single samples that an errand takes.
        work_out: gives errands their results; called for one that needs its own, and may do others.
    """

    def __init__(
        self,
        size: int,
        cluster: Cluster,
        rand: Rand,
        presences: Presences,
        trace: Trace,
        cost: Callable[[Errand], int],
        work_out: Callable[[Errand], None],
    ) -> None:
        self._server, self._cluster, self._rand = size, cluster, rand
        self._presences, self._trace, self._cost, self._work_out = presences, trace, cost, work_out
        up, down = (by_machine(cluster, size + 1, field) for field in ("uplink", "downlink"))
        self._latency, self._network = by_machine(cluster, size + 1, "latency"), Network(up, down)
        self._speeds: dict[int, Callable[[int, int], float]] = {}
        self.clock = 0.0
        self.errands: dict[int, Errand] = {}
        """By number: all that are under way, or have arrived and not been taken."""
        self.busy: dict[int, Errand] = {}
        """By client: all that are under way."""
        self.inbox: deque[Errand] = deque()
        """Those that have arrived, or were lost and the server has been told."""
        self._events: list[tuple[float, int, int, int]] = []
        self._asked = self._scheduled = 0

    def begin(self, clock: float) -> None:
        """Set the clock to seconds, and put the cuts that are to come among the events."""
        self.clock = clock
        edges = {time for cut in self._presences.cuts for time in (cut.since, cut.until)}
        self._events = [(time, -1, _CUT, 0) for time in sorted(edges) if clock <= time < inf]

    def ask(self, client: int, request: Request) -> None:
        """Begin an errand to a client that is not busy."""
        self._asked += 1
        errand = Errand(client, request, self._asked, self._presences.loss(client, self.clock), self.clock)
        self.errands[errand.number] = self.busy[client] = errand
        if errand.loss.at < inf:
            self._at(errand.loss.at, _LOSS, errand.number)
        if errand.loss.at > self.clock:
            self._network.transfer(self._server, client, request.bytes, self.clock, self._when_through(client))

    def release(self, client: int) -> None:
        """End the errand that a client is busy with."""
        del self.errands[self.busy.pop(client).number]
        self._network.drop(client)
        self._trace.cut_short(client, self.clock)

    def take(self) -> Errand:
        """Take what came first out of the inbox; its result is there, unless it was lost."""
        errand = self.inbox.popleft()
        del self.errands[errand.number]
        if errand.phase == Phase.ARRIVED:
            self._work_out(errand)  # again, if it had failed before a checkpoint
        return errand

    def happens(self, until: float) -> bool:
        """Let the next event happen, unless it comes after `until` seconds of the clock."""
        while self._events and not self._holds(*self._events[0]):
            heapq.heappop(self._events)
        time = self._events[0][0] if self._events else inf
        ends = self._network.next_end(self.clock) if time > self.clock else inf  # what is left at once comes first
        if min(time, ends) > until or min(time, ends) == inf:
            return False
        self.clock = max(self.clock, min(time, ends))
        if ends < time:
            self._network.finish(ends)
            return True
        _, _, kind, number = heapq.heappop(self._events)
        if kind == _CUT:
            self._network.cut(self._cuts())
        elif kind == _LOSS:
            self._lose(self.errands[number])
        else:
            self._step(self.errands[number])
        return True

    def _cuts(self) -> list[Sides]:
        return [cut.sides for cut in self._presences.cuts if cut.since <= self.clock < cut.until]

    def _holds(self, time: float, order: int, kind: int, number: int) -> bool:
        """Return whether an event is still to happen."""
        errand = self.errands.get(number)
        if kind == _CUT or errand is None:
            return kind == _CUT
        return errand.phase < Phase.BACK if kind == _LOSS else errand.order == order

    def _at(self, time: float, kind: int, number: int) -> int:
        self._scheduled += 1
        heapq.heappush(self._events, (time, self._scheduled, kind, number))
        return self._scheduled

    def _due(self, errand: Errand, phase: Phase, due: float) -> None:
        errand.phase, errand.since, errand.due = phase, self.clock, due
        errand.order = self._at(due, _STEP, errand.number)

    def _when_through(self, client: int) -> Callable[[], None]:
        """Return what is called when what is transferred to or from a client has left."""

        def through() -> None:
            errand = self.busy[client]
            (self._compute if errand.phase == Phase.DOWN else self._come_back)(errand)

        return through

    def _compute(self, errand: Errand) -> None:
        """Let a client compute, now that its request has left the server."""
        client, request = errand.client, errand.request
        arrived = self.clock + self._latency[self._server] + self._latency[client]
        self._trace.sent(self._server, client, request.bytes, errand.since, arrived)
        self._trace.busy(self._server, "sending", errand.since, self.clock)
        if client not in self._speeds:
            self._speeds[client] = self._cluster.speed(client, self._rand)
        seconds = self._speeds[client](request.round, 0) * self._cost(errand)
        pace = self._presences.pace(client)
        spans = [(arrived, arrived + seconds)] if pace is None else pace.spans(arrived, seconds)
        for start, end in spans:
            self._trace.busy(client, "computing", start, end)
        self._due(errand, Phase.COMPUTING, spans[-1][1])

    def _come_back(self, errand: Errand) -> None:
        """Let a reply arrive, now that it has left the client."""
        assert isinstance(errand.result, tuple)
        client, size = errand.client, errand.result[1].bytes
        arrives = self.clock + self._latency[client] + self._latency[self._server]
        self._trace.sent(client, self._server, size, errand.since, arrives)
        self._trace.busy(client, "sending", errand.since, self.clock)
        self._due(errand, Phase.BACK, arrives)

    def _lose(self, errand: Errand) -> None:
        self._network.drop(errand.client)
        self._trace.cut_short(errand.client, self.clock)
        self._due(errand, Phase.LOST, errand.loss.told)

    def _step(self, errand: Errand) -> None:
        client = errand.client
        if errand.phase != Phase.COMPUTING:
            if errand.phase == Phase.BACK:
                errand.phase = Phase.ARRIVED
            del self.busy[client]
            errand.order = 0
            self.inbox.append(errand)
            return
        self._work_out(errand)
        if isinstance(errand.result, tuple):
            errand.phase, errand.since, errand.due, errand.order = Phase.UP, self.clock, inf, 0
            size = errand.result[1].bytes
            self._network.transfer(client, self._server, size, self.clock, self._when_through(client))
        else:
            self._due(errand, Phase.BACK, self.clock + self._latency[client] + self._latency[self._server])

    def state(self) -> Tree:
        """Return all that is under way, for a checkpoint."""
        *flows, ports = self._network.state()
        losses = [[time, order, number] for time, order, kind, number in self._events if kind == _LOSS]
        return {
            "errands": saved(self.errands.values()),
            "count": torch.tensor([self._asked, self._scheduled]),
            "inbox": torch.tensor([each.number for each in self.inbox], dtype=torch.int64),
            "losses": _table(losses, 3),
            "flows": _table(flows, 7),
            "ports": torch.tensor(ports, dtype=torch.float64),
        }

    def load(self, state: Tree) -> None:
        """Go on from what `state` returned, to the bit."""
        self._asked, self._scheduled = (int(count) for count in leaf(state, "count").tolist())
        self.errands = {errand.number: errand for errand in loaded(branch(state, "errands"))}
        self.inbox = deque(self.errands[int(number)] for number in leaf(state, "inbox").tolist())
        arrived = {errand.number for errand in self.inbox}
        self.busy = {each.client: each for each in self.errands.values() if each.number not in arrived}
        for each in self.busy.values():
            if each.order:
                heapq.heappush(self._events, (each.due, each.order, _STEP, each.number))
        for time, order, number in leaf(state, "losses").tolist():
            heapq.heappush(self._events, (time, int(order), _LOSS, int(number)))
        flows, ports = leaf(state, "flows").tolist(), leaf(state, "ports").tolist()
        self._network.load([*flows, ports], self._cuts(), lambda a, b: self._when_through(min(a, b)))


def by_machine(cluster: Cluster, size: int, field: str) -> list[Any]:
    """Return a field's value on each of so many machines; see `Cluster.of`."""
    found = [getattr(cluster, field)] * size
    for exception in cluster.node:
        value = getattr(exception, field)
        for rank in exception.ranks if value is not None else ():
            if rank < size:
                found[rank] = value
    return found


def _table(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, width)
