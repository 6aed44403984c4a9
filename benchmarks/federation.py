"""How fast is a real federation, how much does its server hold in memory, and does it survive what networks do?

`round`: 1 MB to each of two clients and back, on loopback. `large`: 100 MB each way, beside two bare TLS sockets that
do the same, and the most that the server has held beyond its task with the initial model. `many`: 200 clients on one
server. `mnist`: 50 rounds with 5 clients without disturbance, against the simulator; then again while the server is
killed three times, a client is killed and comes back, and another one comes late; with `--netlab COMMAND` in network
namespaces of their own, with closed inbound and unequal links. `slow` needs those: 1 MB each way at 100 Mbit/s.

Clients of all but `mnist` reply with a multiple of what they were sent, which is new in each round, so that what is
measured is the way, both programs included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from federation_processes import start, stop
from figures import figure
from torch import nn

from quorate import founding
from quorate.certificates import ClientIdentity, ServerIdentity
from quorate.engines import Forgetful
from quorate.engines.federation import FederationServer
from quorate.engines.federation_client import FederationClient
from quorate.engines.federation_desk import Rules
from quorate.engines.federation_part import Part
from quorate.engines.federation_reception import listening
from quorate.engines.federation_store import Store
from quorate.exchange import Exchange
from quorate.federated import Answer
from quorate.federated.record import Rounds
from quorate.optimizer import Optimizer
from quorate.partitions.iid import iid
from quorate.programs.federated import federated
from quorate.rand import Rand
from quorate.settings import FederationSettings
from quorate.tasks import Data, Task
from quorate.trace import Trace
from quorate.training import Training

HERE = Path(__file__).parent
SETTINGS = FederationSettings(reconnect_most=1.0)
NUMBERS = {"samples": 1.0, "steps": 1.0, "loss": 1.0}


def training_of(d: int) -> Training:
    data = Data(torch.zeros(1, 1), torch.zeros(1, 1))
    task = Task(lambda: nn.Linear(1, d, bias=False), nn.functional.mse_loss, data, data)
    return Training(task, iid, 1, Rand(0))


class Stamps(Forgetful):
    """Takes the time of each round."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def commit(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def anonymous() -> int:
    """Return the bytes of this process's memory that are no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0


@contextmanager
def watched(peak: list[int]) -> Any:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    over.set()
    thread.join()


def serve(folder: Path, address: str, size: int, d: int, rounds: int, out: Any) -> None:
    """Be a server of such clients; send (seconds of each round, bytes held before, the most held)."""

    async def main() -> tuple[list[float], int, int]:
        training, stamps = training_of(d), Stamps()
        optimizer = Optimizer("sgd", {"lr": 0.1})
        program = partial(federated, optimizer=optimizer, rounds=rounds, cohort=size, gathering=100.0)
        limits = {"update": (training.initial(),)}
        with closing(Store(folder / "run" / "federation")) as store:
            rules = Rules(store.run, {}, lambda kind: limits, SETTINGS, print)
            trace, record = Trace(size + 1), Rounds(folder / "run")
            server = FederationServer(
                store, rules, size, recorder=stamps, trace=trace, record=record, facts=dict, rounds=rounds
            )
            before = anonymous()
            peak = [before]
            async with listening(server.desk, ServerIdentity.load(folder / "identities"), rules, address):
                with watched(peak):
                    await server.run(lambda each: program(each, training, Exchange()))
                await server.farewell({})
            times = [b - a for a, b in zip(stamps.times, stamps.times[1:], strict=False)]
            return times, before, peak[0]

    torch.set_num_threads(1)
    out.send(asyncio.run(main()))


def join(folder: Path, address: str, numbers: list[int], d: int) -> None:
    """Be some clients, in one process, that reply with a multiple of what they were sent."""

    def answer(number: int) -> Any:
        return lambda memory, request: (
            memory,
            Answer(
                number, request.round, {"update": (request.tensors["parameters"][0] * -0.01 * (number + 1),)}, NUMBERS
            ),
        )

    async def main() -> None:
        limits = {"parameters": (torch.empty(d, device="meta"),)}
        clients = []
        for number in numbers:
            identity = replace(ClientIdentity.load(folder / f"c{number}.json"), addresses=(address,))
            part = Part(answer(number), lambda kind: limits, {}, {"samples": 1.0})
            clients.append(FederationClient(identity, part, folder / f"home-{number}", SETTINGS, lambda text: None))
        await asyncio.gather(*(client.run(100) for client in clients))

    torch.set_num_threads(1)
    asyncio.run(main())


def identities(folder: Path, size: int, host: str = "127.0.0.1") -> None:
    founding.init(folder / "identities", hosts=[f"{host}:9092"])
    for number in range(size):
        founding.invite(folder / "identities", f"c{number}", folder / f"c{number}.json")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def echoed(size: int, processes: int, d: int, rounds: int) -> tuple[list[float], int, int]:
    """Run rounds on loopback; return seconds of each but the first, and the server's memory before and at most."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        identities(folder, size)
        address = f"127.0.0.1:{free_port()}"
        here, there = context.Pipe()
        server = context.Process(target=serve, args=(folder, address, size, d, rounds, there))
        groups = [list(range(start, size, processes)) for start in range(processes)]
        clients = [context.Process(target=join, args=(folder, address, group, d)) for group in groups]
        for each in (server, *clients):
            each.start()
        try:
            if not here.poll(300):
                raise SystemExit("the server has not finished in 300 seconds")
            times, before, peak = here.recv()
            for each in (server, *clients):
                each.join(20)
        finally:
            for each in (server, *clients):
                each.kill()
    return times[1:], before, peak


