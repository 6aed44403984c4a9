"""A federated recipe on real machines: the server's run folder, clients, and both together on this machine."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quorate import folder, founding, star
from quorate.certificates import ClientIdentity, ServerIdentity
from quorate.engines.control_plane import Control, answering
from quorate.engines.federation import FederationServer, Stopped
from quorate.engines.federation_frames import Refusal
from quorate.engines.federation_status import Status
from quorate.engines.launch import launch
from quorate.errors import QuorateError, RecipeError, RunError
from quorate.files import write_atomically
from quorate.recipe import Recipe
from quorate.recorder import Progress
from quorate.registry import joined, split

_LOCAL = "127.0.0.1"
_START = 120.0  # seconds that a client of this machine waits for its server to listen
_POLL = 0.05
_LOOK = 0.5  # seconds between two looks at who is revoked


@dataclass(frozen=True)
class Ports:
    """Where a server listens.

    Args:
        address: HOST:PORT for clients; None: the federation's port, on all networks.
        control: HOST:PORT for operators; None: the federation's, on this machine only.
    """

    address: str | None = None
    control: str | None = None

    def of(self, identity: ServerIdentity) -> tuple[str, str]:
        """Return both in full.

        Raises:
            RecipeError: if one is no address.
        """
        known = identity.registry
        address = joined(*split(self.address, known.port, least=0)) if self.address else f"[::]:{known.port}"
        control = self.control or joined(_LOCAL, known.control_port)
        return address, joined(*split(control, known.control_port, least=0))


def part_of(text: str | None) -> tuple[int, int] | None:
    """Read I/N, part I of N, counted from 0.

    Raises:
        RecipeError: if it is not that.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, re.ASCII)
    if found is None or int(found[1]) >= int(found[2]):
        raise RecipeError(f"`{text}` is no part I of N, with I from 0 to N - 1", "--part 0/5")
    return int(found[1]), int(found[2])


def where_is_control(run: Path) -> tuple[str, Path]:
    """Return where the server of a run listens for operators, and the folder of its federation.

    Raises:
        RunError: if the folder is of no run, or of one that has no operators.
    """
    facts = folder.read(run)
    if facts["engine"] != star.ENGINE or facts.get("identity") is None:
        raise RunError(f"`{run}` is no run of `quorate federation serve`", f"its lines: {run / 'metrics.jsonl'}")
    return str(facts["control"]), Path(facts["identity"])


def serve(
    recipe: Recipe,
    identity: ServerIdentity,
    where: Path,
    data: Path | None = None,
    ports: Ports | None = None,
    progress: Progress | None = None,
    told: Callable[[str], None] = star.tell,
) -> dict[str, Any]:
    """Be a federation's server to the end of its recipe; go on if the folder holds the run already.

    Args:
        where: the run's folder.
        progress: told of the rounds done, the last evaluation, and the bytes `sent` by clients and `received`.
        told: is told what happens, in words.

    Returns:
        The run's result; see `quorate.run.simulate`.

    Raises:
        Stopped: if an operator has stopped it.
        QuorateError: see `quorate.star.serve`.
    """
    ports = ports or Ports()
    address, control = ports.of(identity)
    running: list[FederationServer] = []

    def stop() -> None:
        running[0].stop("an operator has stopped the server")

    @asynccontextmanager
    async def beside(server: FederationServer) -> AsyncIterator[None]:
        running.append(server)
        looking = asyncio.create_task(_shut_out(server, identity))
        async with answering(
            identity, control, Control(lambda: _named(server.status(), where, identity), stop)
        ) as port:
            reached = joined(_reached(split(control, least=0)[0]), port)
            asked = {"address": ports.address, "control": ports.control}
            facts = {"federated": True, "identity": str(identity.folder.resolve()), "control": reached, "ports": asked}
            folder.update(where, facts)
            told(f"run: {where}; how it stands: quorate federation status {where} --watch")
            try:
                yield
            finally:
                looking.cancel()

    def progressed(round: int, measures: dict[str, float]) -> None:
        if progress is not None:
            how = running[0].status()
            progress(round, measures | {"sent": float(how.bytes_up), "received": float(how.bytes_down)})

    def listens(port: int) -> None:
        told(f"federation `{identity.federation}` listens for clients at {joined(split(address, least=0)[0], port)}")

    serving = star.serve(
        where, recipe, identity, address, data=data, progress=progressed, told=told, beside=beside, listens=listens
    )
    try:
        return asyncio.run(serving)
    except Stopped as error:
        raise Stopped(error.problem, f"quorate resume {where}") from error


async def _shut_out(server: FederationServer, identity: ServerIdentity) -> None:
    """Look for clients that are revoked while they are connected, for ever; others are stopped at the door."""
    while True:
        await asyncio.sleep(_LOOK)
        with suppress(QuorateError):  # of a registry that can't be read: nobody new is let in
            clients = identity.registry.clients
            for peer in server.desk.peers[: len(clients)]:
                if peer.link is not None and clients[peer.number].state == "revoked":
                    why = f"client `{clients[peer.number].name}` ({peer.number}) is revoked"
                    server.desk.gone(peer, why)
                    peer.link.close(Refusal(why=why, final=True))


