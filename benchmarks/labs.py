"""Starting the ranks of a benchmark: on loopback, or in network namespaces that a tool shapes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Link:
    """What a shaped network is asked for.

    Args:
        rate: each rank's, each direction on its own, in the tool's words.
        delay: one way between two ranks, in the tool's words.
        bytes_per_second: the rate.
        seconds: the delay.
    """

    rate: str
    delay: str
    bytes_per_second: float
    seconds: float


NETWORKS: dict[str, Link | None] = {
    "loopback": None,
    "1gbit/0.1ms": Link("1gbit", "100us", 125e6, 1e-4),
    "100mbit/1ms": Link("100mbit", "1ms", 12.5e6, 1e-3),
    "10mbit/10ms": Link("10mbit", "10ms", 1.25e6, 1e-2),
}


def run(
    script: str,
    words: Sequence[object],
    *,
    size: int,
    link: Link | None = None,
    netlab: str | None = None,
    lab: str = "qbench",
    timeout: float = 600.0,
) -> list[Any]:
    """Run `script --worker WORDS` as every rank, one thread each; return the JSON lines that were printed.

    Raises:
        RuntimeError: if a rank fails, or not all are through in time (seconds); with what was printed last.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the ranks end, and the network goes, with this process
    command = [sys.executable, script, "--worker", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as printed:
        if link is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            address = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            ranks = [{"RANK": str(rank)} | address for rank in range(size)]
            _finish([(command, environment | each) for each in ranks], printed, timeout)
        else:
            if netlab is None:
                raise RuntimeError("a shaped network needs --netlab")
            own = ["--lab", lab]
            shape = ["--rate", link.rate, "--delay", link.delay]
            subprocess.run([netlab, "up", str(size), *shape, *own], check=True)
            try:
                _finish([([netlab, "each", "--raw", *own, "--", *command], environment)], printed, timeout)
            finally:
                subprocess.run([netlab, "down", "--kill", *own], check=False)
        printed.seek(0)
        return [json.loads(line) for line in printed if line.startswith("{")]


def _finish(commands: Sequence[tuple[list[str], dict[str, str]]], printed: IO[str], timeout: float) -> None:
    processes = [
        subprocess.Popen(command, env=environment, stdout=printed, start_new_session=True)
        for command, environment in commands
    ]
    try:
        failed = [process.args for process in processes if process.wait(timeout)]
    except subprocess.TimeoutExpired:
        failed = [f"not through after {timeout:g} s"]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if failed:
        printed.seek(0)
        last = "".join(printed.readlines()[-15:])
        raise RuntimeError(f"{failed[0]}\n{last}")


def sent_on_the_wire() -> int | None:
    """Return the bytes that this rank's network namespace has sent, headers included; None on a shared loopback."""
    name = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    if name == "lo":
        return None
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith(f"{name}:"))
    return int(line.partition(":")[2].split()[8])
