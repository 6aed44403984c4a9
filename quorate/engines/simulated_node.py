"""A virtual worker: what its program calls, turned into events of the simulator."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from quorate.engines.batching import Request
from quorate.engines.coroutines import note_origins
from quorate.engines.pending import Pending
from quorate.node import FEW
from quorate.trees import Tree
from quorate.wire import Message, as_ragged, require_carried

if TYPE_CHECKING:
    from quorate.engines.simulator import Simulator

T = TypeVar("T")


class Strand:
    """A coroutine of one rank, and what it waits for."""

    __slots__ = ("coroutine", "ended", "node", "waits_for")

    def __init__(self, node: SimulatedNode, coroutine: Coroutine[Any, Any, Any], ended: Pending[Any]) -> None:
        self.node, self.coroutine, self.ended = node, coroutine, ended
        self.waits_for: Pending[Any] | None = None


class SimulatedNode:
    """One virtual worker."""

    def __init__(self, simulator: Simulator, rank: int) -> None:
        self.rank, self.size = rank, simulator.size
        self._simulator = simulator
        machine = simulator.machines[rank]
        self._speed = simulator.cluster.speed(machine, simulator.rand)
        self._pace = simulator.schedule.pace(machine)
        self.latency: float = simulator.cluster.of(machine, "latency")
        self.measured = simulator.cluster.of(machine, "seconds_per_sample") == "measured"
        self.talks_alone = True
        self.unawaited: dict[int, Pending[Any]] = {}
        self.strands: dict[int, Strand] = {}
        self.computations, self.meetings, self.step, self.sending = 0, 0, 0, 0
        self.free_at, self.sending_since = 0.0, 0.0

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
        start = max(simulator.clock, self.free_at) if samples or self.measured else simulator.clock
        if self.measured:
            began = time.perf_counter()
            simulator.answer([(self, pending)])
            duration = (time.perf_counter() - began) * simulator.cluster.measured_factor
        else:
            duration = self._speed(self.step, self.computations) * samples if samples else 0.0
            simulator.unanswered.append((self, pending))
        self.computations += 1
        end = start + duration
        if self._pace is None:
            simulator.trace.busy(self.rank, "computing", start, end)
        else:
            spans = self._pace.spans(start, duration)
            end = spans[-1][1]
            for span in spans:
                simulator.trace.busy(self.rank, "computing", *span)
        self.free_at = max(self.free_at, end)
        simulator.computes_until(end, self, pending)
        return pending

    def send(self, dst: int, message: Message, tag: int = 0) -> Awaitable[None]:
        """See `Node`."""
        require_carried(message, tag)
        pending: Pending[None] = Pending("send", self.unawaited, (dst, tag))
        self._simulator.post.send(self, dst, message, pending)
        return pending

    def recv(self, src: int | None, like: Message, tag: int = 0) -> Awaitable[tuple[int, Message]]:
        """See `Node`."""
        require_carried(like, tag)
        pending: Pending[tuple[int, Message]] = Pending("recv", self.unawaited, (src, like, tag))
        self._simulator.post.recv(self, src, pending)
        return pending

    def all_reduce(self, tensor: Tensor, scale: float = 1.0) -> Awaitable[Tensor]:
        """See `Node`."""
        pending: Pending[Tensor] = Pending("all_reduce", self.unawaited, scale)
        self._simulator.meetings.meet(self, "all_reduce", tensor, pending)
        return pending

    def all_gather(self, message: Message, like: Message | None = None) -> Awaitable[list[Message]]:
        """See `Node`."""
        pending: Pending[list[Message]] = Pending("all_gather", self.unawaited)
        if like is not None and self.size <= FEW:
            message = as_ragged(message) or message
        self._simulator.meetings.meet(self, "all_gather", message, pending)
        return pending

    def spawn(self, program: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """See `Node`."""
        pending: Pending[T] = Pending("spawn", self.unawaited)
        self._simulator.start(self, program, pending)
        return pending

    def background(self, program: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """See `Node`."""
        pending: Pending[T] = Pending("background", self.unawaited)
        self._simulator.start(self, program, pending)
        return pending

    def saves(self, step: int) -> bool:
        """See `Node`."""
        return self._simulator.recorder.saves(step)

    def evaluates(self, step: int) -> bool:
        """See `Node`."""
        return self._simulator.recorder.evaluates(step)

    def restore(self, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """See `Node`."""
        self.step, shared, own = self._simulator.recorder.restore(self.rank, shared, own)
        if self._simulator.paranoia:
            shared, own = self._simulator.paranoia.copies(shared), self._simulator.paranoia.copies(own)
        return self.step, shared, own

    def commit(
        self, step: int, loss: float, shared: Tree, own: Tree, metrics: Mapping[str, float] | None = None
    ) -> None:
        """See `Node`."""
        if self._simulator.paranoia:
            self._simulator.paranoia.check(self.rank)
        elif self.step == 0:
            note_origins(False)  # a forgotten await shows in the first step
        self.step, self.computations = step, 0
        self._simulator.trace.end(self.rank, self._simulator.clock)
        self._simulator.recorder.commit(self.rank, step, self._simulator.clock, loss, shared, own, metrics)