def _named(status: Status, where: Path, identity: ServerIdentity) -> Status:
    """Say of a status what only the registry knows: names of those who never came, and who is revoked."""
    clients = list(status.clients)
    for number, known in enumerate(identity.registry.clients[: len(clients)]):
        state = "revoked" if known.state == "revoked" else clients[number].state
        clients[number] = replace(clients[number], name=known.name, state=state)
    return replace(status, run=str(where.resolve()), clients=tuple(clients))


def _reached(host: str) -> str:
    """Return where this machine reaches what listens at a host."""
    return _LOCAL if host in ("::", "0.0.0.0") else host


def join(
    bundle: Path,
    recipe: Recipe,
    data: Path | None = None,
    part: tuple[int, int] | None = None,
    home: Path | None = None,
    give_up: float | None = None,
    told: Callable[[str], None] = star.tell,
) -> dict[str, float | None]:
    """Be a client of a federation until its run is over; see `quorate.star.join`.

    Args:
        bundle: the client's.
        home: what it remembers; None: a folder beside the bundle.
        give_up: seconds without contact with the server after which to stop; None: never.
    """
    identity = ClientIdentity.load(bundle)
    place = home or bundle.with_name(f"{bundle.stem}-home")
    return asyncio.run(star.join(identity, recipe, place, data=data, part=part, give_up=give_up, told=told))


def resume(
    where: Path, data: Path | None = None, progress: Progress | None = None, show: bool = False
) -> dict[str, Any]:
    """Go on with a federation's run as it was started: as a server, or with clients on this machine.

    Args:
        data: the folder of data sets, if it is not where it was.
        progress: of a server; see `serve`.
        show: see `run_here`.
    """
    facts = folder.read(where)
    if facts.get("here"):
        return _launched(where, facts["workers"], show)
    if facts.get("identity") is None:
        raise RunError(
            f"`{where}` has not begun to listen", "start it again: quorate federation serve RECIPE --out RUN"
        )
    ports = Ports(**facts["ports"])
    identity = ServerIdentity.load(Path(facts["identity"]))
    return serve(folder.recipe_of(where), identity, where, data, ports, progress)


def run_here(recipe: Recipe, out: Path | None = None, data: Path | None = None, show: bool = False) -> dict[str, Any]:
    """Run a federated recipe with a server and clients that are processes of this machine, and talk over TLS.

    Client i has part i of the data, as in a simulation, whose result it has, too.

    Args:
        show: whether the server draws a table of its rounds.

    Raises:
        QuorateError: see `quorate.star.serve`.
    """
    star.require_federated(recipe)
    facts = {"batching": "exact", "parameters": star.training_of(recipe, data).layout.numel}
    facts |= {"here": True, "federated": True}
    where = folder.create(out, recipe, star.ENGINE, recipe.workers, data, facts)
    return _launched(where, recipe.workers, show)


def _launched(where: Path, size: int, show: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="quorate-") as private:
        identities = Path(private) / "federation"
        founding.init(identities, "local", [_LOCAL])
        for number in range(size):
            founding.invite(identities, f"client-{number}")
        commands = [
            [sys.executable, "-m", "quorate", "federation", "member", str(where), str(number), private]
            for number in range(size + 1)
        ]
        commands[size] += ["--show"] if show else []
        launch(commands, Path(private), may_leave=range(size))
    return dict(folder.read(where)["result"])


@asynccontextmanager
async def _complete(server: FederationServer) -> AsyncIterator[None]:
    """Begin when all clients are there, so that who is asked is chosen from all, as in a simulation."""
    until = time.monotonic() + _START
    while len(server.desk.present()) < server.size and time.monotonic() < until:
        await asyncio.sleep(_POLL)
    yield


def member(where: Path, number: int, private: Path, progress: Progress | None = None) -> None:
    """Work as a client of a run on this machine, or, with the number after the last client's, as its server."""
    recipe, facts = folder.recipe_of(where), folder.read(where)
    data = Path(facts["data"]) if facts["data"] else None
    told = private / "port"
    if number == recipe.workers:
        identity = ServerIdentity.load(private / "federation")

        def listens(port: int) -> None:
            write_atomically(told, str(port).encode())

        asyncio.run(
            star.serve(
                where, recipe, identity, f"{_LOCAL}:0", data=data, progress=progress, beside=_complete, listens=listens
            )
        )
        return
    client = ClientIdentity.load(private / "federation" / "invitations" / f"client-{number}.json")
    until = time.monotonic() + _START
    while not told.exists():
        if time.monotonic() > until:
            raise RunError(f"client {number}: the server has not begun to listen for {_START:g} seconds")
        time.sleep(_POLL)
    client = replace(client, addresses=(joined(_LOCAL, int(told.read_text())),))
    home, part = where / "clients" / str(number), (number, recipe.workers)
    asyncio.run(star.join(client, recipe, home, data=data, part=part, told=lambda text: None))
