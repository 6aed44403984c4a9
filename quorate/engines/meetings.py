"""Collectives of virtual workers: all arrive, a ring carries the bytes, all get the result.

Ragged messages do not go round a ring: everybody sends to everybody at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quorate.engines.pending import Pending
from quorate.engines.summation import ring_sum
from quorate.errors import RunError
from quorate.node import Heard
from quorate.wire import Ragged, described, size_in_bytes

if TYPE_CHECKING:
    from quorate.engines.simulated_node import SimulatedNode
    from quorate.engines.simulator import Simulator


class Collective:
    """A meeting of all ranks, while they arrive."""

    __slots__ = ("count", "first", "given", "what", "whose")

    def __init__(self, what: str, size: int, first: int) -> None:
        self.what, self.first, self.count = what, first, 0
        self.given: list[Any] = [None] * size
        self.whose: list[Pending[Any] | None] = [None] * size


class Meetings:
    """Brings all ranks together in the order in which they call collectives."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._open: dict[int, Collective] = {}
        self._slowest_latency = max((node.latency for node in simulator.nodes), default=0.0)
        self._under_way, self._under_way_since = 0, 0.0

    def missing(self, pending: Pending[Any]) -> list[int]:
        """Return the ranks that a call waits for."""
        meeting = next(meeting for meeting in self._open.values() if pending in meeting.whose)
        return [rank for rank, whose in enumerate(meeting.whose) if whose is None]

    def meet(self, node: SimulatedNode, what: str, given: Any, pending: Pending[Any]) -> None:
        """Arrive at a collective; the last one to arrive sets it off."""
        number, node.meetings = node.meetings, node.meetings + 1
        meeting = self._open.get(number)
        if meeting is None:
            meeting = self._open[number] = Collective(what, self._simulator.size, node.rank)
        else:
            first = meeting.given[meeting.first]
            if meeting.what != what or (
                what == "all_reduce" and (first.shape != given.shape or first.dtype != given.dtype)
            ):
                raise self._mismatch(number, meeting, node.rank, what, given, pending)
        if self._simulator.paranoia:
            given = self._simulator.paranoia.met(node.rank, pending, given)
        meeting.given[node.rank], meeting.whose[node.rank] = given, pending
        meeting.count += 1
        if meeting.count == self._simulator.size:
            del self._open[number]
            self._set_off(meeting)

    @staticmethod
    def _mismatch(
        number: int, meeting: Collective, rank: int, what: str, given: Any, pending: Pending[Any]
    ) -> RunError:
        other = meeting.whose[meeting.first]
        assert other is not None
        return RunError(
            f"collective {number + 1} differs between ranks: rank {rank} calls {_call(what, given)} at {pending.place},"
            f" rank {meeting.first} called {_call(meeting.what, meeting.given[meeting.first])} at {other.place}",
            "all ranks must call the same collectives, in the same order, on tensors of equal shape and dtype",
        )

    def _set_off(self, meeting: Collective) -> None:
        """Charge a ring: n - 1 hops to gather, twice that to reduce and spread; each hop pays the latency once."""
        n, start = self._simulator.size, self._simulator.clock
        spread: list[int] = []
        count: float
        if isinstance(meeting.given[0], Ragged):
            spread = [size_in_bytes(message) for message in meeting.given]
            count, hops = max(max((n - 1) * size, sum(spread) - size) for size in spread), int(n > 1)
        elif meeting.what == "all_reduce":
            count, hops = 2 * (n - 1) * size_in_bytes((meeting.given[0],)) / n, 2 * (n - 1)
        else:
            sizes = [size_in_bytes(message) for message in meeting.given]
            count, hops = (sum(sizes) - min(sizes)) * (n > 1), n - 1
        bytes_given = size_in_bytes(meeting.given[0] if meeting.what == "all_gather" else (meeting.given[0],))
        self._under_way += 1
        if self._under_way == 1:
            self._under_way_since = start

        def through() -> None:
            self._under_way -= 1
            if self._under_way == 0:
                self._simulator.trace.all_busy(self._under_way_since, self._simulator.clock)
            hop = 2 * self._slowest_latency
            late = hops * hop if spread else self._simulator.transport.latencies(hops, bytes_given) * hop
            arrives = self._simulator.clock + late + self._simulator.transport.handling * (n > 1)
            if spread:
                self._simulator.trace.spread(spread, start, arrives)
            else:
                self._simulator.trace.collective(round(count), hops, start, arrives)
            self._simulator.at(arrives, self._hand_out, meeting)

        self._simulator.network.collective(
            count * self._simulator.transport.round_a_ring, self._simulator.clock, through
        )

    def _hand_out(self, meeting: Collective) -> None:
        result: Any = Heard(meeting.given) if meeting.what == "all_gather" else None
        if meeting.what == "all_reduce":
            result = ring_sum(meeting.given, [pending.detail for pending in meeting.whose if pending is not None])
        for rank, pending in enumerate(meeting.whose):
            assert pending is not None
            mine = result
            if self._simulator.paranoia and meeting.what == "all_reduce":
                mine = self._simulator.paranoia.received(rank, "all_reduce", (result,))[0]
            elif self._simulator.paranoia:
                self._simulator.paranoia.back(rank, pending)
                mine = [self._simulator.paranoia.received(rank, "all_gather", message) for message in result]
            self._simulator.complete(pending, mine)


def _call(what: str, given: Any) -> str:
    return f"all_reduce({described((given,))})" if what == "all_reduce" else what
