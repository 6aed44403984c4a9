"""A federation in one process, on a virtual clock: the server's program, and clients as functions.

What clients compute is worked out when the first of all that are at work is through, together; `engines/traffic.py`
says when that is. Equal recipes give equal runs to the bit, resumed or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from math import inf
from typing import Any, TypeVar

from torch import Tensor

from quorate.availability import Availability
from quorate.cluster import Cluster
from quorate.engines import Forgetful, Recorder
from quorate.engines.errands import Errand, Phase
from quorate.engines.presence import Presences
from quorate.engines.traffic import Traffic, by_machine
from quorate.errors import QuorateError, RecipeError, RunError
from quorate.federated import Gone, Reply, Request, Server
from quorate.federated.client import Asked, Client
from quorate.federated.local import Train
from quorate.federated.record import Rounds
from quorate.rand import Rand
from quorate.trace import Trace
from quorate.trees import Tree, branch, leaves

T = TypeVar("T")


class FederationSimulator:
    """Runs a server's program; it is the program's `Server`.

    Args:
        clients: what all of them have in common.
        shards: (n,) positions of each client's samples in the training data.
        cluster: what computing and talking costs, and what happens; machine number `size` is the server.
        train: works out clients' local work; None: one by one.
        availability: when clients are there; None for always.
        interrupted: the reply of a client that goes is "lost", or it "finishes" before.
        rounds: writes down who took part.
        paranoid: check that clients write to nothing that they were given.

    Raises:
        RecipeError: if the cluster can't be meant.
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
        availability: Availability | None = None,
        interrupted: str = "lost",
        rounds: Rounds | None = None,
        paranoid: bool = False,
    ) -> None:
        cluster, rand = cluster or Cluster(), rand or Rand(0)
        if "measured" in (cluster.seconds_per_sample, *(each.seconds_per_sample for each in cluster.node)):
            raise RecipeError("a federation's clients have no measured speed", 'seconds_per_sample = "100 us"')
        self.size, self._clients, self._shards = len(shards), clients, shards
        self._train, self._paranoid = train or clients.train, paranoid
        self._recorder: Recorder = recorder or Forgetful()
        self._trace, self._rounds = trace or Trace(self.size + 1), rounds or Rounds()
        self._memory = by_machine(cluster, self.size, "memory")
        self._presences = Presences(self.size, cluster, rand, availability, interrupted == "finishes")
        self._traffic = Traffic(
            self.size,
            cluster,
            rand,
            self._presences,
            self._trace,
            lambda errand: clients.cost(self._given(errand)),
            self._work_out,
        )
        self._round = 0
        self._memories: dict[int, Tree] = {}
        self._answered: dict[tuple[int, int, str], Tree] = {}

    def run(self, program: Callable[[Server], Coroutine[Any, Any, T]]) -> T:
        """Run the program to its end.

        Raises:
            RunError: if nobody is left, or the program awaits what is no call on its server.
        """
        self._traffic.begin(self._trace.ended[self.size])
        coroutine = program(self)
        try:
            awaited = coroutine.send(None)
        except StopIteration as stop:
            for machine in range(self.size + 1):
                self._trace.end(machine, self.now())
            result: T = stop.value
            return result
        except RunError:
            raise
        except QuorateError as error:
            raise RunError(f"the server, round {self._round + 1}: {error.problem}", error.hint) from error
        finally:
            with contextlib.suppress(Exception):
                coroutine.close()
        raise RunError(f"the program awaits {awaited!r}, which is no call on its server", "no asyncio")

    def memory(self, client: int) -> Tree:
        """Return what a client keeps; not to be written to."""
        return self._memories.get(client, {})

    def now(self) -> float:
        """See `Server`."""
        return self._traffic.clock

    def present(self) -> Sequence[int]:
        """See `Server`."""
        busy = self._traffic.busy
        return [client for client in self._presences.there(self.now()) if client not in busy]

    def facts(self, client: int) -> Mapping[str, float]:
        """See `Server`."""
        told = {"samples": float(self._clients.samples(client, self._shards[client]))}
        memory = self._memory[client]
        return told if memory is None else told | {"memory": memory}

    async def arrivals(self, until: float) -> bool:
        """See `Server`."""
        traffic = self._traffic
        while True:
            busy = set(traffic.busy)
            arrival = self._presences.next_arrival(traffic.clock, busy)
            if not traffic.happens(min(until, arrival)):
                traffic.clock = max(traffic.clock, min(until, arrival)) if min(until, arrival) < inf else traffic.clock
                return arrival <= until and arrival < inf
            if not busy <= traffic.busy.keys():
                return True

    def ask(self, clients: Sequence[int], request: Request) -> None:
        """See `Server`."""
        asked = [client for client in clients if client not in self._traffic.busy]
        for client in asked:
            self._traffic.ask(client, request)
        self._rounds.asked(asked, request.bytes)

    async def reply(self, until: float = inf) -> Reply | Gone | None:
        """See `Server`."""
        traffic = self._traffic
        while not traffic.inbox:
            if not traffic.busy:
                return None
            if not traffic.happens(until):
                traffic.clock = max(traffic.clock, until) if until < inf else traffic.clock
                return None
        errand = traffic.take()
        client, round = errand.client, errand.request.round
        if errand.phase == Phase.LOST or not isinstance(errand.result, tuple):
            why = errand.loss.why if errand.phase == Phase.LOST else f"it failed: {errand.result}"
            self._rounds.gone(client, why)
            return Gone(client, round, why)
        memory, answer = errand.result
        self._answered[client, round, answer.kind] = memory
        self._rounds.replied(answer.bytes)
        return answer

    def _given(self, errand: Errand) -> Asked:
        client = errand.client
        return Asked(client, self.memory(client), errand.request, self._shards[client])

    def _work_out(self, first: Errand) -> None:
        if first.result is not None:
            return
        waiting = [each for each in self._traffic.busy.values() if each.result is None and each.phase < Phase.UP]
        waiting = waiting if first in waiting else [first]
        cohort = [self._given(each) for each in waiting]
        before = _versions(cohort) if self._paranoid else []
        results = self._clients.answers(cohort, self._train)
        if self._paranoid and before != _versions(cohort):
            raise RunError(
                "the algorithm or a codec has written to a client's memory, or to what was broadcast", "clone it first"
            )
        for each, result in zip(waiting, results, strict=True):
            each.result = result

    def accept(self, reply: Reply) -> None:
        """See `Server`."""
        self._memories[reply.client] = self._answered.pop((reply.client, reply.round, reply.kind))
        self._rounds.accepted(reply.client)

    def refuse(self, reply: Reply, why: str, hostile: bool = False) -> None:
        """See `Server`."""
        self._answered.pop((reply.client, reply.round, reply.kind), None)
        self._rounds.refused(reply.client, why, hostile)

    def release(self, clients: Sequence[int], round: int) -> None:
        """See `Server`."""
        busy = self._traffic.busy
        let_go = [client for client in clients if client in busy and busy[client].request.round == round]
        for client in let_go:
            self._traffic.release(client)
        self._rounds.late(let_go)

    def asked(self, round: int) -> Sequence[int]:
        """Return nobody: a checkpoint is of a commit, and whoever was at work then goes on with it."""
        return ()

    def accepted(self) -> Sequence[Reply]:
        """Return none: a commit uses all that were accepted before."""
        return ()

    def restore(self, state: Tree) -> tuple[int, Tree]:
        """See `Server`."""
        self._round, state, own = self._recorder.restore(0, state, {})
        memories = branch(own, "memories")
        self._memories = {int(client): branch(memories, client) for client in memories}
        if "traffic" in own:
            self._traffic.load(branch(own, "traffic"))
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
        self._trace.end(self.size, self.now())
        self._rounds.done(round, self.now())
        own: Tree = {}
        if self.saves(round):
            memories = {str(client): memory for client, memory in self._memories.items()}
            own = {"memories": memories, "traffic": self._traffic.state()}
        self._recorder.commit(0, round, self.now(), loss, state, own, metrics)

    def saves(self, round: int) -> bool:
        """See `Server`."""
        return self._recorder.saves(round)


def _versions(cohort: Sequence[Asked]) -> list[int]:
    """Return how often each tensor that clients were given has been written to."""
    found = [tensor._version for asked in cohort for _, tensor in leaves(asked.memory)]
    return found + [part._version for asked in cohort for message in asked.request.tensors.values() for part in message]
