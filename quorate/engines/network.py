"""A network on a virtual clock: transfers share each node's up- and downlink fairly.

Rates are max-min fair (progressive filling), as many long-lived TCP flows come near to: no transfer can be given more
without taking from one that has no more than it. Only the nodes that a change can reach are computed anew.

Source: Bertsekas and Gallager, "Data Networks", 2nd edition, section 6.5.2.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf

_UP, _DOWN = 0, 1
Port = tuple[int, int]  # (node, up or down)
Sides = tuple[frozenset[int], frozenset[int]]


class Flow:
    """A transfer under way: bytes that go through some ports, or, if `ports` is None, through all of them at once."""

    __slots__ = ("done", "number", "ports", "rate", "remaining", "since", "version")

    def __init__(self, number: int, ports: tuple[Port, ...] | None, count: float, now: float, done: Callable[[], None]):
        self.number, self.ports, self.remaining, self.since, self.done = number, ports, count, now, done
        self.rate, self.version = 0.0, 0


class Network:
    """Links of n nodes.

    Args:
        up: bytes per second that each node can send, `inf` for no limit.
        down: bytes per second that each node can receive.
        both_ways: the share that a node's link in one direction loses while something moves in the other.
    """

    def __init__(self, up: Sequence[float], down: Sequence[float], both_ways: float = 0.0) -> None:
        self._both_ways = both_ways
        self._capacity = {(node, _UP): rate for node, rate in enumerate(up)}
        self._capacity |= {(node, _DOWN): rate for node, rate in enumerate(down)}
        self._narrowest = min(self._capacity.values(), default=inf)
        self._at: dict[Port, dict[int, Flow]] = {}
        self._everywhere: dict[int, Flow] = {}
        self._changed: set[Port] = set()
        self._changed_everywhere = False
        self._cuts: tuple[Sides, ...] = ()
        self._ends: list[tuple[float, int, int, Flow]] = []
        self._started = 0

    def transfer(self, src: int, dst: int, count: float, now: float, done: Callable[[], None]) -> None:
        """Start to send `count` bytes; `done` is called when the last one has left."""
        self._start(((src, _UP), (dst, _DOWN)), count, now, done)

    def collective(self, count: float, now: float, done: Callable[[], None]) -> None:
        """Start to pass `count` bytes through every node's up- and downlink at one rate, as a ring does."""
        self._start(None, count, now, done)

    def _start(self, ports: tuple[Port, ...] | None, count: float, now: float, done: Callable[[], None]) -> None:
        self._started += 1
        flow = Flow(self._started, ports, count, now, done)
        if ports is None:
            self._everywhere[flow.number] = flow
            self._changed_everywhere = True
        else:
            for port in ports:
                self._at.setdefault(port, {})[flow.number] = flow
            self._changed.update(self._touched(ports))

    def next_end(self, now: float) -> float:
        """Return when the next transfer ends, if none starts before; `inf` if there is none."""
        if self._changed or self._changed_everywhere:
            self._share(now)
        while self._ends and self._ends[0][2] != self._ends[0][3].version:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else inf

    def finish(self, now: float) -> None:
        """End all transfers that are through at `now`, in the order in which they began."""
        through = []
        while self._ends and (self._ends[0][0] <= now or self._ends[0][2] != self._ends[0][3].version):
            _, _, version, flow = heapq.heappop(self._ends)
            if version == flow.version:
                through.append(flow)
        for flow in sorted(through, key=lambda each: each.number):
            self._remove(flow)
        for flow in sorted(through, key=lambda each: each.number):
            flow.done()

    def _remove(self, flow: Flow) -> None:
        flow.version = -1
        if flow.ports is None:
            del self._everywhere[flow.number]
            self._changed_everywhere = True
        else:
            for port in flow.ports:
                del self._at[port][flow.number]
                if not self._at[port]:
                    del self._at[port]
            self._changed.update(self._touched(flow.ports))

    def _touched(self, ports: tuple[Port, ...]) -> tuple[Port, ...]:
        """Return the ports whose shares depend on whether something moves through these."""
        return (*ports, *((node, 1 - way) for node, way in ports)) if self._both_ways else ports

    def drop(self, node: int) -> None:
        """Break off all transfers from and to a node; their `done` is never called."""
        for port in ((node, _UP), (node, _DOWN)):
            for flow in list(self._at.get(port, {}).values()):
                self._remove(flow)

    def state(self) -> list[list[float]]:
        """Return the transfers between two nodes that are under way, for a checkpoint.

        Returns:
            [number, from, to, bytes left, since when, bytes per second from then on, whether that has been said] of
            each, and at last [number of transfers so far, and the ports whose shares are to be said anew].
        """
        flows = {number: flow for port in self._at.values() for number, flow in port.items()}
        rows = [
            [number, flow.ports[0][0], flow.ports[1][0], flow.remaining, flow.since, flow.rate, float(flow.version > 0)]
            for number, flow in sorted(flows.items())
            if flow.ports is not None
        ]
        return [*rows, [self._started, *(float(part) for port in sorted(self._changed) for part in port)]]

    def load(
        self,
        state: Sequence[Sequence[float]],
        cuts: Collection[Sides],
        done: Callable[[int, int], Callable[[], None]],
    ) -> None:
        """Go on from what `state` returned, to the bit.

        Args:
            cuts: see `cut`.
            done: maps (from, to) to what is to be called when the transfer ends.
        """
        *rows, (started, *ports) = state
        self._started, self._cuts = int(started), tuple(cuts)
        self._changed = {(int(node), int(way)) for node, way in zip(ports[::2], ports[1::2], strict=True)}
        for number, src, dst, remaining, since, rate, told in rows:
            ends = int(src), int(dst)
            flow = Flow(int(number), ((ends[0], _UP), (ends[1], _DOWN)), remaining, since, done(*ends))
            flow.rate, flow.version = rate, int(told)
            for port in flow.ports or ():
                self._at.setdefault(port, {})[flow.number] = flow
            if rate and told:
                heapq.heappush(self._ends, (since + remaining / rate, flow.number, flow.version, flow))

    def cut(self, cuts: Collection[Sides]) -> None:
        """Let nothing through between these pairs of sides, and everything elsewhere; transfers wait meanwhile."""
        self._cuts, self._changed_everywhere = tuple(cuts), True

    def _stopped(self, flow: Flow) -> bool:
        if flow.ports is None:
            return True
        (src, _), (dst, _) = flow.ports
        return any((src in a and dst in b) or (src in b and dst in a) for a, b in self._cuts)

    def _share(self, now: float) -> None:
        if self._everywhere or self._changed_everywhere:
            flows = {number: flow for port in self._at.values() for number, flow in port.items()} | self._everywhere
        else:
            flows = self._reached(self._changed)
        self._changed, self._changed_everywhere = set(), False
        stopped = {number for number, flow in flows.items() if self._stopped(flow)} if self._cuts else set()
        rates = self._fill(flows, stopped)
        for number in sorted(flows):
            flow, rate = flows[number], rates[number]
            if rate == flow.rate and flow.version:
                continue
            if flow.rate and flow.rate != inf:
                flow.remaining = max(0.0, flow.remaining - flow.rate * (now - flow.since))
            flow.rate, flow.since = rate, now
            flow.version += 1
            if rate:
                heapq.heappush(self._ends, (now + flow.remaining / rate, number, flow.version, flow))

    def _reached(self, ports: Iterable[Port]) -> dict[int, Flow]:
        flows: dict[int, Flow] = {}
        frontier, seen = list(ports), set(ports)
        while frontier:
            for number, flow in self._at.get(frontier.pop(), {}).items():
                if number not in flows:
                    flows[number] = flow
                    for port in self._touched(flow.ports or ()):
                        if port not in seen:
                            seen.add(port)
                            frontier.append(port)
        return flows

    def _fill(self, flows: dict[int, Flow], stopped: set[int]) -> dict[int, float]:
        """Progressive filling: freeze the flows of the port with the smallest share, and go on with the rest."""
        rates = dict.fromkeys(stopped, 0.0)
        ports = dict.fromkeys(port for flow in flows.values() for port in flow.ports or ())
        waiting = {port: set(self._at[port]) - stopped for port in ports}
        left = {port: self._capacity[port] for port in waiting}
        if self._both_ways:
            for node, way in left:
                if self._at.get((node, 1 - way)):
                    left[node, way] *= 1 - self._both_ways
        everywhere, used = set(self._everywhere) - stopped, 0.0
        while len(rates) < len(flows):
            share, tightest = inf, None
            for port, numbers in waiting.items():
                if numbers:
                    part = max(0.0, left[port] - used) / (len(numbers) + len(everywhere)) if left[port] < inf else inf
                    if part < share:
                        share, tightest = part, port
            if everywhere and max(0.0, self._narrowest - used) / len(everywhere) < share:
                share, tightest = max(0.0, self._narrowest - used) / len(everywhere), None
            if share == inf:
                rates |= dict.fromkeys(flows.keys() - rates.keys(), inf)
                break
            frozen = list(waiting[tightest]) if tightest is not None else []
            if everywhere:
                rates |= dict.fromkeys(everywhere, share)
                used += share * len(everywhere)
                everywhere = set()
            for number in frozen:
                rates[number] = share
                for port in flows[number].ports or ():
                    waiting[port].discard(number)
                    left[port] -= share
        return rates
