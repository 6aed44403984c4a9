from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import random
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quorate import run as runs
from quorate import star
from quorate.certificates import ClientIdentity, ServerIdentity
from quorate.metrics_file import read_lines
from quorate.recipe import Recipe, parse
from tests.engines.star_lab import RECIPE, found

PROCESSES = multiprocessing.get_context("forkserver")
ROUNDS = 10
MORE = """
[[codec]]
name = "error_feedback"
[[codec]]
name = "top_k"
ratio = 0.2
"""


def chosen() -> Recipe:
    """Return a recipe that no update may be lost of, or counted twice, nor a client's memory, or its result differs."""
    text = RECIPE.replace("rounds = 3", f"rounds = {ROUNDS}").replace("quorum = 2", "quorum = 3")
    text = text.replace("absence = 0.4", "absence = 40.0").replace("patience = 5.0", "patience = 40.0")
    return parse(text.replace("[optimizer]", f"{MORE}[optimizer]").replace("homecoming = 20.0", ""), "star", Path())


def asynchronous() -> Recipe:
    """Return a recipe whose clients are at work across updates of the model."""
    text = RECIPE.replace('name = "federated"', 'name = "fed_buff"').replace("rounds = 3", f"rounds = {ROUNDS}")
    text = text.replace("cohort = 3\nquorum = 2", "concurrency = 3\nbuffer = 2")
    text = text.replace("absence = 0.4", "absence = 40.0").replace("patience = 5.0", "patience = 40.0")
    return parse(text.replace("homecoming = 20.0", ""), "star", Path())


def serve(recipe: Callable[[], Recipe], where: Path, identities: Path, port: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    asyncio.run(star.serve(where, recipe(), ServerIdentity.load(identities), f"127.0.0.1:{port}"))


def join(recipe: Callable[[], Recipe], bundle: Path, home: Path, number: int, port: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    identity = replace(ClientIdentity.load(bundle), addresses=(f"127.0.0.1:{port}",))
    asyncio.run(star.join(identity, recipe(), home, part=(number, 3), give_up=60))


def lines(where: Path) -> int:
    path = where / "rounds.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def killed(tmp_path: Path, recipe: Callable[[], Recipe]) -> list[dict[str, Any]]:
    """Run a recipe while the server is killed three times, and a client once; return the lines of its rounds."""
    PROCESSES.set_forkserver_preload(
        ["quorate.star", "tests.engines.star_lab", "quorate.tasks.digits", "sklearn.datasets"]
    )
    identities, where, chance = found(tmp_path, 3), tmp_path / "run", random.Random(0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def started(function, *arguments):
        process = PROCESSES.Process(target=function, args=arguments)
        process.start()
        return process

    def client(number: int):
        return started(join, recipe, tmp_path / f"c{number}.json", tmp_path / f"home-{number}", number, port)

    server = started(serve, recipe, where, identities, port)
    clients = [client(number) for number in range(3)]
    try:
        for kill in range(4):
            before = lines(where)
            for _ in range(600):
                if lines(where) > before + (kill > 0) or not server.is_alive():
                    break
                server.join(0.05)
            server.join(chance.uniform(0, 0.15))
            if kill == 3:
                clients[0].kill()
                clients[0].join()
                clients[0] = client(0)
            else:
                server.kill()
                server.join()
                server = started(serve, recipe, where, identities, port)
        server.join(90)
        assert server.exitcode == 0
        for each in clients[1:]:  # the first one may have come back too late to hear of the end
            each.join(30)
            assert each.exitcode == 0
    finally:
        for each in (server, *clients):
            each.kill()
    metrics = [json.loads(line)["step"] for line in (where / "metrics.jsonl").read_text().splitlines()]
    assert metrics == list(range(1, ROUNDS + 1))
    told = read_lines(where / "rounds.jsonl")
    assert [line["round"] for line in told] == metrics
    return told


@pytest.mark.processes
def test_nothing_is_lost_or_counted_twice_when_server_and_clients_are_killed(tmp_path):
    told = killed(tmp_path, chosen)
    result = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    simulated = runs.simulate(chosen(), 3, tmp_path / "simulated")
    assert result["parameters_sha256"] == simulated["parameters_sha256"]
    assert [(line["asked"], line["accepted"]) for line in told] == [([0, 1, 2], [0, 1, 2])] * ROUNDS


@pytest.mark.processes
def test_a_server_without_rounds_fills_every_buffer_once_when_it_is_killed(tmp_path):
    told = killed(tmp_path, asynchronous)
    assert [len(line["accepted"]) for line in told] == [2] * ROUNDS
    assert not [line for line in told if line["refused"]]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["result"]["accuracy"] > 0.5
