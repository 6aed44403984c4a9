"""How long does a round take on Flower, and does it come to the simulator's parameters?

Starts a SuperLink with TLS and node keys and two SuperNodes on loopback, runs the 2NN of McMahan et al. on MNIST with
two clients by `flwr run`, and ends all processes it has started. With `--kill` the ServerApp is killed in the second
round, and another run goes on with its folder. Run it by the interpreter of an environment that holds quorate[flower].
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec

from quorate import folder
from quorate import run as runs
from quorate.flower_folder import write_app
from quorate.metrics_file import read_lines
from quorate.recipe import Recipe, load

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
CLIENTS = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificates(where: Path) -> None:
    """Write an authority, and a certificate for loopback: ca.crt, server.pem, server.key."""
    for words in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=bench",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
    ):
        subprocess.run(["openssl", *words.split()], cwd=where, check=True, capture_output=True)
    (where / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1")
    words = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem"
    subprocess.run(["openssl", *words.split()], cwd=where, check=True, capture_output=True)


def node_key(path: Path) -> None:
    """Write a private key, and its public one beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, forms.NoEncryption()))
    path.chmod(0o600)
    public = key.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public)


def mark(where: Path) -> bytes:
    return f"FLWR_HOME={where}".encode()


def ours(where: Path) -> dict[int, str]:
    """Return the processes that this benchmark has started, and their commands: they have its folder in FLWR_HOME."""
    found = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            with suppress(OSError):
                if mark(where) in (each / "environ").read_bytes().split(b"\0"):
                    found[int(each.name)] = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def kill(where: Path, which: Callable[[str], bool] = lambda command: True) -> int:
    pids = [pid for pid, command in ours(where).items() if which(command)]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def wait_for(what: str, done: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise SystemExit(f"{what}: not after {seconds:g} s")
        time.sleep(0.2)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def federation(where: Path, data: Path | None) -> Iterator[dict[str, str]]:
    """Start a SuperLink and its SuperNodes; yields the environment for `flwr`."""
    quiet = "FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1"
    env = os.environ | dict(each.split("=") for each in quiet.split())
    env |= {"FLWR_HOME": str(where), "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    certificates(where)
    port = free_port()
    (where / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{where}/ca.crt"\n'
    )

    def start(name: str, words: list[str]) -> None:
        log = (where / f"{name}.log").open("w")
        subprocess.Popen([str(BIN / words[0]), *words[1:]], cwd=where, env=env, stdout=log, stderr=subprocess.STDOUT)

    try:
        tls = "--ssl-ca-certfile ca.crt --ssl-certfile server.pem --ssl-keyfile server.key --enable-supernode-auth"
        place = f"--database state.db --host 127.0.0.1 --port {port}"
        start("superlink", ["flower-superlink", *tls.split(), *place.split()])
        wait_for("the SuperLink listens", lambda: listens(port), 60)
        for number in range(CLIENTS):
            node_key(where / f"node{number}")
            words = ["supernode", "register", f"node{number}.pub", "bench"]
            subprocess.run([BIN / "flwr", *words], cwd=where, env=env, check=True, capture_output=True, timeout=120)
            told = f'partition-id={number} num-partitions={CLIENTS} home="{where}/homes"'
            told += f' data="{data}"' if data else ""
            link = f"--root-certificates ca.crt --superlink 127.0.0.1:{port} --port {free_port()}"
            key = f"--auth-supernode-private-key node{number}"
            start(f"node{number}", ["flower-supernode", *link.split(), *key.split(), "--node-config", told])
        yield env
    finally:
        while kill(where):
            time.sleep(0.2)


def flwr_run(where: Path, env: dict[str, str], config: str) -> subprocess.Popen[bytes]:
    words = ["run", str(where / "app"), "bench", "--stream", "--run-config", config]
    log = (where / "run.log").open("a")
    return subprocess.Popen([BIN / "flwr", *words], cwd=where, env=env, stdout=log, stderr=subprocess.STDOUT)


def measured(where: Path, recipe: Recipe, data: Path | None, killed: bool) -> dict[str, object]:
    write_app(where / "app", recipe, where / "run")
    config = f'out="{where}/run"' + (f' data="{data}"' if data else "")
    began = time.monotonic()
    found: dict[str, object] = {}
    with federation(where, data) as env:
        running = flwr_run(where, env, config)
        try:
            if killed:
                lines = where / "run" / "metrics.jsonl"
                wait_for("the first round", lambda: lines.exists() and bool(read_lines(lines)), 300)
                found["killed"] = kill(where, lambda command: "flwr-serverapp" in command)
                running.wait(timeout=100)
                running = flwr_run(where, env, config)
            running.wait(timeout=400)
        finally:
            running.kill()
        if not (where / "run" / "run.json").exists() or folder.read(where / "run")["status"] != "finished":
            raise SystemExit((where / "run.log").read_text()[-6000:] + (where / "node0.log").read_text()[-3000:])
    clocks = [line["clock_seconds"] for line in read_lines(where / "run" / "rounds.jsonl")]
    found["seconds a round"] = [b - a for a, b in pairwise(clocks)]
    found["seconds in all"] = time.monotonic() - began
    found["still running"] = len(ours(where))
    return found | {"result": folder.read(where / "run")["result"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", type=Path, default=HERE / "federation_mnist.toml")
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"))
    parser.add_argument("--kill", action="store_true", help="kill the ServerApp in the second round")
    given = parser.parse_args()
    data = Path(given.data).resolve() if given.data else None
    recipe = load(given.recipe)
    program = {**recipe.tables["program"], "rounds": given.rounds, "cohort": CLIENTS, "quorum": CLIENTS}
    patience = recipe.federation.model_copy(update={"absence": 60.0, "homecoming": 120.0})
    recipe = replace(recipe, workers=CLIENTS, tables={**recipe.tables, "program": program}, federation=patience)
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        simulated = runs.simulate(recipe, CLIENTS, where / "simulated", data)
        found = measured(where, recipe, data, given.kill)
    result = found.pop("result")
    assert isinstance(result, dict)
    rounds = found["seconds a round"]
    assert isinstance(rounds, list)
    if rounds:
        print(
            f"seconds a round: median {statistics.median(rounds):.1f}, least {min(rounds):.1f}, most {max(rounds):.1f}"
        )
    print(json.dumps(found))
    print(f"accuracy {result['accuracy']:.4f} after {result['steps']} rounds; simulated {simulated['accuracy']:.4f}")
    same = result["parameters_sha256"] == simulated["parameters_sha256"]
    print(f"parameters: {'the same to the bit' if same else 'OTHERS'} as the simulator's")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
