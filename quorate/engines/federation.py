"""A federation across machines: a server that only listens, and clients that only dial out, over gRPC with mutual TLS.

The server's program runs in a thread of its own, and waits there for what happens on the event loop; so nothing that it
computes keeps the loop from its clients. What it has accepted is on the disk when the call returns, and so is what it
has committed before; a commit goes there behind it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from math import inf
from typing import Any, TypeVar, cast

from quorate.engines import Recorder, stopped
from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_desk import Desk, Job, Rules, waited
from quorate.engines.federation_farewell import farewell
from quorate.engines.federation_frames import Ask
from quorate.engines.federation_link import Broadcast, places_of
from quorate.engines.federation_replies import StoredReply
from quorate.engines.federation_status import Status
from quorate.engines.federation_store import Store
from quorate.engines.federation_thread import Wait, in_thread
from quorate.errors import RunError
from quorate.federated import Gone, Reply, Request, Server
from quorate.federated.record import Rounds
from quorate.trace import Trace
from quorate.trees import Tree
from quorate.wire import Message

T = TypeVar("T")


class Stopped(RunError):
    """Somebody has stopped the run, which can be gone on with."""


class FederationServer:
    """Runs a server's program; it is the program's `Server`.

    Args:
        store: what outlasts a crash.
        rules: what clients are held to.
        size: how many clients there may be.
        recorder: of metrics and evaluations; what it restores is the store's.
        facts: of the recorder, kept with each commit.
        rounds: how many there will be, for the status.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        size: int,
        *,
        recorder: Recorder,
        trace: Trace,
        record: Rounds,
        facts: Callable[[], Mapping[str, Any]],
        began: float = 0.0,
        offences: Mapping[str, int] | None = None,
        rounds: int | None = None,
    ) -> None:
        self.size, self.desk = size, Desk(size, rules, store.path)
        self._store, self._rules, self._recorder, self._trace, self._record = store, rules, recorder, trace, record
        self._facts, self._rounds, self._began = facts, rounds, began
        self._started, self._done, self._first_round = time.monotonic(), 0, 0
        self._accuracy: float | None = None
        self._loop = asyncio.get_running_loop()
        self._last: tuple[Mapping[str, Message], Blob] | None = None
        self._stop: RunError | None = None
        self._over, self._shown = False, list[int]()
        for client, id in store.last().items():
            self.desk.peers[client].last = id
        for each in store.open_asks():
            self.desk.peers[each.client].job = Job(each.id, each.round, each.kind, self._started, None)
        for number, count in (offences or {}).items():
            self.desk.peers[int(number)].offences = count

    # What the program calls, in its own thread.

    def now(self) -> float:
        """See `Server`."""
        return self._began + time.monotonic() - self._started

    def present(self) -> Sequence[int]:
        """See `Server`."""
        return self._at_desk(self._present)

    def _present(self) -> list[int]:
        self._shown = self.desk.present()
        return list(self._shown)

    def facts(self, client: int) -> Mapping[str, float]:
        """See `Server`."""
        return self.desk.peers[client].facts

    async def arrivals(self, until: float) -> bool:
        """See `Server`."""
        return bool(await Wait(lambda: self._waited(lambda: self.desk.present() != self._shown, until)))

    def ask(self, clients: Sequence[int], request: Request) -> None:
        """See `Server`."""
        broadcast = self._broadcast(request)
        free = self._at_desk(lambda: self.desk.free(clients, broadcast.header.id))
        new = self._store.ask(free, request.round, request.kind, broadcast.header.id)
        self._record.asked(new, request.bytes)
        now = self.now()
        for client in new:
            self._trace.sent(self.size, client, request.bytes, now, now)
        self._at_desk(lambda: self._assign(new, set(free).difference(new), broadcast))

    def _assign(self, clients: Sequence[int], answered: Collection[int], broadcast: Broadcast) -> None:
        for client in clients:
            self.desk.assign(client, broadcast)
        for client in sorted(answered):  # which the program would wait for in vain
            self.desk.arrivals.append(Gone(client, broadcast.header.round, "it has answered this round before"))

    def _broadcast(self, request: Request) -> Broadcast:
        if self._last is None or self._last[0] is not request.tensors:
            self._last = request.tensors, Blob(request.tensors, self._rules.settings.chunk)
        blob = self._last[1]
        told: dict[str, Any] = {
            "round": request.round,
            "what": request.kind,
            "numbers": dict(request.numbers),
            "tensors": blob.specs,
            "bytes": blob.bytes,
            "chunk": blob.chunk,
            "chunks": blob.chunks,
        }
        unnamed = Ask(id="0" * 32, **told).model_dump_json()
        ask = Ask(id=hashlib.sha256(unnamed.encode()).hexdigest()[:32], **told)
        return Broadcast(ask, blob, places_of(blob.chunks))

    async def reply(self, until: float = inf) -> Reply | Gone | None:
        """See `Server`."""
        desk = self.desk
        await Wait(lambda: self._waited(lambda: bool(desk.arrivals) or not desk.awaited(), until))
        reply = self._at_desk(lambda: desk.arrivals.popleft() if desk.arrivals else None)
        if isinstance(reply, Gone):
            self._store.close_asks([reply.client], reply.round, None, "gone")
            self._record.gone(reply.client, reply.why, reply.hostile)
        elif reply is not None:
            now = self.now()
            self._trace.sent(reply.client, self.size, reply.bytes, now, now)
            self._record.replied(reply.bytes)
        return reply

    def accept(self, reply: Reply) -> None:
        """See `Server`."""
        stored = cast(StoredReply, reply)
        self._store.accept(stored)
        self._record.accepted(reply.client)
        self._at_desk(lambda: self.desk.accepted(stored))

    def refuse(self, reply: Reply, why: str, hostile: bool = False) -> None:
        """See `Server`."""
        stored = cast(StoredReply, reply)
        self._store.refuse(reply.client, reply.round, reply.kind)
        self._record.refused(reply.client, why, hostile)
        self._at_desk(lambda: self.desk.refused(stored, why, hostile))
        stored.path.unlink(missing_ok=True)

    def release(self, clients: Sequence[int], round: int) -> None:
        """See `Server`."""
        self._last = None
        self._store.close_asks(clients, round, None, "over")
        late = self._at_desk(lambda: [each for each in clients if self._released(each, round)])
        self._record.late(late)

    def _released(self, client: int, round: int) -> bool:
        job = self.desk.peers[client].job
        if job is None or job.round != round:
            return False
        self.desk.drop(client, f"round {round + 1} has ended without it", round)
        return True

    def asked(self, round: int) -> Sequence[int]:
        """See `Server`."""
        return self._store.asked(round)

    def accepted(self) -> Sequence[Reply]:
        """See `Server`."""
        return self._store.accepted()

    def restore(self, state: Tree) -> tuple[int, Tree]:
        """See `Server`."""
        self._done, state, _ = self._recorder.restore(0, state, {})
        self._first_round = self._done
        again = {each.client for each in self._store.open_asks()}
        self._record.asked([client for client in self._store.asked(self._done) if client not in again], 0)
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
        self._last = None
        for client, what in self._at_desk(self._incidents):
            self._record.refused(client, what, hostile=True)
        self._trace.end(self.size, clock)
        self._recorder.commit(0, round, clock, loss, state, {}, metrics)
        self._record.done(round, clock)
        offences = {str(peer.number): peer.offences for peer in self.desk.peers if peer.offences}
        kept = {"clock": clock, "offences": offences, **self._facts()}
        self._store.commit(round, state, [cast(StoredReply, reply) for reply in used], kept)
        self._done = round

    def _incidents(self) -> list[tuple[int, str]]:
        found, self.desk.incidents = self.desk.incidents, []
        return found

    def saves(self, round: int) -> bool:
        """See `Server`."""
        return True

    def _at_desk(self, function: Callable[[], T]) -> T:
        """Do something on the event loop, from the program's thread."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def do() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(do)
        return future.result()

    # What happens on the event loop.

    async def _waited(self, done: Callable[[], bool], until: float) -> bool:
        came = await waited(self.desk, lambda: self._stop is not None or done(), until - self.now())
        if self._stop is not None:
            raise self._stop
        return came

    def stop(self, why: str) -> None:
        """End the run where the program next waits; it can be resumed."""
        self._stop = Stopped(why, "`quorate resume` goes on with the run")
        self.desk.changed.set()

    def evaluated(self, measures: Mapping[str, float]) -> None:
        """Take note of an evaluation, for the status."""
        self._accuracy = measures.get("accuracy", self._accuracy)

    def status(self) -> Status:
        """Return how the federation stands."""
        seconds, done = time.monotonic() - self._started, self._done - self._first_round
        left = None if self._rounds is None else self._rounds - self._done
        state = "over" if self._over else "running" if self._stop is None else "stopping"
        eta = None if left is None or not done else left * seconds / done
        run, told = self._rules.run, self.desk.status()
        return Status(run, state, self._done, self._rounds, self.now(), eta, self._accuracy, told)

    async def run(self, program: Callable[[Server], Coroutine[Any, Any, T]]) -> T:
        """Run the program to its end.

        Raises:
            RunError: if the task fails, nobody is left, or the run is stopped.
        """
        watching = asyncio.create_task(self.desk.watch())
        driven = in_thread(program(self), self._loop, lambda error: stopped(self.size, self._done + 1, error))
        future = asyncio.wrap_future(driven)
        try:
            await asyncio.wait({future})
            result = future.result()
            await asyncio.to_thread(self._store.settle)
            return result
        except asyncio.CancelledError:
            self.stop("the server was stopped")
            await asyncio.wait({future})
            future.exception()
            raise
        finally:
            watching.cancel()

    def end_training(self) -> None:
        """Let go of clients that still work when the program is through, on the event loop."""
        for each in self._store.open_asks():
            self._store.close_asks([each.client], each.round, each.kind, "over")
            self.desk.drop(each.client, "the training is over")

    async def farewell(self, measures: Mapping[str, float | None]) -> None:
        """Tell all clients that the run is over; see `federation_farewell`."""
        self._over = True
        await farewell(self.desk, self._store, measures, self._rules.settings)
