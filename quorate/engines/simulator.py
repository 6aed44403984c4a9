"""Thousands of workers in one process, on a virtual clock.

Events happen in the order of (virtual time, order of scheduling), so a run is repeatable to the bit. A computation
takes `seconds_per_sample * samples`, a message `latency + bytes / bandwidth`, bandwidth being shared
(`engines/network.py`). A computation's result is worked out when the first of all waiting ones is due, together with
the others (`engines/batching.py`): functions given to `compute` depend on nothing but their arguments.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import sys
import time
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, TypeVar

from torch import Tensor

from quorate.cluster import Cluster
from quorate.engines import Forgetful, Recorder, stopped
from quorate.engines.batching import Batching, Request
from quorate.engines.network import Network
from quorate.engines.paranoia import Paranoia
from quorate.engines.pending import Pending, where
from quorate.engines.summation import ring_sum
from quorate.errors import QuorateError, RunError
from quorate.node import Node
from quorate.rand import Rand
from quorate.trace import Trace
from quorate.trees import Tree
from quorate.wire import Message, size_in_bytes

T = TypeVar("T")
_COLLECT = (100_000, 50, 100)  # the garbage collector's thresholds: there are many objects, but hardly any cycles
_NAMED = 8  # ranks that an error message speaks of one by one


class Strand:
    """A coroutine of one rank, and what it waits for."""

    __slots__ = ("coroutine", "ended", "node", "waits_for")

    def __init__(self, node: SimulatedNode, coroutine: Coroutine[Any, Any, Any], ended: Pending[Any]) -> None:
        self.node, self.coroutine, self.ended = node, coroutine, ended
        self.waits_for: Pending[Any] | None = None


class Collective:
    """A meeting of all ranks, while they arrive."""

    __slots__ = ("count", "first", "given", "what", "whose")

    def __init__(self, what: str, size: int, first: int) -> None:
        self.what, self.first, self.count = what, first, 0
        self.given: list[Any] = [None] * size
        self.whose: list[Pending[Any] | None] = [None] * size


class SimulatedNode:
    """One virtual worker."""

    def __init__(self, simulator: Simulator, rank: int) -> None:
        self.rank, self.size = rank, simulator.size
        self._simulator = simulator
        self._speed = simulator.cluster.speed(rank, simulator.rand)
        self.latency: float = simulator.cluster.of(rank, "latency")
        self.measured = simulator.cluster.of(rank, "seconds_per_sample") == "measured"
        self.unawaited: dict[int, Pending[Any]] = {}
        self.free_at, self.computations, self.meetings, self.step, self.sending = 0.0, 0, 0, 0, 0
        self.sending_since = 0.0
        self.strands: dict[int, Strand] = {}

    def now(self) -> float:
        """Return virtual seconds."""
        return self._simulator.clock

    def compute(self, function: Callable[..., T], *args: Any, samples: float = 0, donate: bool = False) -> Awaitable[T]:
        """See `Node`. One computation of a node runs at a time, in the order of the calls."""
        simulator = self._simulator
        request = Request(function, args, donate)
        pending: Pending[T] = Pending("compute", self.unawaited, request)
        if simulator.paranoia and not donate:
            simulator.paranoia.lent(self.rank, pending, args)
        start = max(simulator.clock, self.free_at)
        if self.measured:
            began = time.perf_counter()
            simulator.answer([(self, pending)])
            duration = (time.perf_counter() - began) * simulator.cluster.measured_factor
        else:
            duration = self._speed(self.computations) * samples if samples else 0.0
            simulator.unanswered.append((self, pending))
        self.computations += 1
        self.free_at = start + duration
        simulator.trace.busy(self.rank, "computing", start, self.free_at)
        simulator.at(self.free_at, simulator.computed, (self, pending))
        return pending

    def send(self, dst: int, message: Message) -> Awaitable[None]:
        """See `Node`."""
        pending: Pending[None] = Pending("send", self.unawaited, dst)
        self._simulator.send(self, dst, message, pending)
        return pending

    def recv(self, src: int | None, like: Message) -> Awaitable[tuple[int, Message]]:
        """See `Node`."""
        pending: Pending[tuple[int, Message]] = Pending("recv", self.unawaited, (src, like))
        self._simulator.recv(self, src, pending)
        return pending

    def all_reduce(self, tensor: Tensor) -> Awaitable[Tensor]:
        """See `Node`."""
        pending: Pending[Tensor] = Pending("all_reduce", self.unawaited)
        self._simulator.meet(self, "all_reduce", tensor, pending)
        return pending

    def all_gather(self, message: Message) -> Awaitable[list[Message]]:
        """See `Node`."""
        pending: Pending[list[Message]] = Pending("all_gather", self.unawaited)
        self._simulator.meet(self, "all_gather", message, pending)
        return pending

    def spawn(self, program: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """See `Node`."""
        pending: Pending[T] = Pending("spawn", self.unawaited)
        self._simulator.start(self, program, pending)
        return pending

    def restore(self, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """See `Node`."""
        self.step, shared, own = self._simulator.recorder.restore(self.rank, shared, own)
        if self._simulator.paranoia:
            shared, own = self._simulator.paranoia.copies(shared), self._simulator.paranoia.copies(own)
        return self.step, shared, own

    def commit(self, step: int, loss: float, shared: Tree, own: Tree) -> None:
        """See `Node`."""
        if self._simulator.paranoia:
            self._simulator.paranoia.check(self.rank)
        self.step = step
        self._simulator.trace.end(self.rank, self._simulator.clock)
        self._simulator.recorder.commit(self.rank, step, self._simulator.clock, loss, shared, own)


class Simulator:
    """Runs one program on every rank.

    Args:
        size: number of workers.
        cluster: what computing and talking costs.
        rand: the run's stream, for speeds that vary.
        batching: how computations are worked out.
        paranoid: check that no tensor is used after it was given away, or written to while it is shared; slow.
    """

    def __init__(
        self,
        size: int,
        cluster: Cluster | None = None,
        *,
        rand: Rand | None = None,
        batching: Batching | None = None,
        recorder: Recorder | None = None,
        paranoid: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self.size, self.cluster, self.rand = size, cluster or Cluster(), rand or Rand(0)
        self.recorder: Recorder = recorder or Forgetful()
        self.batching = batching or Batching(exact=True)
        self.paranoia = Paranoia() if paranoid else None
        if paranoid:
            self.batching.exact = True
        self.trace = trace or Trace(size)
        self.clock = 0.0
        self.unanswered: list[tuple[SimulatedNode, Pending[Any]]] = []
        self._nodes = [SimulatedNode(self, rank) for rank in range(size)]
        self._network = Network(
            [self.cluster.of(rank, "uplink") for rank in range(size)],
            [self.cluster.of(rank, "downlink") for rank in range(size)],
        )
        self._slowest_latency = max((node.latency for node in self._nodes), default=0.0)
        self._times: list[float] = []
        self._events: dict[float, list[tuple[Callable[[Any], None], Any]]] = {}
        self._ready: deque[Strand] = deque()
        self._meetings: dict[int, Collective] = {}
        self._queues: dict[tuple[int, int], deque[tuple[Message, Pending[None]]]] = {}
        self._mail: dict[int, list[tuple[int, Message]]] = {}
        self._receivers: dict[int, list[Pending[tuple[int, Message]]]] = {}
        self._never_awaited: list[str] = []
        self._under_way, self._under_way_since = 0, 0.0

    def run(self, program: Callable[[Node], Coroutine[Any, Any, T]]) -> list[T]:
        """Run the program on every rank until all have ended.

        Returns:
            Each rank's result.

        Raises:
            RunError: if the task fails, nothing can happen any more, ranks disagree on a collective, or an await was
                forgotten; it names the ranks and places.
        """
        roots, coroutines = [], []
        for node in self._nodes:
            ended: Pending[T] = Pending("program", {})
            node.free_at = float(self.trace.ended[node.rank])
            coroutines.append(program(node))
            self.at(node.free_at, lambda each: self.start(*each), (node, coroutines[-1], ended))
            roots.append(ended)
        with warnings.catch_warnings(), _many_coroutines():
            self._watch_for_forgotten_coroutines()
            try:
                self._loop()
                if not all(root.done for root in roots):
                    raise self._deadlock()
            finally:
                self._close(coroutines)
        return [root.result for root in roots]

    def _loop(self) -> None:
        times, events, ready, network = self._times, self._events, self._ready, self._network
        while True:
            while ready:
                self._resume(ready.popleft())
            due = times[0] if times else inf
            ends = network.next_end(self.clock)
            if ends < due:
                self.clock = ends
                network.finish(ends)
            elif times:
                self.clock = heapq.heappop(times)
                for happen, what in events.pop(due):
                    happen(what)
            else:
                return

    def at(self, when: float, happen: Callable[[Any], None], what: Any) -> None:
        """Schedule an event; those of one instant happen in the order in which they were scheduled."""
        events = self._events.get(when)
        if events is None:
            heapq.heappush(self._times, when)
            self._events[when] = [(happen, what)]
        else:
            events.append((happen, what))

    def start(self, node: SimulatedNode, coroutine: Coroutine[Any, Any, Any], ended: Pending[Any]) -> None:
        """Start a coroutine on a rank; what it does before its first wait happens now."""
        strand = Strand(node, coroutine, ended)
        node.strands[id(strand)] = strand
        self._resume(strand)

    def complete(self, pending: Pending[Any], result: Any) -> None:
        """Give a call its result, and let who waits for it go on."""
        pending.result, pending.done = result, True
        if pending.waiter is not None:
            self._ready.append(pending.waiter)

    def _resume(self, strand: Strand) -> None:
        node = strand.node
        strand.waits_for = None
        try:
            waits_for = strand.coroutine.send(None)
        except StopIteration as stop:
            del node.strands[id(strand)]
            if self.paranoia:
                self.paranoia.check(node.rank)
            if not node.strands:
                self.trace.end(node.rank, self.clock)
                if node.unawaited:
                    raise self._forgotten(node) from None
            self.complete(strand.ended, stop.value)
        except RunError:
            raise
        except QuorateError as error:
            raise stopped(node.rank, node.step + 1, error) from error
        except Exception as error:
            error.add_note(f"in the program of rank {node.rank}, step {node.step + 1}")
            raise
        else:
            if not isinstance(waits_for, Pending):
                raise RunError(
                    f"rank {node.rank} awaits {waits_for!r} at {where(strand.coroutine)}, which is no call on its node",
                    "a program may await nothing else; no asyncio",
                )
            strand.waits_for, waits_for.waiter = waits_for, strand
        if self._never_awaited:
            raise RunError(
                f"rank {node.rank} forgot an await: {self._never_awaited[0]}", "write `await` before the call"
            )

    def computed(self, what: tuple[SimulatedNode, Pending[Any]]) -> None:
        """A computation is due: work it out, with all others that wait."""
        node, pending = what
        if not pending.done and not hasattr(pending, "result"):
            waiting, self.unanswered = self.unanswered, []
            self.answer(waiting)
        if self.paranoia:
            self.paranoia.back(node.rank, pending)
        self.complete(pending, pending.result)

    def answer(self, waiting: list[tuple[SimulatedNode, Pending[Any]]]) -> None:
        """Work out computations."""
        results = self.batching.answer([pending.detail for _, pending in waiting])
        for (node, pending), result in zip(waiting, results, strict=True):
            if isinstance(result, QuorateError):
                raise stopped(node.rank, node.step + 1, result) from result
            if self.paranoia:
                result = self.paranoia.computed(node.rank, pending, result)
            pending.result, pending.detail = result, None

    def send(self, node: SimulatedNode, dst: int, message: Message, pending: Pending[None]) -> None:
        """Put a message in the queue from a rank to another; they leave one after the other."""
        if not 0 <= dst < self.size:
            raise RunError(f"rank {node.rank} sends to rank {dst} at {pending.place}, but there are {self.size} ranks")
        if self.paranoia:
            message = self.paranoia.sent(node.rank, pending, message)
        if dst == node.rank:
            if self.paranoia:
                self.paranoia.back(node.rank, pending)
            self.complete(pending, None)
            self._deliver((node.rank, dst, message))
            return
        queue = self._queues.setdefault((node.rank, dst), deque())
        queue.append((message, pending))
        if len(queue) == 1:
            self._leave(node.rank, dst)

    def _leave(self, src: int, dst: int) -> None:
        message, pending = self._queues[src, dst][0]
        count, start = size_in_bytes(message), self.clock
        self._sends(src, 1)

        def left() -> None:
            queue = self._queues[src, dst]
            queue.popleft()
            self._sends(src, -1)
            latency = self._nodes[src].latency + self._nodes[dst].latency
            self.trace.sent(src, dst, count, start, self.clock + latency)
            self.at(self.clock + latency, self._deliver, (src, dst, message))
            if self.paranoia:
                self.paranoia.back(src, pending)
            self.complete(pending, None)
            if queue:
                self._leave(src, dst)

        self._network.transfer(src, dst, count, self.clock, left)

    def _sends(self, rank: int, change: int) -> None:
        node = self._nodes[rank]
        if node.sending == 0:
            node.sending_since = self.clock
        node.sending += change
        if node.sending == 0:
            self.trace.busy(rank, "sending", node.sending_since, self.clock)

    def recv(self, node: SimulatedNode, src: int | None, pending: Pending[tuple[int, Message]]) -> None:
        """Take a message that has arrived, or wait for the next."""
        if src is not None and not 0 <= src < self.size:
            raise RunError(
                f"rank {node.rank} receives from rank {src} at {pending.place}, but there are {self.size} ranks"
            )
        mail = self._mail.setdefault(node.rank, [])
        for position, (sender, message) in enumerate(mail):
            if src in (None, sender):
                del mail[position]
                self._hand_over(node.rank, sender, message, pending)
                return
        self._receivers.setdefault(node.rank, []).append(pending)

    def _deliver(self, what: tuple[int, int, Message]) -> None:
        src, dst, message = what
        receivers = self._receivers.get(dst, [])
        for position, pending in enumerate(receivers):
            if pending.detail[0] in (None, src):
                del receivers[position]
                self._hand_over(dst, src, message, pending)
                return
        self._mail.setdefault(dst, []).append((src, message))

    def _hand_over(self, rank: int, src: int, message: Message, pending: Pending[tuple[int, Message]]) -> None:
        like = pending.detail[1]
        if _shapes(message) != _shapes(like):
            raise RunError(
                f"rank {rank} expected {_shapes(like)} from rank {src} at {pending.place},"
                f" but was sent {_shapes(message)}"
            )
        if self.paranoia:
            message = self.paranoia.received(rank, "recv", message)
        self.complete(pending, (src, message))

    def meet(self, node: SimulatedNode, what: str, given: Any, pending: Pending[Any]) -> None:
        """Arrive at a collective; the last one to arrive sets it off."""
        number, node.meetings = node.meetings, node.meetings + 1
        meeting = self._meetings.get(number)
        if meeting is None:
            meeting = self._meetings[number] = Collective(what, self.size, node.rank)
        else:
            first = meeting.given[meeting.first]
            if meeting.what != what or (
                what == "all_reduce" and (first.shape != given.shape or first.dtype != given.dtype)
            ):
                raise self._mismatch(number, meeting, node.rank, what, given, pending)
        if self.paranoia:
            given = self.paranoia.met(node.rank, pending, given)
        meeting.given[node.rank], meeting.whose[node.rank] = given, pending
        meeting.count += 1
        if meeting.count == self.size:
            del self._meetings[number]
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
        n, start = self.size, self.clock
        if meeting.what == "all_reduce":
            count, hops = 2 * (n - 1) * size_in_bytes((meeting.given[0],)) / n, 2 * (n - 1)
        else:
            sizes = [size_in_bytes(message) for message in meeting.given]
            count, hops = (sum(sizes) - min(sizes)) * (n > 1), n - 1
        self._under_way += 1
        if self._under_way == 1:
            self._under_way_since = start

        def through() -> None:
            self._under_way -= 1
            if self._under_way == 0:
                self.trace.all_busy(self._under_way_since, self.clock)
            arrives = self.clock + hops * 2 * self._slowest_latency
            self.trace.collective(round(count), hops, start, arrives)
            self.at(arrives, self._hand_out, meeting)

        self._network.collective(count, self.clock, through)

    def _hand_out(self, meeting: Collective) -> None:
        result: Any = ring_sum(meeting.given) if meeting.what == "all_reduce" else meeting.given
        for rank, pending in enumerate(meeting.whose):
            assert pending is not None
            mine = result
            if self.paranoia and meeting.what == "all_reduce":
                mine = self.paranoia.received(rank, "all_reduce", (result,))[0]
            elif self.paranoia:
                self.paranoia.back(rank, pending)
                mine = [self.paranoia.received(rank, "all_gather", message) for message in result]
            self.complete(pending, mine)

    def _deadlock(self) -> RunError:
        stuck = [strand for node in self._nodes for strand in node.strands.values()]
        lines = [f"rank {strand.node.rank} {self._waiting(strand)}" for strand in stuck[:_NAMED]]
        more = f"; and {len(stuck) - _NAMED} more" if len(stuck) > _NAMED else ""
        return RunError(f"deadlock: no message is on its way, and {'; '.join(lines)}{more}")

    def _waiting(self, strand: Strand) -> str:
        pending, place = strand.waits_for, where(strand.coroutine)
        assert pending is not None
        text = f"waits in {pending.what} at {place}"
        if pending.what == "recv":
            src, _ = pending.detail
            ended = src is not None and not self._nodes[src].strands
            text += " from any rank" if src is None else f" from rank {src}" + (", which has ended" if ended else "")
        elif pending.what.startswith("all_"):
            meeting = next(meeting for meeting in self._meetings.values() if pending in meeting.whose)
            missing = [rank for rank, whose in enumerate(meeting.whose) if whose is None]
            named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
            text += f" for rank{'s' * (len(missing) > 1)} {named} (step {strand.node.step + 1})"
        return text

    def _forgotten(self, node: SimulatedNode) -> RunError:
        pending = next(iter(node.unawaited.values()))
        return RunError(
            f"rank {node.rank} never awaited its call of `{pending.what}` at {pending.place}",
            f"write `await node.{pending.what}(...)`, or keep the result and await it later",
        )

    def _watch_for_forgotten_coroutines(self) -> None:
        warnings.filterwarnings("always", message="coroutine .* was never awaited", category=RuntimeWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            text = str(message)
            if "was never awaited" in text:
                self._never_awaited.append(" ".join(text.split()))
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = show

    def _close(self, coroutines: list[Coroutine[Any, Any, Any]]) -> None:
        """End what has not ended, while forgotten awaits in it are still watched for."""
        suspended = [strand.coroutine for node in self._nodes for strand in node.strands.values()]
        for coroutine in coroutines + suspended:
            with contextlib.suppress(Exception):  # of a `finally` in the program; what stopped the run says more
                coroutine.close()


@contextmanager
def _many_coroutines() -> Iterator[None]:
    """Note where coroutines are made; look for cycles more seldom, which at Python's own pace is half of the time."""
    depth, thresholds = sys.get_coroutine_origin_tracking_depth(), gc.get_threshold()
    sys.set_coroutine_origin_tracking_depth(1)
    gc.set_threshold(*_COLLECT)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        sys.set_coroutine_origin_tracking_depth(depth)


def _shapes(message: Message) -> str:
    return ", ".join(f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}" for tensor in message)


def _call(what: str, given: Any) -> str:
    return f"all_reduce({_shapes((given,))})" if what == "all_reduce" else what
