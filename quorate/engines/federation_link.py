"""One client's stream as its server sees it: what is to be said goes out in order, chunks of a broadcast after it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_frames import HEADER_BYTES, Ask, Chunk, Header, Refusal, frame
from quorate.settings import FederationSettings

T = TypeVar("T")


def options(settings: FederationSettings) -> list[tuple[str, int]]:
    """Return gRPC's options of a stream between client and server, for either side."""
    every = int(1000 * settings.keepalive)
    return [
        ("grpc.max_receive_message_length", settings.chunk + HEADER_BYTES + (1 << 16)),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", every),
        ("grpc.keepalive_timeout_ms", every),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", every // 2),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", every // 2),
        ("grpc.max_concurrent_streams", 4),
        ("grpc.so_reuseport", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


@dataclass(frozen=True)
class Broadcast:
    """A request as it travels.

    Args:
        header: names the chunks.
        blob: holds their bytes.
        places: the number of each chunk, by its SHA-256.
    """

    header: Ask
    blob: Blob
    places: dict[str, int]


class Link:
    """What is on its way to a client.

    Args:
        context: gRPC's, of the stream.
        sent: is told how many bytes of a broadcast have gone out.
    """

    def __init__(self, context: Any, sent: Callable[[int], None]) -> None:
        self._context, self._sent = context, sent
        self._frames: deque[bytes] = deque()
        self._chunks: deque[str] = deque()
        self._broadcast: Broadcast | None = None
        self._wake = asyncio.Event()
        self._closed: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
        self.held: set[str] = set()

    def say(self, header: Header) -> None:
        """Send a message that has no bytes after its header."""
        self._frames.append(frame(header))
        self._wake.set()

    def send(self, broadcast: Broadcast) -> None:
        """Send a request, and those of its chunks that the client lacks; an earlier one's are left out."""
        self.held &= broadcast.places.keys()
        self._broadcast = broadcast
        self._chunks = deque(each for each in broadcast.places if each not in self.held)
        self.say(broadcast.header)

    def forget(self, id: str) -> None:
        """Send no more chunks of a request."""
        if self._broadcast is not None and self._broadcast.header.id == id:
            self._broadcast = None
            self._chunks.clear()

    def close(self, refusal: Refusal) -> None:
        """End the stream with this as its last message."""
        if not self._closed.done():
            self._closed.set_result(refusal)

    async def heard(self) -> bytes | None:
        """Return the next message; None if the client has ended the stream.

        Raises:
            Closed: if this side has closed it.
        """
        data = await self._or_closed(self._context.read())
        return None if data is grpc.aio.EOF else data

    async def _or_closed(self, awaitable: Awaitable[T]) -> T:
        reading: asyncio.Future[Any] = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait([reading, self._closed], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            reading.cancel()
            raise
        if self._closed.done():
            reading.cancel()
            raise Closed
        result: T = reading.result()
        return result

    async def write(self) -> None:
        """Send what is to be sent until the stream is closed."""
        with suppress(asyncio.CancelledError, grpc.RpcError, asyncio.InvalidStateError, grpc.aio.BaseError):
            while not self._closed.done():
                if self._frames:
                    await self._context.write(self._frames.popleft())
                elif self._chunks and self._broadcast is not None:
                    sha256 = self._chunks.popleft()
                    await self._context.write(self._chunk(self._broadcast, sha256))
                    self.held.add(sha256)
                else:
                    self._wake.clear()
                    await self._wake.wait()

    def _chunk(self, broadcast: Broadcast, sha256: str) -> bytes:
        content = broadcast.blob.chunk_at(broadcast.places[sha256])
        self._sent(sum(len(piece) for piece in content))
        return frame(Chunk(sha256=sha256), *content)

    async def farewell(self, writer: asyncio.Task[None]) -> None:
        """Say why the stream is closed, if this side closes it, after what was to be said before."""
        writer.cancel()
        await asyncio.wait({writer}, timeout=1)
        with suppress(Exception):
            await asyncio.wait_for(self._rest(), timeout=1)

    async def _rest(self) -> None:
        while self._frames:
            await self._context.write(self._frames.popleft())
        if self._closed.done():
            await self._context.write(frame(self._closed.result()))


class Closed(Exception):
    """This side has closed the stream."""


def places_of(chunks: Iterable[str]) -> dict[str, int]:
    """Return the number of each chunk; of equal ones, the first's."""
    found: dict[str, int] = {}
    for number, sha256 in enumerate(chunks):
        found.setdefault(sha256, number)
    return found
