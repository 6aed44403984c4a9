"""A real federation within one process, for tests: TLS sockets on loopback, clients as tasks, and hostile ones."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import torch

from quorate import founding, star
from quorate.certificates import ClientIdentity, ServerIdentity
from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_frames import (
    FROM_SERVERS,
    METHOD,
    PROTOCOL,
    SERVICE,
    Ask,
    Header,
    Hello,
    Offer,
    Piece,
    Ready,
    frame,
    unframe,
)
from quorate.engines.federation_link import options
from quorate.recipe import Recipe, parse
from quorate.settings import FederationSettings

RECIPE = """
workers = 3
[task]
name = "digits"
[partition]
name = "dirichlet"
alpha = 0.5
[program]
name = "federated"
rounds = 3
cohort = 3
quorum = 2
batch = 20
patience = 30.0
gathering = 20.0
[optimizer]
name = "sgd"
lr = 0.1
[simulator]
batching = "exact"
[record]
metrics = 1
evaluate = 0
[comparison]
alone = false
patience = 3.0
pooled = false
[federation]
absence = 0.4
homecoming = 20.0
stall = 10.0
keepalive = 1.0
reconnect = 0.02
reconnect_most = 0.2
"""


def recipe(**changes: str) -> Recipe:
    """Return the recipe, with lines replaced: `rounds="rounds = 9"`."""
    lines = [changes.get(line.split(" =")[0], line) for line in RECIPE.splitlines()]
    return parse("\n".join(lines), "star", Path())


@dataclass
class Lab:
    """A server that has been started, and what it takes to join it."""

    where: Path
    identities: Path
    port: int
    server: asyncio.Task[dict[str, Any]]
    recipe: Recipe
    said: list[str]
    controls: list[Any] = field(default_factory=list)

    def bearer(self, number: int) -> ClientIdentity:
        """Return a client's identity, with the server's port."""
        found = ClientIdentity.load(self.identities.parent / f"c{number}.json")
        return replace(found, addresses=(f"127.0.0.1:{self.port}",))

    def join(self, number: int, home: Path | None = None) -> asyncio.Task[Any]:
        """Start an honest client."""
        home = home or self.where.parent / f"home-{number}"
        part = (number % self.recipe.workers, self.recipe.workers)
        return asyncio.create_task(
            star.join(self.bearer(number), self.recipe, home, part=part, give_up=15, told=self.said.append)
        )


def found(folder: Path, clients: int) -> Path:
    """Make identities."""
    founding.init(folder / "identities", hosts=["127.0.0.1:9"], port=9)
    for number in range(clients):
        founding.invite(folder / "identities", f"c{number}", folder / f"c{number}.json")
    return folder / "identities"


@asynccontextmanager
async def lab(folder: Path, chosen: Recipe, identities: Path, port: int = 0) -> AsyncIterator[Lab]:
    """Start a server, and stop it if it still runs."""
    listens: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    said: list[str] = []
    controls: list[Any] = []

    @asynccontextmanager
    async def beside(server: Any) -> AsyncIterator[None]:
        controls.append(server)
        yield

    where = folder / "run"
    shown = ServerIdentity.load(identities)
    serving = star.serve(
        where,
        chosen,
        shown,
        f"127.0.0.1:{port}",
        told=said.append,
        listens=listens.set_result,
        beside=beside,
    )
    server = asyncio.create_task(serving)
    await asyncio.wait({server, listens}, return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        server.result()
    try:
        yield Lab(where, identities, await listens, server, chosen, said, controls)
    finally:
        server.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await server


class Raw:
    """A client that says whatever it is told to."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab, self.bearer = lab, lab.bearer(number)

    async def __aenter__(self) -> Raw:
        bearer = self.bearer
        credentials = grpc.ssl_channel_credentials(bearer.ca, bearer.key, bearer.cert)
        self.channel = grpc.aio.secure_channel(bearer.addresses[0], credentials, options(FederationSettings()))
        self.call = self.channel.stream_stream(f"/{SERVICE}/{METHOD}")()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.call.cancel()
        await self.channel.close()

    async def say(self, header: Header, content: bytes = b"") -> None:
        """Send a message."""
        await self.call.write(frame(header, content))

    async def hear(self, kind: type[Header]) -> Any:
        """Return the next message of a kind."""
        while True:
            data = await asyncio.wait_for(self.call.read(), 100)
            assert data is not grpc.aio.EOF, "the server has ended the stream"
            header, _ = unframe(data, FROM_SERVERS)
            if isinstance(header, kind):
                return header

    async def enter(self) -> None:
        """Do what an honest client does to be let in."""
        configuration = star.configuration(self.lab.recipe)
        await self.say(Hello(protocol=PROTOCOL, configuration=configuration, facts={"samples": 9.0}))
        await self.say(Ready(held=(), busy=None))

    async def turned_away(self, data: bytes = b"") -> str:
        """Come in, say something, and return why the server ends the stream, at whichever point it does."""
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # a write may meet a stream that has ended
            await self.enter()
            await self.call.write(data)
        return await self.ended()

    async def asked(self) -> Ask:
        """Return the next request."""
        ask: Ask = await self.hear(Ask)
        return ask

    async def ended(self) -> str:
        """Return why the server ends the stream."""
        from quorate.engines.federation_frames import Refusal

        refusal = await self.hear(Refusal)
        return f"{refusal.why} final" if refusal.final else str(refusal.why)


def offer(ask: Ask, update: torch.Tensor, **changes: Any) -> tuple[Offer, Blob]:
    """Return what an honest client would offer for a request, with changes."""
    blob = Blob({"update": (update,)}, ask.chunk)
    told: dict[str, Any] = {
        "id": ask.id,
        "round": ask.round,
        "what": "train",
        "numbers": {"samples": 9.0, "steps": 1.0, "loss": 1.0},
        "tensors": blob.specs,
        "bytes": blob.bytes,
        "sha256": blob.sha256,
        "start": 0,
    }
    return Offer(**(told | changes)), blob


def piece(made: Offer, blob: Blob, start: int = 0) -> tuple[Piece, bytes]:
    """Return all bytes of a reply as one piece."""
    return Piece(id=made.id, offset=start), blob.read(start, blob.bytes)


def run(main: Callable[[], Any]) -> Any:
    """Run a test's coroutine, for minutes at most."""
    return asyncio.run(asyncio.wait_for(main(), 200))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