def bare(d: int, rounds: int) -> list[float]:
    """Do the same with bare TLS sockets, one for each of two clients; return seconds of each round but the first."""
    content = bytes(4 * d)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        identities(folder, 2)
        shown = ServerIdentity.load(folder / "identities")
        for part in ("key", "cert", "ca"):
            (folder / part).write_bytes(getattr(shown, part))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert", folder / "key")
        command = [sys.executable, str(HERE / "federation_processes.py"), "bare", str(folder), str(4 * d), str(rounds)]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            clients = [subprocess.Popen([*command, str(port)]) for _ in range(2)]
            streams = [context.wrap_socket(listener.accept()[0], server_side=True) for _ in clients]

        def exchange(stream: ssl.SSLSocket) -> None:
            stream.sendall(content)
            view = memoryview(bytearray(4 * d))
            at = 0
            while at < len(view):
                at += stream.recv_into(view[at : at + (1 << 20)])

        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            threads = [threading.Thread(target=exchange, args=(stream,)) for stream in streams]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            times.append(time.perf_counter() - began)
        for client, stream in zip(clients, streams, strict=True):
            stream.close()
            client.wait()
    return times[1:]


def measure_round(quick: bool) -> None:
    times, _, _ = echoed(2, 2, 1 << 18, 12 if quick else 60)
    spread = {"p10": statistics.quantiles(times, n=10)[0], "p90": statistics.quantiles(times, n=10)[-1]}
    figure("seconds a round, 1 MB both ways, 2 clients, p50", statistics.median(times), 0.05, at_least=False, **spread)


def measure_slow(quick: bool, netlab: str) -> None:
    """Measure 1 MB each way between two clients and a server whose link has 100 Mbit/s in each direction."""
    d, rounds, size = 1 << 18, 8 if quick else 25, 2
    subprocess.run([netlab, "up", str(size + 1), "--lab", "slow", "--rate", "100mbit", "--delay", "1ms"], check=True)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder, address = Path(name), "10.77.0.1:9092"
            identities(folder, size, "10.77.0.1")

            def inside(place: int, *words: object) -> subprocess.Popen[bytes]:
                command = [netlab, "run", str(place), "--lab", "slow", "--", sys.executable, __file__, "--echo"]
                return subprocess.Popen([*command, *map(str, words)])

            server = inside(0, "serve", folder, address, size, d, rounds)
            clients = [inside(number + 1, "join", folder, address, number, d) for number in range(size)]
            try:
                server.wait(300)
                times = json.loads((folder / "times.json").read_text())[1:]
            finally:
                for each in (server, *clients):
                    each.kill()
    finally:
        subprocess.run([netlab, "down", "--lab", "slow"], check=True)
    least = 2 * size * 4 * d / (100e6 / 8)  # the server's link carries all, down and then up
    seconds = statistics.median(times)
    figure("seconds a round at 100 Mbit/s over bytes / rate", seconds / least, 1.3, at_least=False, seconds=seconds)


