"""A server whose program a test plays by itself, and clients that say what the test tells them to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import torch

from quorate import star
from quorate.certificates import ServerIdentity
from quorate.engines import Forgetful
from quorate.engines.federation import FederationServer
from quorate.engines.federation_desk import Rules
from quorate.engines.federation_frames import PROTOCOL, Ask, Hello, Ready
from quorate.engines.federation_reception import listening
from quorate.engines.federation_store import Store
from quorate.federated import Request, Server
from quorate.federated.record import Rounds
from quorate.trace import Trace
from tests.engines.star_lab import Lab, Raw, offer, piece, recipe

LIKE = torch.arange(4.0)
NAP = 0.2  # seconds, of virtual impatience: waits that are to end in time


class Resumes(Forgetful):
    """Restores what the store has committed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def restore(self, rank: int, state: Any, memory: Any) -> Any:
        """See `Recorder`."""
        kept = self._store.committed()
        return (0, state, memory) if kept is None else (kept.round, kept.state, memory)


def request(round: int, steps: float | None = None, tensors: Mapping[str, Any] | None = None) -> Request:
    """Return a request of a round; `tensors` are those of another one, to be shared."""
    numbers = {} if steps is None else {"steps": steps}
    return Request(round, {"parameters": (LIKE + round,)} if tensors is None else tensors, numbers)


@asynccontextmanager
async def stage(
    folder: Path, identities: Path, act: Callable[[Server], Awaitable[Any]], **changes: str
) -> AsyncIterator[Lab]:
    """Let a program act on a server; `server` of what is yielded is its task."""
    chosen, said = recipe(**changes), list[str]()
    (folder / "run").mkdir(exist_ok=True)
    with closing(Store(folder / "run" / "federation")) as store:
        limits = {"update": (LIKE,)}
        rules = Rules(store.run, star.configuration(chosen), lambda kind: limits, chosen.federation, said.append)
        server = FederationServer(
            store,
            rules,
            3,
            recorder=Resumes(store),
            trace=Trace(4),
            record=Rounds(folder / "run"),
            facts=dict,
        )
        async with listening(server.desk, ServerIdentity.load(identities), rules, "127.0.0.1:0") as port:

            async def program(each: Server) -> Any:
                return await act(each)

            task = asyncio.create_task(server.run(program))
            try:
                yield Lab(folder / "run", identities, port, task, chosen, said, [server])
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task


async def enter(raw: Raw, busy: str | None = None) -> None:
    """Come back as a client that works on a request, or has lost it."""
    await raw.say(Hello(protocol=PROTOCOL, configuration=star.configuration(raw.lab.recipe), facts={}))
    await raw.say(Ready(held=(), busy=busy))


async def reply(raw: Raw, ask: Ask) -> None:
    """Answer a request."""
    made, blob = offer(ask, LIKE)
    await raw.say(made)
    await raw.say(*piece(made, blob))


async def here(server: Server, *clients: int) -> None:
    """Wait until clients are present."""
    while not set(clients) <= set(server.present()):
        await server.arrivals(server.now() + NAP)
