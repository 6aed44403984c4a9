"""Where clients of a federation come in: who they are, what they run, and whether what they send can be so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc

from quorate.engines.federation_blobs import misfit, places
from quorate.engines.federation_desk import Desk, Peer, Rules
from quorate.engines.federation_frames import (
    FROM_CLIENTS,
    METHOD,
    PROTOCOL,
    SERVICE,
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
    unframe,
)
from quorate.engines.federation_link import Closed, Link, options
from quorate.engines.federation_replies import reply_of
from quorate.engines.federation_upload import Upload
from quorate.errors import QuorateError, RunError


class Shown(Protocol):
    """What a server shows to clients, as PEM, and whom it lets in."""

    @property
    def key(self) -> bytes:
        """Its private key."""

    @property
    def cert(self) -> bytes:
        """Its certificate."""

    @property
    def ca(self) -> bytes:
        """Whose certificates it believes."""

    @property
    def federation(self) -> str:
        """The federation's name."""

    def name_of(self, pem: bytes) -> tuple[int, str]:
        """Return the number and the name of who has shown a certificate; raise QuorateError if it is nobody's."""


class Reception:
    """Serves the streams of all clients."""

    def __init__(self, desk: Desk, shown: Shown, rules: Rules) -> None:
        self._desk, self._shown, self._rules = desk, shown, rules

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
                self._desk.offended(peer, error.problem)
            link.close(Refusal(why=error.problem, final=False))
        except Closed:
            pass
        finally:
            if peer is not None and peer.link is link:
                peer.link, peer.away_since, peer.busy = None, time.monotonic(), None
                if peer.upload is not None:
                    peer.upload.close()
                    peer.upload = None
                self._desk.changed.set()
            await link.farewell(writer)

    def _sent(self, peer: Peer | None, count: int) -> None:
        if peer is not None:
            peer.down += count

    async def _admitted(self, context: Any, link: Link) -> Peer | None:
        """Return the client that a stream is of, now its link; None if it is turned away."""
        try:
            (pem,) = context.auth_context().get("x509_pem_cert", [b""])
            number, name = self._shown.name_of(pem)
        except QuorateError as error:
            self._rules.told(f"somebody was turned away: {error.problem}")
            link.close(Refusal(why=error.problem, final=True))
            return None
        try:
            hello = await self._first(link, Hello)
        except Garbled as error:
            if number < len(self._desk.peers):
                self._desk.offended(self._desk.peers[number], error.problem, close=False)
            raise
        refusal = self._refusal(number, name, hello) if isinstance(hello, Hello) else "it said no hello"
        if refusal is not None or not isinstance(hello, Hello):
            self._rules.told(f"client {number} `{name}` was turned away: {refusal}")
            link.close(Refusal(why=str(refusal), final=True))
            return None
        peer, rules = self._desk.peers[number], self._rules
        link.say(
            Welcome(
                run=rules.run,
                federation=self._shown.federation,
                name=name,
                number=number,
                size=len(self._desk.peers),
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
        self._desk.changed.set()
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
        size = len(self._desk.peers)
        if number >= size:
            return f"the recipe is for {size} clients, 0 .. {size - 1}; `{name}` is number {number}"
        if self._desk.peers[number].offences >= self._rules.settings.offences:
            return f"`{name}` is shut out of this run after {self._desk.peers[number].offences} offences"
        ours, theirs = self._rules.configuration, hello.configuration
        differ = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
        if differ:
            return f"its recipe differs from the server's in {', '.join(f'`{key}`' for key in differ)}"[:1000]
        return None

    def _greet(self, peer: Peer, link: Link, ready: Ready) -> None:
        """Settle what a client has had in hand before the stream began, and ask it what it was asked."""
        peer.busy, link.held, job = None, set(ready.held), peer.job
        if ready.busy is not None and ready.busy == peer.last:
            link.say(Verdict(id=ready.busy, state="accepted"))
        elif ready.busy is not None and job is not None and job.id == ready.busy:
            peer.busy = ready.busy
            part = self._desk.part(peer.number, job.id)
            start = part.stat().st_size if part.exists() else 0
            link.say(Verdict(id=job.id, state="open", start=start))
        elif ready.busy is not None:
            peer.over.append(ready.busy)
            link.say(Verdict(id=ready.busy, state="dropped", why="nobody waits for it any more"))
        if job is not None and not job.arrived and job.id != ready.busy:
            if job.broadcast is None:
                self._desk.gone(peer, "it has lost the request while the server was away")
            else:
                peer.busy = job.id
                link.send(job.broadcast)

    async def _take(self, peer: Peer, link: Link, data: bytes) -> None:
        header, content = unframe(data, FROM_CLIENTS[2:])
        peer.seen = time.monotonic()
        peer.up += len(content)
        if isinstance(header, Offer):
            self._offered(peer, link, header)
        elif isinstance(header, Piece):
            if peer.upload is not None and peer.upload.offer.id == header.id:
                await peer.upload.take(header.offset, content, peer.seen)
            elif header.id not in peer.over and not (peer.job and peer.job.arrived and peer.job.id == header.id):
                raise Garbled("bytes of a reply that nobody has asked for")
        elif isinstance(header, Failed) and peer.job is not None and peer.job.id == header.id:
            self._desk.gone(peer, f"it could not: {header.why}")
        upload = peer.upload
        if peer.link is link and upload is not None and upload.complete:
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
            peer.upload = Upload(offer, self._desk.part(peer.number, offer.id), time.monotonic())

    async def _complete(self, peer: Peer, upload: Upload) -> None:
        """Hand a reply in when it is on the disk."""
        peer.upload = None
        path = self._desk.path(peer.number, upload.offer.id)
        await upload.finish(path)
        self._desk.hand_in(peer, reply_of(peer.number, upload.offer, path))


@asynccontextmanager
async def listening(desk: Desk, shown: Shown, rules: Rules, address: str) -> AsyncIterator[int]:
    """Let clients in at HOST:PORT, and yield the port; 0 takes a free one.

    Raises:
        RunError: if nobody can listen there.
    """
    listener = grpc.aio.server(options=options(rules.settings), maximum_concurrent_rpcs=2 * len(desk.peers) + 16)
    talk = grpc.stream_stream_rpc_method_handler(Reception(desk, shown, rules).talk)
    listener.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: talk}),))
    credentials = grpc.ssl_server_credentials([(shown.key, shown.cert)], shown.ca, require_client_auth=True)
    try:
        port = listener.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise RunError(f"can't listen at {address}", "another --address, e.g. 0.0.0.0:9443") from error
    await listener.start()
    try:
        yield port
    finally:
        await listener.stop(grace=0.2)
