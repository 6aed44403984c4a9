"""Processes of `federation.py`: servers and clients, killed and started again, and the bare TLS client beside them."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PORT, LAB, CLIENTS = 19_092, "federation", 5


def bare(folder: Path, count: int, rounds: int, port: int) -> None:
    """Receive so many bytes over TLS, and send them back."""
    context = ssl.create_default_context(cafile=str(folder / "ca"))
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1") as stream:
        content = bytearray(count)
        view = memoryview(content)
        for _ in range(rounds):
            at = 0
            while at < count:
                at += stream.recv_into(view[at : at + (1 << 20)])
            stream.sendall(content)


def member(kind: str, identity: Path, recipe: Path, where: Path, data: Path, more: str) -> None:
    """Be a server or a client until the run is over."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with the benchmark
    from quorate import star
    from quorate.certificates import ClientIdentity, ServerIdentity
    from quorate.recipe import load

    chosen = load(recipe)
    if kind == "serve":
        asyncio.run(star.serve(where, chosen, ServerIdentity.load(identity), f"{more}:{PORT}", data=data))
    else:
        part = (int(more), CLIENTS)
        asyncio.run(star.join(ClientIdentity.load(identity), chosen, where, data=data, part=part, give_up=120))


def _started(place: int, netlab: str | None, log: Path, *words: object) -> subprocess.Popen[bytes]:
    inside = [netlab, "run", str(place), "--lab", LAB, "--"] if netlab else []
    command = [*inside, sys.executable, __file__, *map(str, words)]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _rounds(where: Path) -> int:
    path = where / "rounds.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def start(
    folder: Path, recipe: Path, where: Path, data: Path, netlab: str | None, chance: random.Random, disturbed: int
) -> dict[str, Any]:
    """Run a federation to its end; in `disturbed` rounds, if any, kill the server thrice and a client; one is late.

    Returns:
        The run's result.
    """
    from quorate import founding

    host = "127.0.0.1"
    if netlab:
        subprocess.run([netlab, "up", str(CLIENTS + 1), "--lab", LAB, "--rate", "100mbit"], check=True)
        for place in range(1, CLIENTS + 1):
            rate = f"{20 * place}mbit"
            words = [
                netlab,
                "set",
                str(place),
                "--lab",
                LAB,
                "--rate",
                rate,
                "--delay",
                f"{2 * place}ms",
                "--closed",
                "1",
            ]
            subprocess.run(words, check=True)
        host = "10.77.0.1"
    known = folder / f"identities-{where.name}"
    founding.init(known, hosts=[f"{host}:{PORT}"], port=PORT)
    for number in range(CLIENTS):
        founding.invite(known, f"c{number}", folder / f"{where.name}-{number}.json")
    log = folder / f"{where.name}.log"

    def serve() -> subprocess.Popen[bytes]:
        return _started(0, netlab, log, "serve", known, recipe, where, data, host)

    def join(number: int) -> subprocess.Popen[bytes]:
        bundle, home = folder / f"{where.name}-{number}.json", folder / f"{where.name}-home-{number}"
        return _started(number + 1, netlab, log, "join", bundle, recipe, home, data, number)

    late = 1 if disturbed else 0
    server, clients = serve(), [join(number) for number in range(CLIENTS - late)]
    events = [int(disturbed * part) for part in (0.15, 0.3, 0.4, 0.55, 0.7, 0.85)] if disturbed else []
    until = time.monotonic() + 500
    while server.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
        if events and _rounds(where) >= events[0]:
            events.pop(0)
            time.sleep(chance.uniform(0, 0.2))
            if len(events) in (5, 3, 1):
                server.kill()
                server.wait()
                server = serve()
            elif len(events) == 4:
                clients[0].kill()
            elif len(events) == 2:
                clients.append(join(CLIENTS - 1))
            else:
                clients[0] = join(0)
    for each in clients:
        try:
            each.wait(5)
        except subprocess.TimeoutExpired:
            each.kill()
    if server.poll() != 0:
        server.kill()
        raise SystemExit(f"the server has failed:\n{log.read_text()[-3000:]}")
    return dict(json.loads((where / "run.json").read_text())["result"])


def stop(netlab: str | None) -> None:
    """Take the namespaces down."""
    if netlab:
        subprocess.run([netlab, "down", "--lab", LAB], check=True)


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    if kind == "bare":
        bare(Path(words[0]), *map(int, words[1:]))
    else:
        member(kind, *map(Path, words[:4]), words[4])
