"""The side of a federation's server that talks to clients; everything here happens on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Protocol

from quorate.engines.federation_frames import (
    FROM_CLIENTS,
    PROTOCOL,
    Failed,
    Garbled,
    Header,
    Hello,
    Offer,
    Piece,
    Ready,
    Refusal,
    Verdict,
    Welcome,
    misfit,
    places,
    unframe,
)
from quorate.engines.federation_link import Broadcast, Closed, Link
from quorate.engines.federation_status import ClientStatus
from quorate.engines.federation_store import StoredReply, completed, reply_of
from quorate.engines.federation_upload import Upload
from quorate.errors import QuorateError
from quorate.federated import Gone
from quorate.settings import FederationSettings
from quorate.wire import Message

_REMEMBERED = 64  # requests of a client that are over, whose late messages are no offence
_TICK = 0.1  # seconds between two looks at who is late


class Identities(Protocol):
    """Who may be a client."""

    @property
    def federation(self) -> str:
        """The federation's name."""

    def name_of(self, pem: bytes) -> tuple[int, str]:
        """Return the number and the name of who has shown a certificate; raise QuorateError if it is nobody's."""


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

    def __init__(self, size: int, identities: Identities, rules: Rules, path: Callable[[int, str], Path]) -> None:
        self._identities, self._rules, self._path = identities, rules, path
        began = time.monotonic()
        self.came_back_until = began + rules.settings.homecoming
        self.peers = [Peer(number, began) for number in range(size)]
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

    def assign(self, client: int, broadcast: Broadcast) -> None:
        """Ask a client, or go on asking after a crash."""
        peer, ask = self.peers[client], broadcast.header
        if peer.job is not None and peer.job.id == ask.id:
            peer.job.broadcast = broadcast
        else:
            self.drop(client, "another request has taken its place")
            peer.job = Job(ask.id, ask.round, ask.what, time.monotonic(), broadcast)
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
        peer.last, peer.rounds = reply.id, peer.rounds + 1
        self._settled(peer, reply.id, Verdict(id=reply.id, state="accepted"))

    def refused(self, reply: StoredReply, why: str, hostile: bool) -> None:
        """Let a client know that its reply does not count."""
        peer = self.peers[reply.client]
        self._settled(peer, reply.id, Verdict(id=reply.id, state="dropped", why=why[:500]))
        if hostile:
            self._offended(peer, f"a reply that can't be used: {why}", close=False, known=True)

    def _settled(self, peer: Peer, id: str, verdict: Verdict) -> None:
        if peer.job is not None and peer.job.id == id:
            peer.job = None
            if peer.upload is not None:
                peer.upload.drop()
                peer.upload = None
        peer.over.append(id)
        if peer.link is not None:
            peer.link.forget(id)
            peer.link.say(verdict)
        self.changed.set()

    def _gone(self, peer: Peer, why: str, hostile: bool = False) -> None:
        if peer.job is not None and not peer.job.arrived:
            self.arrivals.append(Gone(peer.number, peer.job.round, why, hostile))
            self.drop(peer.number, why)

    def _offended(self, peer: Peer, what: str, close: bool = True, known: bool = False) -> None:
        """Count an offence; `known`: the program has refused it, and it is recorded."""
        peer.offences += 1
        shut = peer.offences >= self._rules.settings.offences
        text = f"client {peer.number} `{peer.name}` has sent {what}" + (
            f"; it is shut out after {peer.offences} offences" if shut else ""
        )
        self._rules.told(text)
        if peer.job is not None and not peer.job.arrived:
            self._gone(peer, f"it has sent {what}", hostile=True)
        elif not known:
            self.incidents.append((peer.number, f"it has sent {what}"))
        if peer.link is not None and (close or shut):
            peer.link.close(Refusal(why=text, final=shut))

    async def watch(self) -> None:
        """Look for clients that are late, for ever."""
        settings = self._rules.settings
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            grace = settings.absence if now > self.came_back_until else settings.homecoming
            for peer in self.peers:
                job, upload = peer.job, peer.upload
                if job is None or job.arrived:
                    continue
                if peer.link is None and now - max(peer.away_since, job.since) > grace:
                    self._gone(peer, f"it was away for {grace:g} seconds")
                elif upload is not None and peer.link is not None and now - upload.moved > settings.stall:
                    half = f"{upload.count} of {upload.offer.bytes} bytes of a reply, and then nothing"
                    self._offended(peer, f"{half} for {settings.stall:g} seconds")
                elif now - job.since > settings.answer:
                    self._gone(peer, f"it has not answered for {settings.answer:g} seconds")

    async def talk(self, _: object, context: Any) -> None:
        """Serve one stream; gRPC calls this."""
        peer: Peer | None = None
        link = Link(context, lambda count: self._sent(peer, count))
        writer = asyncio.create_task(link.write())
        try:
            peer = await self._admitted(context, link)
            while peer is not None and (data := await link.heard()) is not None:
                await self._take(peer, link, data)
        except Garbled as error:
            if peer is not None and peer.link is link:
                self._offended(peer, error.problem)
            link.close(Refusal(why=error.problem, final=False))
        except Closed:
            pass
        finally:
            if peer is not None and peer.link is link:
                peer.link, peer.away_since, peer.busy = None, time.monotonic(), None
                if peer.upload is not None:
                    peer.upload.close()
                    peer.upload = None
                self.changed.set()
            await link.farewell(writer)

    def _sent(self, peer: Peer | None, count: int) -> None:
        if peer is not None:
            peer.down += count

    async def _admitted(self, context: Any, link: Link) -> Peer | None:
        """Return the client that a stream is of, now its link; None if it is turned away."""
        try:
            (pem,) = context.auth_context().get("x509_pem_cert", [b""])
            number, name = self._identities.name_of(pem)
        except QuorateError as error:
            self._rules.told(f"somebody was turned away: {error.problem}")
            link.close(Refusal(why=error.problem, final=True))
            return None
        try:
            hello = await self._first(link, Hello)
        except Garbled as error:
            if number < len(self.peers):
                self._offended(self.peers[number], error.problem, close=False)
            raise
        refusal = self._refusal(number, name, hello) if isinstance(hello, Hello) else "it said no hello"
        if refusal is not None or not isinstance(hello, Hello):
            self._rules.told(f"client {number} `{name}` was turned away: {refusal}")
            link.close(Refusal(why=str(refusal), final=True))
            return None
        peer, rules = self.peers[number], self._rules
        link.say(
            Welcome(
                run=rules.run,
                federation=self._identities.federation,
                name=name,
                number=number,
                size=len(self.peers),
                chunk=rules.settings.chunk,
            )
        )
        ready = await self._first(link, Ready)
        if not isinstance(ready, Ready):
            return None
        if peer.link is not None:
            peer.link.close(Refusal(why="another process has joined with the same identity", final=True))
            if peer.upload is not None:
                peer.upload.close()
                peer.upload = None
        peer.name, peer.facts, peer.link, peer.seen = name, dict(hello.facts), link, time.monotonic()
        self._greet(peer, link, ready)
        self.changed.set()
        return peer

    async def _first(self, link: Link, kind: type[Header]) -> Header | None:
        try:
            data = await asyncio.wait_for(link.heard(), timeout=self._rules.settings.stall)
        except TimeoutError:
            return None
        return None if data is None else unframe(data, (kind,))[0]

    def _refusal(self, number: int, name: str, hello: Hello) -> str | None:
        if hello.protocol != PROTOCOL:
            return (
                f"it speaks version {hello.protocol} of the protocol, the server {PROTOCOL}: install the same quorate"
            )
        if number >= len(self.peers):
            return (
                f"the recipe is for {len(self.peers)} clients, 0 .. {len(self.peers) - 1}; `{name}` is number {number}"
            )
        if self.peers[number].offences >= self._rules.settings.offences:
            return f"`{name}` is shut out of this run after {self.peers[number].offences} offences"
        ours, theirs = self._rules.configuration, hello.configuration
        differ = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
        if differ:
            return f"its recipe differs from the server's in {', '.join(f'`{key}`' for key in differ)}"[:1000]
        return None

    def _greet(self, peer: Peer, link: Link, ready: Ready) -> None:
        """Settle what a client has had in hand before the stream began, and ask it what it was asked."""
        peer.busy, link.held, job = ready.busy, set(ready.held), peer.job
        if ready.busy is not None and ready.busy == peer.last:
            link.say(Verdict(id=ready.busy, state="accepted"))
        elif ready.busy is not None and job is not None and job.id == ready.busy:
            part = self._part(peer.number, job.id)
            start = part.stat().st_size if part.exists() else 0
            link.say(Verdict(id=job.id, state="open", start=start))
        elif ready.busy is not None:
            peer.over.append(ready.busy)
            link.say(Verdict(id=ready.busy, state="dropped", why="nobody waits for it any more"))
        if job is not None and not job.arrived and job.id != ready.busy:
            if job.broadcast is None:
                self._gone(peer, "it has lost the request while the server was away")
            else:
                peer.busy = job.id
                link.send(job.broadcast)

    def _part(self, client: int, id: str) -> Path:
        path = self._path(client, id)
        return path.with_name(f"{path.name}.part")

    async def _take(self, peer: Peer, link: Link, data: bytes) -> None:
        header, content = unframe(data, FROM_CLIENTS[2:])
        peer.seen = time.monotonic()
        peer.up += len(content)
        if isinstance(header, Offer):
            self._offered(peer, link, header)
        elif isinstance(header, Piece):
            if peer.upload is not None and peer.upload.offer.id == header.id:
                peer.upload.take(header.offset, content, peer.seen)
            elif header.id not in peer.over and not (peer.job and peer.job.arrived and peer.job.id == header.id):
                raise Garbled("bytes of a reply that nobody has asked for")
        elif isinstance(header, Failed) and peer.job is not None and peer.job.id == header.id:
            self._gone(peer, f"it could not: {header.why}")
        upload = peer.upload
        if upload is not None and upload.complete:
            await self._complete(peer, upload)

    def _offered(self, peer: Peer, link: Link, offer: Offer) -> None:
        job = peer.job
        if offer.id == peer.last:
            link.say(Verdict(id=offer.id, state="accepted"))
        elif job is None or job.id != offer.id:
            if offer.id not in peer.over:
                raise Garbled("a reply that nobody has asked for")
            link.say(Verdict(id=offer.id, state="dropped", why="nobody waits for it any more"))
        elif not job.arrived:
            problem = misfit(offer.tensors, self._rules.limits(job.what), complete=job.what == "train")
            if problem is None and (offer.round, offer.what) != (job.round, job.what):
                problem = f"it is of round {offer.round + 1}, not {job.round + 1}"
            if problem is None and offer.bytes != places(offer.tensors)[1]:
                problem = f"its tensors have {places(offer.tensors)[1]} bytes, not {offer.bytes}"
            if problem is not None:
                raise Garbled(f"a reply that can't be: {problem}")
            if peer.upload is not None:
                peer.upload.close()
            peer.upload = Upload(offer, self._part(peer.number, offer.id), time.monotonic())

    async def _complete(self, peer: Peer, upload: Upload) -> None:
        """Hand a reply in when it is on the disk."""
        peer.upload = None
        upload.finish()
        job, path = peer.job, self._path(peer.number, upload.offer.id)
        await asyncio.to_thread(completed, upload.part, path)
        if job is None or peer.job is not job or job.arrived:
            path.unlink(missing_ok=True)
            return
        job.arrived = True
        self.arrivals.append(reply_of(peer.number, upload.offer, path))
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