def echo(kind: str, folder: str, address: str, number: str, d: str, rounds: str = "0") -> None:
    """Be the server or a client of `slow`."""
    if kind == "join":
        join(Path(folder), address, [int(number)], int(d))
        return

    class Out:
        def send(self, told: tuple[list[float], int, int]) -> None:
            (Path(folder) / "times.json").write_text(json.dumps(told[0]))

    serve(Path(folder), address, int(number), int(d), int(rounds), Out())


def measure_large(quick: bool) -> None:
    d = (25 if quick else 100) * (1 << 18)
    ours: list[float] = []
    others: list[float] = []
    for _ in range(1 if quick else 2):  # alternating, because the machine's load changes
        others += bare(d, 4)
        times, before, peak = echoed(2, 2, d, 4)
        ours += times
        figure("memory of the server, models beyond the start", (peak - before) / (4 * d), 3.0, at_least=False)
    seconds = {"ours": statistics.median(ours), "bare": statistics.median(others), "bytes": 4 * d}
    figure("seconds a round over bare TLS", seconds["ours"] / seconds["bare"], 2.0, at_least=False, **seconds)


def measure_many(quick: bool) -> None:
    size = 50 if quick else 200
    times, before, peak = echoed(size, 1, 2_500, 6)
    median = statistics.median(times)
    figure("seconds a round, 200 clients, 10 kB", median, clients=size, mebibytes=(peak - before) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", default=["round", "large", "many", "mnist"])
    parser.add_argument("--netlab", help="command that lays out network namespaces; needs root")
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"), help="folder of data sets")
    parser.add_argument("--echo", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.echo:
        echo(*given.echo)
        return
    for name, measure in (("round", measure_round), ("large", measure_large), ("many", measure_many)):
        if name in given.only:
            measure(given.quick)
    if "slow" in given.only or (given.netlab and "round" in given.only):
        measure_slow(given.quick, given.netlab)
    if "mnist" in given.only:
        measure_mnist(given.quick, given.data, given.netlab)


def measure_mnist(quick: bool, data: Path | None, netlab: str | None) -> None:
    """Run MNIST with disturbances, and without; compare with the simulator."""
    if data is None:
        raise SystemExit("name the folder of data sets by --data or QUORATE_DATA")
    rounds, chance = (12 if quick else 50), random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "recipe.toml"
        recipe.write_text((HERE / "federation_mnist.toml").read_text().replace("rounds = 50", f"rounds = {rounds}"))
        command = [sys.executable, "-m", "quorate", "run", str(recipe), "--simulate", "5", "--out", str(folder / "sim")]
        done = subprocess.run([*command, "--data", str(data), "--json"], capture_output=True, check=True, text=True)
        simulated = json.loads(done.stdout.splitlines()[-1])
        for disturbed in (False, True):
            where = folder / f"run-{disturbed}"
            began = time.perf_counter()
            result = start(folder, recipe, where, data, netlab, chance, rounds if disturbed else 0)
            told = [json.loads(line) for line in (where / "rounds.jsonl").read_text().splitlines()]
            same = result["parameters_sha256"] == simulated["parameters_sha256"]
            facts = {
                "seconds": time.perf_counter() - began,
                "accepted": sum(len(line["accepted"]) for line in told),
                "gone": sum(len(line["gone"]) for line in told),
                "once": all(len(set(line["accepted"])) == len(line["accepted"]) for line in told),
                "simulated": simulated["accuracy"],
            }
            kind = "disturbed" if disturbed else "undisturbed"
            figure(f"MNIST, {rounds} rounds, {kind}: accuracy", result["accuracy"], **facts)
            if not disturbed:
                figure("equals the simulator to the bit", float(same), 1.0)
    stop(netlab)


if __name__ == "__main__":
    main()
