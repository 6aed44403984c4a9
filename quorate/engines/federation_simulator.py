"""A federation in one process, on a virtual clock: the server's program, and clients as functions.

A client that is asked receives what is broadcast, computes, and sends its reply; each part takes the time that the
cluster says, the server being one more machine after the clients. What clients compute is worked out when the first
reply of all that are under way is due, together.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

from torch import Tensor

from quorate.cluster import Cluster
from quorate.engines import Forgetful, Recorder, stopped
from quorate.errors import QuorateError, RunError
from quorate.federated import Answer, Gone, Reply, Request, Server
from quorate.federated.client import Asked, Client
from quorate.federated.local import Train
from quorate.rand import Rand
from quorate.trace import Trace
from quorate.trees import Tree, branch

T = TypeVar("T")


@dataclass
class _UnderWay:
    """A request that a client is busy with."""

    client: int
    request: Request
    due: float
    result: tuple[Tree, Answer] | QuorateError | None = None


class _Wait:
    """What the program waits for: that the clock reaches a time, or something else happens before."""

    def __init__(self, until: float) -> None:
        self.until = until

    def __await__(self) -> Generator[_Wait, None, None]:
        yield self


class FederationSimulator:
    """Runs a server's program; it is the program's `Server`.

    Args:
        clients: what all of them have in common.
        shards: (n,) positions of each client's samples in the training data.
        cluster: what computing and talking costs; machine number `size` is the server.
        train: works out clients' local work; None: one by one.
    """

    def __init__(
        self,
        clients: Client,
        shards: Sequence[Tensor],
        cluster: Cluster | None = None,
        *,
        rand: Rand | None = None,
        recorder: Recorder | None = None,
        trace: Trace | None = None,
        train: Train | None = None,
    ) -> None:
        self.size = len(shards)
        self._clients, self._shards, self._cluster = clients, shards, cluster or Cluster()
        self._rand, self._train = rand or Rand(0), train or clients.train
        self._recorder: Recorder = recorder or Forgetful()
        self._trace = trace or Trace(self.size + 1)
        self._clock, self._round = 0.0, 0
        self._memories: dict[int, Tree] = {}
        self._answered: dict[tuple[int, int], Tree] = {}
        self._under_way: dict[int, _UnderWay] = {}
        self._due: list[tuple[float, int]] = []
        self._refused: list[dict[str, Any]] = []

    def run(self, program: Callable[[Server], Coroutine[Any, Any, T]]) -> T:
        """Run the program to its end.

        Raises:
            RunError: if the task fails, or the program waits for what can't happen.
        """
        self._clock = self._trace.ended[self.size]
        coroutine = program(self)
        try:
            while True:
                try:
                    wait = coroutine.send(None)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                except RunError:
                    raise
                except QuorateError as error:
                    raise stopped(self.size, self._round + 1, error) from error
                if not isinstance(wait, _Wait):
                    raise RunError(f"the program awaits {wait!r}, which is no call on its server", "no asyncio")
                self._clock = max(self._clock, wait.until)
        finally:
            with contextlib.suppress(Exception):
                coroutine.close()

    def now(self) -> float:
        """See `Server`."""
        return self._clock

    def present(self) -> Sequence[int]:
        """See `Server`."""
        return [client for client in range(self.size) if client not in self._under_way]

    def facts(self, client: int) -> Mapping[str, float]:
        """See `Server`."""
        return {"samples": float(len(self._shards[client]))}

    async def arrivals(self, until: float) -> bool:
        """See `Server`."""
        if not self._due or self._due[0][0] > until:
            await _Wait(self._clock if until == inf else until)
            return False
        await _Wait(self._due[0][0])
        return True

    def ask(self, clients: Sequence[int], request: Request) -> None:
        """See `Server`."""
        for client in clients:
            due = self._clock + self._takes(client, request)
            self._under_way[client] = _UnderWay(client, request, due)
            heapq.heappush(self._due, (due, client))
            self._trace.sent(self.size, client, request.bytes, self._clock, due)

    def _takes(self, client: int, request: Request) -> float:
        cluster, server = self._cluster, self.size
        latency = cluster.of(client, "latency") + cluster.of(server, "latency")
        down = min(cluster.of(client, "downlink"), cluster.of(server, "uplink"))
        samples = len(self._shards[client]) * self._clients.settings.epochs
        computing = cluster.speed(client, self._rand)(request.round, 0) * samples
        return float(2 * latency + request.bytes / down + computing)

    async def reply(self, until: float = inf) -> Reply | Gone | None:
        """See `Server`."""
        if not self._due:
            return None
        due, client = self._due[0]
        if due > until:
            await _Wait(until)
            return None
        heapq.heappop(self._due)
        await _Wait(due)
        each = self._under_way.pop(client)
        if each.result is None:
            self._work_out(each)
        if isinstance(each.result, QuorateError):
            raise RunError(f"client {client}, round {each.request.round + 1}: {each.result.problem}", each.result.hint)
        assert each.result is not None
        memory, answer = each.result
        self._answered[client, answer.round] = memory
        self._trace.sent(client, self.size, answer.bytes, due, due)
        return answer

    def _work_out(self, first: _UnderWay) -> None:
        waiting = [first, *(each for each in self._under_way.values() if each.result is None)]
        cohort = [
            Asked(each.client, self._memories.get(each.client, {}), each.request, self._shards[each.client])
            for each in waiting
        ]
        for each, result in zip(waiting, self._clients.answers(cohort, self._train), strict=True):
            each.result = result

    def accept(self, reply: Reply) -> None:
        """See `Server`."""
        self._memories[reply.client] = self._answered.pop((reply.client, reply.round))

    def refuse(self, reply: Reply, why: str, hostile: bool = False) -> None:
        """See `Server`."""
        self._answered.pop((reply.client, reply.round), None)
        self._refused.append({"round": reply.round, "client": reply.client, "why": why, "hostile": hostile})

    def release(self, clients: Sequence[int], round: int) -> None:
        """See `Server`."""
        for client in clients:
            each = self._under_way.get(client)
            if each is not None and each.request.round == round:
                del self._under_way[client]
                self._due.remove((each.due, client))
        heapq.heapify(self._due)

    def asked(self, round: int) -> Sequence[int]:
        """See `Server`."""
        return ()

    def accepted(self) -> Sequence[Reply]:
        """See `Server`."""
        return ()

    def restore(self, state: Tree) -> tuple[int, Tree]:
        """See `Server`."""
        self._round, state, own = self._recorder.restore(0, state, {})
        memories = branch(own, "memories")
        self._memories = {int(client): branch(memories, client) for client in memories}
        return self._round, state

    def commit(
        self,
        round: int,
        loss: float,
        state: Tree,
        used: Sequence[Reply],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """See `Server`."""
        self._round = round
        self._trace.end(self.size, self._clock)
        own: Tree = {"memories": {str(client): memory for client, memory in self._memories.items()}}
        self._recorder.commit(0, round, self._clock, loss, state, own, metrics)

    def saves(self, round: int) -> bool:
        """See `Server`."""
        return self._recorder.saves(round)
