"""The coordinator of an elastic run on this machine: it starts the first workers, and outlives the loss of some.

What it sees it writes to the run's folder, `events.jsonl`: one line for every change of the members, with the samples
used until then, and one for how long everybody stood still.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quorate import folder
from quorate.engines.membership import Coordinator
from quorate.errors import QuorateError, RecipeError, RunError
from quorate.metrics_file import read_lines
from quorate.recorder import Progress

_LOOK = 0.05  # seconds between two looks at the workers
_GRACE = 10.0  # seconds for workers to end by themselves


@dataclass(frozen=True)
class Options:
    """Where an elastic run happens.

    Args:
        minimum: workers without which nobody goes on; None for more than half.
        respawn: start another worker for each that dies.
        host: the address that the coordinator listens on; workers of other machines can join if they can reach it.
        prefix: words before the command of a worker of that number, e.g. to start it in a network namespace.
        told: is told who has left and joined.
        progress: is told of the steps done.
    """

    minimum: int | None = None
    respawn: bool = False
    host: str = "127.0.0.1"
    prefix: Callable[[int], Sequence[str]] = lambda number: ()
    told: Callable[[str], None] = lambda text: None
    progress: Progress | None = None


def required(size: int, minimum: int | None) -> int:
    """Return how many workers a run of `size` needs to go on.

    Raises:
        RecipeError: if two halves of the workers could each go on without the other.
    """
    least = size // 2 + 1
    if minimum is None:
        return least
    if not least <= minimum <= size:
        raise RecipeError(
            f"--minimum {minimum} of {size} workers: it must be more than half, or two parts of a divided network could"
            " each go on by themselves",
            f"--minimum {least}",
        )
    return minimum


def coordinate(where: Path, size: int, minimum: int, options: Options) -> dict[str, Any]:
    """Start the workers of a run whose folder is there, and watch it to its end.

    Returns:
        The run's result; beside what other runs have, `epochs`, the number of memberships, `stalls`, the seconds that
        everybody stood still at each change, and `samples`, the number of those used.

    Raises:
        QuorateError: why no worker is left.
    """
    with _nobody_writes(where), tempfile.TemporaryDirectory(prefix="quorate-") as private:
        coordinator = Coordinator(options.host, minimum)
        folder.update(where, {"address": coordinator.address})
        texts = {name: (where / name).read_text() for name in ("run.json", "recipe.toml")}
        told = {"folder": str(where.resolve()), "first": True, **texts}
        coordinator.store.set("first", str(size))
        coordinator.store.set("run", json.dumps(told))
        options.told(f"others can join: quorate join {coordinator.address}")
        workers = _Workers(where, coordinator, Path(private), options)
        try:
            workers.watch(size)
        finally:
            workers.end()
            coordinator.close()
        facts = folder.read(where)
        if facts["status"] != "finished":
            raise workers.why()
    epochs = [each for each in events(where) if "epoch" in each]
    stalls = [each["stall"] for each in events(where) if "stall" in each]
    result = dict(facts["result"]) | {"epochs": len(epochs), "stalls": stalls}
    folder.update(where, {"result": result})
    return result


def events(where: Path) -> list[dict[str, Any]]:
    """Return what has happened to the members of a run."""
    return read_lines(where / "events.jsonl")


@contextmanager
def _nobody_writes(where: Path) -> Iterator[None]:
    """Wait until workers of an earlier attempt, which may have lost their coordinator, have stopped.

    Raises:
        RunError: if they have not after a while.
    """
    with (where / "members").open("w") as file:
        until = time.monotonic() + _GRACE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise RunError(f"`{where}` is being written by workers that still go on") from error
                time.sleep(_LOOK)
    yield


@dataclass
class _Workers:
    """The processes that were started here, and what they have told."""

    where: Path
    coordinator: Coordinator
    private: Path
    options: Options
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    seen: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    beats: tuple[list[bytes], float] = ([], 0.0)

    def start(self) -> None:
        number = len(self.processes)
        words = ["-m", "quorate", "member", self.coordinator.address, "--number", str(number)]
        environment = {"QUORATE_ERRORS": str(self.private), "TORCH_CPP_LOG_LEVEL": "FATAL"}
        command = [*self.options.prefix(number), sys.executable, *words]
        self.processes[number] = subprocess.Popen(command, env=os.environ | environment)

    def watch(self, size: int) -> None:
        """Return when no worker is left, those that have joined included."""
        for _ in range(size):
            self.start()
        store, alive = self.coordinator.store, dict(self.processes)
        began = False
        while alive or self._others_go_on():
            time.sleep(_LOOK)
            self._read()
            for number, process in list(alive.items()):
                code = process.poll()
                if code is None:
                    continue
                del alive[number]
                if code < 0:
                    self.options.told(f"worker {number} was killed by {signal.Signals(-code).name}")
                if code and self.options.respawn and alive:
                    self.start()
                    newest = max(self.processes)
                    alive[newest] = self.processes[newest]
            if not began and store.check(["epoch"]):
                began = True
                told = json.loads(store.get("run")) | {"first": False}
                store.set("run", json.dumps(told))
        self._read()

    def _read(self) -> None:
        """Note and tell what workers have told since the last look."""
        store = self.coordinator.store
        while store.check([f"event/{self.seen + 1}"]):
            self.seen += 1
            event = json.loads(store.get(f"event/{self.seen}"))
            if self._matters(event):
                with (self.where / "events.jsonl").open("a") as file:
                    file.write(json.dumps(event | {"time": time.time()}) + "\n")
        if self.options.progress is not None and store.check(["step"]):
            self.options.progress(int(store.get("step")), {})

    def _others_go_on(self) -> bool:
        """Return whether a worker that has joined is still at work."""
        store, now = self.coordinator.store, time.monotonic()
        if store.check(["finished"]):
            return False
        keys = [key for key in (f"beat/{name}" for name in self.last.get("members", [])) if store.check([key])]
        beats = store.multi_get(keys) if keys else []
        if beats != self.beats[0]:
            self.beats = beats, now
        return bool(keys) and now - self.beats[1] < _GRACE

    def _matters(self, event: dict[str, Any]) -> bool:
        """Return whether an event is to be noted, which lets people know of it."""
        if "epoch" in event:
            were, are = self.last.get("members", event["members"]), event["members"]
            event["left"] = [name for name in were if name not in are]
            event["joined"] = [name for name in are if name not in were]
            event["stayed"] = [name for name in are if name in were]
            self.last = event
            return True
        if event["in"] != self.last.get("epoch") or event["name"] != next(iter(self.last["stayed"]), None):
            return False  # of a worker that has stood still for longer, because it was cut off itself
        changes = [f"{', '.join(self.last[what])} {what}" for what in ("left", "joined") if self.last[what]]
        self.options.told(
            f"step {event['step']}: {' and '.join(changes) or 'the same workers met again'};"
            f" {len(self.last['members'])} workers go on after {event['stall']:.2f} s"
        )
        return True

    def end(self) -> None:
        """End what has not ended."""
        until = time.monotonic() + (_GRACE if sys.exc_info()[0] is KeyboardInterrupt else 0.0)
        while any(each.poll() is None for each in self.processes.values()) and time.monotonic() < until:
            time.sleep(_LOOK)
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def why(self) -> QuorateError:
        """Return why no worker is left though the run has not finished: a worker's own mistake, if there is one."""
        found: list[tuple[bool, QuorateError]] = []
        for number in self.processes:
            path = self.private / f"error-{number}.json"
            if path.exists():
                told = json.loads(path.read_text())
                found.append((bool(told["peer"]), RunError(told["problem"], told["hint"])))
        if found:
            return min(found, key=lambda each: each[0])[1]
        codes = {number: process.returncode for number, process in self.processes.items()}
        return RunError(f"no worker is left; exit codes: {codes}", f"quorate resume {self.where}")
