"""The client of a federation across machines: it dials out, is asked, computes, replies, and comes back after a break.

What it computes goes on while the connection is away, and what it has come to stays on its disk until the server has
settled it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import torch
from torch import Tensor

from quorate.engines.federation_blobs import misfit, places
from quorate.engines.federation_files import viewed
from quorate.engines.federation_frames import (
    FROM_SERVERS,
    METHOD,
    PROTOCOL,
    SERVICE,
    Ask,
    Chunk,
    End,
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
    frame,
    unframe,
)
from quorate.engines.federation_home import Damaged, Home, Incoming
from quorate.engines.federation_link import options
from quorate.engines.federation_part import Bearer, Part, answered
from quorate.errors import QuorateError, RunError
from quorate.settings import FederationSettings


class Away(Exception):
    """The server can't be reached, or the connection has ended; the client tries again."""


class FederationClient:
    """One client.

    Args:
        identity: who it is.
        part: what it does.
        folder: where it keeps what outlasts a crash, a folder for each run.
        told: is told what happens, in words.
    """

    def __init__(
        self, identity: Bearer, part: Part, folder: Path, settings: FederationSettings, told: Callable[[str], None]
    ) -> None:
        self._identity, self._part, self._folder, self._settings, self._told = identity, part, folder, settings, told
        self._home: Home | None = None
        self._run, self._busy, self._chunk = "", "", 0
        self._offer: Offer | None = None
        self._incoming: Incoming | None = None
        self._working: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._call: Any = None
        self._writing = asyncio.Lock()
        self._contact = time.monotonic()
        self._pool = ThreadPoolExecutor(1, "client", torch.set_num_threads, (1,))

    async def run(self, give_up: float | None = None) -> dict[str, float | None]:
        """Serve until the run is over, and return its measures.

        Args:
            give_up: seconds without any contact after which to stop; None: never.

        Raises:
            RunError: if the server refuses this client for good, or is away for too long.
        """
        attempt, settings = 0, self._settings
        self._contact = time.monotonic()
        try:
            while True:
                began, why = self._contact, ""
                for address in self._identity.addresses:
                    try:
                        return await self._connected(address)
                    except (Away, Damaged, Garbled, grpc.RpcError, grpc.aio.BaseError, TimeoutError) as error:
                        why = f"{address}: {_reason(error)}"
                    finally:
                        self._disconnected()
                attempt = 0 if self._contact > began else attempt + 1
                away = time.monotonic() - self._contact
                if attempt <= 1:
                    self._told(f"no connection to {why}; trying again")
                if give_up is not None and away >= give_up:
                    raise RunError(f"the server has been away for {away:.0f} seconds ({why})", "a larger --give-up")
                delay = min(settings.reconnect_most, settings.reconnect * 2 ** min(attempt, 30))
                await asyncio.sleep(delay * random.uniform(0.5, 1))
        finally:
            if self._working is not None:
                self._working.cancel()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _disconnected(self) -> None:
        self._call, self._incoming = None, None
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    async def _connected(self, address: str) -> dict[str, float | None]:
        identity, settings = self._identity, self._settings
        credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.cert)
        async with grpc.aio.secure_channel(address, credentials, options(settings)) as channel:
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
            hello = Hello(protocol=PROTOCOL, configuration=dict(self._part.configuration), facts=dict(self._part.facts))
            await call.write(frame(hello))
            first, _ = await self._heard(call, settings.stall)
            if not isinstance(first, Welcome):
                raise Garbled("no welcome")
            if first.number != identity.number:
                raise RunError(f"the server takes this client for number {first.number}, not {identity.number}")
            self._call = call
            self._welcomed(first)
            assert self._home is not None
            await self._say(Ready(held=tuple(self._home.held())[:14_000], busy=self._busy or None))
            while True:
                header, content = await self._heard(call)
                if isinstance(header, End):
                    call.cancel()
                    return header.measures
                await self._take(header, content)

    async def _heard(self, call: Any, seconds: float | None = None) -> tuple[Header, memoryview]:
        try:
            data = await asyncio.wait_for(call.read(), seconds)
        except asyncio.CancelledError:  # gRPC raises it, too, if it is the server that has cancelled the stream
            this = asyncio.current_task()
            if this is None or this.cancelling():
                raise
            raise Away("it has broken off the connection") from None
        if data is grpc.aio.EOF:
            code, details = await call.code(), await call.details()
            raise Away("it has ended the connection" if code == grpc.StatusCode.OK else f"{code.name}: {details}")
        header, content = unframe(data, FROM_SERVERS)
        if isinstance(header, Refusal):
            if header.final:
                raise RunError(f"the server refuses this client: {header.why}")
            raise Away(header.why)
        self._contact = time.monotonic()
        return header, content

    def _welcomed(self, welcome: Welcome) -> None:
        self._chunk = welcome.chunk
        if welcome.run != self._run:
            self._run, self._home = welcome.run, Home(self._folder / welcome.run)
            self._offer = self._home.offer()
            self._busy = self._offer.id if self._offer is not None else ""
        self._told(f"connected to federation `{welcome.federation}` as `{welcome.name}`, client {welcome.number}")

    async def _take(self, header: Header, content: memoryview) -> None:
        assert self._home is not None
        if isinstance(header, Ask):
            await self._asked(header)
        elif isinstance(header, Chunk) and self._incoming is not None:
            self._incoming.take(header.sha256, content)
            self._begin()
        elif isinstance(header, Verdict) and header.id == self._busy:
            if header.state == "open":
                self._send(header.start)
                return
            if self._offer is not None:
                self._home.accepted() if header.state == "accepted" else self._home.drop()
            if header.state == "dropped":
                self._told(f"a reply was not taken: {header.why}")
            self._settle()
        elif isinstance(header, Verdict) and self._incoming is not None and self._incoming.ask.id == header.id:
            self._incoming = None

    def _settle(self) -> None:
        self._busy, self._offer = "", None
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        self._begin()

    async def _asked(self, ask: Ask) -> None:
        assert self._home is not None
        if ask.id == self._busy:
            return
        try:
            problem = misfit(ask.tensors, self._part.limits(ask.what))
        except QuorateError as error:
            await self._say(Failed(id=ask.id, why=error.problem[:2000]))
            return
        if problem is None and places(ask.tensors)[1] != ask.bytes:
            problem = f"it has {ask.bytes} bytes"
        if problem is None and len(ask.chunks) != -(-ask.bytes // ask.chunk):
            problem = f"it has {len(ask.chunks)} chunks"
        if problem is not None:
            raise Garbled(f"a request that can't be: {problem}")
        if self._offer is not None:
            self._home.drop()
        self._settle()
        self._incoming = Incoming(ask, self._home)
        self._begin()

    def _begin(self) -> None:
        """Begin to work on a request that is all here, unless an earlier one is still being worked on."""
        if self._incoming is None or self._incoming.missing or self._working is not None:
            return
        incoming, self._incoming = self._incoming, None
        self._busy = incoming.ask.id
        self._working = asyncio.create_task(self._work(incoming.ask, incoming.content))

    async def _work(self, ask: Ask, content: Tensor) -> None:
        assert self._home is not None
        try:
            work = self._part, self._home, ask, content, self._chunk
            offer = await asyncio.get_running_loop().run_in_executor(self._pool, answered, *work)
            if self._busy == ask.id:
                self._offer = offer
                self._send(0)
            else:
                self._home.drop()
        except Exception as error:  # whatever the task raises: the server must know, and the next round may go well
            why = error.problem if isinstance(error, QuorateError) else f"{type(error).__name__}: {error}"
            self._told(f"round {ask.round + 1} failed: {why}")
            if self._busy == ask.id:
                self._busy = ""
                with suppress(Away):
                    await self._say(Failed(id=ask.id, why=why[:2000]))
        finally:
            self._working = None
            self._begin()

    def _send(self, start: int) -> None:
        if self._offer is not None and self._call is not None:
            if self._sending is not None:
                self._sending.cancel()
            self._sending = asyncio.create_task(self._upload(self._offer, start))

    async def _upload(self, offer: Offer, start: int) -> None:
        """Send a reply from a byte on."""
        assert self._home is not None
        start = min(start, offer.bytes)
        with suppress(Away, OSError):
            await self._say(offer.model_copy(update={"start": start}))
            content = viewed(self._home.reply)
            for offset in range(start, offer.bytes, self._chunk):
                await self._say(Piece(id=offer.id, offset=offset), content[offset : offset + self._chunk])

    async def _say(self, header: Header, content: bytes | memoryview = b"") -> None:
        async with self._writing:
            if self._call is None:
                raise Away("it is away")
            try:
                await self._call.write(frame(header, content))
            except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
                raise Away(_reason(error)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, QuorateError):
        return error.problem
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"[:300]
    return str(error) or type(error).__name__
