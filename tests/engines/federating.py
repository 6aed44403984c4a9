"""A server or a client of a federation as a process of its own, for tests and benchmarks of real federations.

python federating.py serve FOLDER RECIPE RUN PORT | join BUNDLE RECIPE HOME I/N
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__)


def main(kind: str, identity: str, recipe: str, where: str, more: str) -> None:
    """Be a server or a client until the run is over."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with the test that has started it
    from quorate import star
    from quorate.certificates import ClientIdentity, ServerIdentity
    from quorate.recipe import load

    chosen = load(Path(recipe))
    data = Path(os.environ["QUORATE_DATA"]) if os.environ.get("QUORATE_DATA") else None
    if kind == "serve":
        shown = ServerIdentity.load(Path(identity))
        asyncio.run(star.serve(Path(where), chosen, shown, f"127.0.0.1:{more}", data=data))
    else:
        number, count = more.split("/")
        bearer = ClientIdentity.load(Path(identity))
        asyncio.run(star.join(bearer, chosen, Path(where), data=data, part=(int(number), int(count)), give_up=60))


def start(*arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """Start one; what it says is added to a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        command = [sys.executable, str(HERE), *map(str, arguments)]
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


if __name__ == "__main__":
    main(*sys.argv[1:])
