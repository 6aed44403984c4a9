"""The side of a federation's server that talks to clients; everything here happens on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from quorate.engines.federation_frames import (
    Refusal,
    Verdict,
)
from quorate.engines.federation_link import Broadcast, Link
from quorate.engines.federation_replies import StoredReply
from quorate.engines.federation_status import ClientStatus
from quorate.engines.federation_upload import Upload
from quorate.federated import Gone
from quorate.settings import FederationSettings
from quorate.wire import Message

_REMEMBERED = 64  # requests of a client that are over, whose late messages are no offence
_TICK = 0.1  # seconds between two looks at who is late


@dataclass
class Job:
    """A request that a client was asked, until it is settled.

    Args:
        broadcast: None if it was asked before a crash, and not again yet.
        arrived: its reply is all here.
    """

    id: str
    round: int
    what: str
    since: float
    broadcast: Broadcast | None
    arrived: bool = False


@dataclass
class Peer:
    """What the server knows of a client."""

    number: int
    away_since: float
    name: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)
    link: Link | None = None
    seen: float | None = None
    job: Job | None = None
    busy: str | None = None
    upload: Upload | None = None
    last: str | None = None
    over: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    offences: int = 0
    rounds: int = 0
    up: int = 0
    down: int = 0


@dataclass(frozen=True)
class Rules:
    """What a desk holds clients to.

    Args:
        run: which run this is.
        configuration: hashes of the recipe's parts, by key.
        limits: tensors like those of replies, at most, by the kind of request.
        settings: the recipe's.
        told: is told what happens, in words.
    """

    run: str
    configuration: Mapping[str, str]
    limits: Callable[[str], Mapping[str, Message]]
    settings: FederationSettings
    told: Callable[[str], None]


class Desk:
    """Receives clients, hands requests out and replies in.

    Args:
        size: how many clients there may be.
        path: where a client's reply to a request is put.
    """

    def __init__(self, size: int, rules: Rules, path: Callable[[int, str], Path]) -> None:
        self._rules, self.path = rules, path
        self.peers = [Peer(number, time.monotonic()) for number in range(size)]
        self.arrivals: deque[StoredReply | Gone] = deque()
        self.incidents: list[tuple[int, str]] = []
        """Offences that belong to no request: (client, what it was)."""
        self.changed = asyncio.Event()

    def present(self) -> list[int]:
        """Return who could be asked."""
        return [peer.number for peer in self.peers if peer.link is not None and peer.job is None]

    def awaited(self) -> bool:
        """Return whether a reply may still come."""
        return any(peer.job is not None and not peer.job.arrived for peer in self.peers)

    def free(self, clients: Sequence[int], id: str) -> list[int]:
        """Return those of clients who are busy with nothing, or with this very request since before a crash."""
        jobs = {client: self.peers[client].job for client in clients}
        return [client for client, job in jobs.items() if job is None or (job.id == id and not job.arrived)]

    def assign(self, client: int, broadcast: Broadcast) -> None:
        """Ask a client, or go on asking after a crash."""
        peer, ask = self.peers[client], broadcast.header
        if peer.job is None:
            for each in [each for each in self.arrivals if isinstance(each, Gone)]:
                if (each.client, each.round) == (client, ask.round):
                    self.arrivals.remove(each)  # it is asked again before the program has heard of its loss
            peer.job = Job(ask.id, ask.round, ask.what, time.monotonic(), broadcast)
        peer.job.broadcast = broadcast
        if peer.link is not None and not peer.job.arrived and peer.busy != ask.id:
            peer.busy = ask.id
            peer.link.send(broadcast)

    def drop(self, client: int, why: str, round: int | None = None) -> None:
        """Let a client know that its reply is not wanted, if it has a request (of a round)."""
        peer, job = self.peers[client], self.peers[client].job
        if job is None or round not in (None, job.round):
            return
        for each in [each for each in self.arrivals if isinstance(each, StoredReply) and each.id == job.id]:
            if each.client == client:
                self.arrivals.remove(each)
                each.path.unlink(missing_ok=True)
        self._settled(peer, job.id, Verdict(id=job.id, state="dropped", why=why[:500]))

    def accepted(self, reply: StoredReply) -> None:
        """Let a client know that its reply counts."""
        peer = self.peers[reply.client]
        peer.last, peer.rounds = reply.id, peer.rounds + (reply.kind == "train")
        self._settled(peer, reply.id, Verdict(id=reply.id, state="accepted"))

    def refused(self, reply: StoredReply, why: str, hostile: bool) -> None:
        """Let a client know that its reply does not count."""
        peer = self.peers[reply.client]
        self._settled(peer, reply.id, Verdict(id=reply.id, state="dropped", why=why[:500]))
        if hostile:
            self.offended(peer, f"a reply that can't be used: {why}", close=False, known=True)

    def _settled(self, peer: Peer, id: str, verdict: Verdict) -> None:
        if peer.job is not None and peer.job.id == id:
            peer.job = None
            if peer.upload is not None:
                peer.upload.drop()
                peer.upload = None
        peer.over.append(id)
        if peer.busy == id:
            peer.busy = None
        if peer.link is not None:
            peer.link.forget(id)
            peer.link.say(verdict)
        self.changed.set()

    def gone(self, peer: Peer, why: str, hostile: bool = False) -> None:
        """Give up waiting for a client's reply."""
        if peer.job is not None and not peer.job.arrived:
            self.arrivals.append(Gone(peer.number, peer.job.round, why, hostile))
            self.drop(peer.number, why)

    def offended(self, peer: Peer, what: str, close: bool = True, known: bool = False) -> None:
        """Count an offence; `known`: the program has refused it, and it is recorded."""
        peer.offences += 1
        shut = peer.offences >= self._rules.settings.offences
        text = f"client {peer.number} `{peer.name}` has sent {what}" + (
            f"; it is shut out after {peer.offences} offences" if shut else ""
        )
        self._rules.told(text)
        if peer.job is not None and not peer.job.arrived:
            self.gone(peer, f"it has sent {what}", hostile=True)
        elif not known:
            self.incidents.append((peer.number, f"it has sent {what}"))
        if peer.link is not None and (close or shut):
            peer.link.close(Refusal(why=text, final=shut))

    async def watch(self) -> None:
        """Look for clients that are late, for ever."""
        while True:
            await asyncio.sleep(_TICK)
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        settings = self._rules.settings
        for peer in self.peers:
            job, upload = peer.job, peer.upload
            if job is None or job.arrived:
                continue
            grace = settings.homecoming if peer.seen is None else settings.absence
            if peer.link is None and now - max(peer.away_since, job.since) > grace:
                self.gone(peer, f"it was away for {grace:g} seconds")
            elif upload is not None and peer.link is not None and now - upload.moved > settings.stall:
                half = f"{upload.count} of {upload.offer.bytes} bytes of a reply, and then nothing"
                self.offended(peer, f"{half} for {settings.stall:g} seconds")
            elif now - job.since > settings.answer:
                self.gone(peer, f"it has not answered for {settings.answer:g} seconds")

    def part(self, client: int, id: str) -> Path:
        path = self.path(client, id)
        return path.with_name(f"{path.name}.part")

    def hand_in(self, peer: Peer, reply: StoredReply) -> None:
        """Take a reply that is all here, unless nobody waits for it any more."""
        if peer.job is None or peer.job.id != reply.id or peer.job.arrived:
            reply.path.unlink(missing_ok=True)
            return
        peer.job.arrived = True
        self.arrivals.append(reply)
        self.changed.set()

    def status(self) -> tuple[ClientStatus, ...]:
        """Return how all clients stand."""
        now = time.monotonic()
        return tuple(
            ClientStatus(
                peer.number,
                peer.name,
                self._state(peer),
                None if peer.seen is None else now - peer.seen,
                peer.rounds,
                peer.up,
                peer.down,
                peer.offences,
            )
            for peer in self.peers
        )

    def _state(self, peer: Peer) -> str:
        if peer.offences >= self._rules.settings.offences:
            return "shut out"
        if peer.link is None:
            return "never seen" if peer.seen is None else "away"
        if peer.job is None:
            return "waiting"
        return "replied" if peer.job.arrived else "sending" if peer.upload is not None else "asked"


async def waited(desk: Desk, done: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds that changes with the desk; False if the time passes first."""
    until = time.monotonic() + seconds
    while not done():
        left = until - time.monotonic()
        if left <= 0:
            return False
        desk.changed.clear()
        try:
            await asyncio.wait_for(desk.changed.wait(), timeout=None if left == inf else left)
        except TimeoutError:
            return done()
    return True
