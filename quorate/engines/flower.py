"""A federation on Flower: the server's program in a ServerApp, which pushes messages to nodes and polls for replies.

Flower knows nodes, not clients: each node is asked once who it is. What has been accepted and committed is on the disk
when the call returns, so that a run which Flower can't resume goes on in another one of Flower's runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from math import inf
from typing import Any, TypeVar, cast

from quorate.engines import Recorder, stopped
from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_replies import StoredReply
from quorate.engines.federation_store import Store
from quorate.engines.flower_messages import Errand, digest
from quorate.engines.flower_nodes import Bounds, Job, Nodes
from quorate.errors import QuorateError, RunError
from quorate.federated import Gone, Reply, Request, Server
from quorate.federated.record import Rounds
from quorate.trace import Trace
from quorate.trees import Tree

T = TypeVar("T")
_CHUNK = 1 << 20  # bytes that are read at once


class FlowerServer:
    """Runs a server's program; it is the program's `Server`.

    Args:
        grid: Flower's.
        store: what outlasts a crash.
        bounds: what nodes are held to.
        size: how many clients there may be.
        recorder: of metrics and evaluations; what it restores is the store's.
        facts: of the recorder, kept with each commit.
        began: seconds on the clock before.
        told: is told what happens, in words.
        poll: seconds between two questions whether there are replies.
    """

    def __init__(
        self,
        grid: Any,
        store: Store,
        bounds: Bounds,
        size: int,
        *,
        recorder: Recorder,
        trace: Trace,
        record: Rounds,
        facts: Callable[[], Mapping[str, Any]],
        began: float = 0.0,
        told: Callable[[str], None] = lambda text: None,
        poll: float = 0.2,
    ) -> None:
        self.size, self.nodes = size, Nodes(grid, bounds, size, store.path, told)
        self._store, self._recorder, self._trace, self._record = store, recorder, trace, record
        self._facts, self._began, self._poll = facts, began, poll
        self._started, self._done = time.monotonic(), 0
        self._last = store.last()
        self._broadcast: tuple[Request, Errand, bytes] | None = None
        self._shown: list[int] = []

    def run(self, program: Callable[[Server], Coroutine[Any, Any, T]]) -> T:
        """Run the program to its end.

        Raises:
            RunError: if the task fails, nobody is left, or the program awaits what is no call on its server.
        """
        coroutine = program(self)
        try:
            awaited = coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except RunError:
            raise
        except QuorateError as error:
            raise stopped(self.size, self._done + 1, error) from error
        finally:
            with contextlib.suppress(Exception):
                coroutine.close()
        raise RunError(f"the program awaits {awaited!r}, which is no call on its server", "no asyncio")

    def now(self) -> float:
        """See `Server`."""
        return self._began + time.monotonic() - self._started

    def present(self) -> Sequence[int]:
        """See `Server`."""
        self.nodes.look()
        self._shown = self.nodes.present()
        return list(self._shown)

    def facts(self, client: int) -> Mapping[str, float]:
        """See `Server`."""
        return self.nodes.facts.get(client, {})

    async def arrivals(self, until: float) -> bool:
        """See `Server`."""
        while self.nodes.present() == self._shown:
            if self.now() >= until:
                return False
            self._wait(until)
        return True

    def _wait(self, until: float) -> None:
        time.sleep(max(0.0, min(self._poll, until - self.now())))
        self.nodes.look()

    def ask(self, clients: Sequence[int], request: Request) -> None:
        """See `Server`."""
        errand, content = self._errand(request)
        new = self._store.ask(clients, request.round, request.kind, errand.id)
        self._record.asked(new, request.bytes)
        now = self.now()
        for client in new:
            self._trace.sent(self.size, client, request.bytes, now, now)
        self.nodes.assign(
            [Job(client, errand.model_copy(update={"last": self._last.get(client)}), content) for client in new]
        )

    def _errand(self, request: Request) -> tuple[Errand, bytes]:
        if self._broadcast is None or self._broadcast[0] is not request:
            blob = Blob(request.tensors, _CHUNK)
            errand = Errand(
                id="0" * 32,
                run=self._store.run,
                last=None,
                round=request.round,
                what=request.kind,
                numbers=dict(request.numbers),
                tensors=blob.specs,
                bytes=blob.bytes,
            )
            id = digest(errand, blob.sha256)
            self._broadcast = request, errand.model_copy(update={"id": id}), blob.read(0, blob.bytes)
        return self._broadcast[1:]

    async def reply(self, until: float = inf) -> Reply | Gone | None:
        """See `Server`."""
        inbox = self.nodes.inbox
        while not inbox:
            if not self.nodes.jobs or self.now() >= until:
                return None
            self._wait(until)
        reply = inbox.popleft()
        self.nodes.jobs.pop(reply.client, None)
        if isinstance(reply, Gone):
            self._store.close_asks([reply.client], reply.round, None, "gone")
            self._record.gone(reply.client, reply.why, reply.hostile)
        else:
            now = self.now()
            self._trace.sent(reply.client, self.size, reply.bytes, now, now)
            self._record.replied(reply.bytes)
        return reply

    def accept(self, reply: Reply) -> None:
        """See `Server`."""
        stored = cast(StoredReply, reply)
        self._store.accept(stored)
        self._last[reply.client] = stored.id
        self._record.accepted(reply.client)

    def refuse(self, reply: Reply, why: str, hostile: bool = False) -> None:
        """See `Server`."""
        self._store.refuse(reply.client, reply.round, reply.kind)
        self._record.refused(reply.client, why, hostile)
        cast(StoredReply, reply).path.unlink(missing_ok=True)

    def release(self, clients: Sequence[int], round: int) -> None:
        """See `Server`; Flower calls no message back, so a client that is released works on to its end."""
        self._store.close_asks(clients, round, None, "over")
        self._record.late([client for client in clients if self.nodes.drop(client, round)])

    def asked(self, round: int) -> Sequence[int]:
        """See `Server`."""
        return self._store.asked(round)

    def accepted(self) -> Sequence[Reply]:
        """See `Server`."""
        return self._store.accepted()

    def restore(self, state: Tree) -> tuple[int, Tree]:
        """See `Server`."""
        self._done, state, _ = self._recorder.restore(0, state, {})
        self._record.asked(self._store.asked(self._done), 0)
        for reply in self._store.accepted():
            self._record.accepted(reply.client)
        return self._done, state

    def commit(
        self,
        round: int,
        loss: float,
        state: Tree,
        used: Sequence[Reply],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """See `Server`."""
        clock = self.now()
        self._broadcast = None
        self._trace.end(self.size, clock)
        self._recorder.commit(0, round, clock, loss, state, {}, metrics)
        self._record.done(round, clock)
        kept = {"clock": clock, **self._facts()}
        self._store.commit(round, state, [cast(StoredReply, reply) for reply in used], kept)
        self._done = round

    def saves(self, round: int) -> bool:
        """See `Server`."""
        return True
