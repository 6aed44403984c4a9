"""Short recipes to run, and the command `quorate`, called in this process or started as one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from quorate.cli import main

RECIPES = Path(__file__).parent.parent / "recipes"
READY = ("first_run", "local_sgd", "gossip", "parameter_server", "diloco", "adaptive_period", "large_batch")
RECORD = {"metrics": 5, "evaluate": 10, "checkpoint": 4}

TASK = """
import os
import time

import torch
from torch import distributed, nn
from torch.nn import functional

from quorate.rand import Rand
from quorate.tasks import Data, Task, accuracy

calls = 0


def loss(output, y):
    global calls
    calls += 1
    time.sleep(float(os.environ.get("SECONDS_PER_LOSS", 0)))
    if calls == 6 and "FAILS_ON" in os.environ and distributed.get_rank() == int(os.environ["FAILS_ON"]):
        raise ValueError("a bad sample")
    return functional.cross_entropy(output, y)


def blobs():
    y = torch.arange(120) % 3
    x = y[:, None] + torch.randn(120, 4, generator=Rand(0).fold("x").generator())
    return Task(lambda: nn.Linear(4, 3), loss, Data(x[:90], y[:90]), Data(x[90:], y[90:]), {"accuracy": accuracy})
"""
"""A task whose speed, and whose failure on one rank, the environment decides."""


def write_recipe(folder: Path, changes: dict[str, Any] | None = None, ready: str = "first_run") -> Path:
    """Write a copy of a ready recipe that takes 20 steps; a change to None leaves a table out."""
    whole = tomllib.loads((RECIPES / f"{ready}.toml").read_text())
    whole["program"]["steps"] = 20
    whole["record"] = RECORD
    whole |= changes or {}
    path = folder / f"{ready}.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in whole.items() if value is not None}))
    return path


def write_task(folder: Path, steps: int, ready: str = "first_run", **processes: Any) -> Path:
    """Write a recipe of the task above, which checkpoints every 4 steps."""
    (folder / "blobs.py").write_text(TASK)
    whole = tomllib.loads((RECIPES / f"{ready}.toml").read_text())
    program = whole["program"] | {"steps": steps, "batch": 8}
    changes = {"task": {"name": "blobs.py:blobs"}, "program": program, "processes": processes}
    return write_recipe(folder, changes, ready)


def call(monkeypatch: Any, *words: object) -> int:
    """Run one command in this process; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["quorate", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refusal(monkeypatch: Any, capsys: Any, *words: object) -> str:
    """Run one command that must be refused without a traceback; return the message."""
    assert call(monkeypatch, *words) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert err.startswith("error: ")
    return str(err).removeprefix("error: ").rstrip("\n")


@contextmanager
def started(*words: object, module: tuple[str, ...] = ("quorate",), **environment: object) -> Iterator[Any]:
    """Start one command as a process of its own, with text on its standard output and error; end it at last."""
    named = os.environ | {name: str(value) for name, value in environment.items()}
    command = [sys.executable, "-m", *module, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=named)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=200)
            except subprocess.TimeoutExpired:
                process.kill()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def output_of(*words: object, module: tuple[str, ...] = ("quorate",), **environment: object) -> tuple[int, str, str]:
    """Return a command's exit status and what it wrote to standard output and error."""
    with started(*words, module=module, **environment) as process:
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err


def result(out: str) -> dict[str, Any]:
    """Return what the last line of `--json` says."""
    return dict(json.loads(out.splitlines()[-1]))


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without the one number that no two runs share."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "wall_seconds"} for line in lines]


def workers(run: Path) -> dict[int, int]:
    """Return the process ids of a run's living workers, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            alive = (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if b"worker" in words and str(run).encode() in words and alive:
            found[int(words[words.index(b"worker") + 2])] = int(place.name)
    return found


def until(condition: Callable[[], Any], seconds: float = 200) -> Any:
    """Wait until a condition holds; return what it returned."""
    end = time.monotonic() + seconds
    while not (held := condition()):
        assert time.monotonic() < end, f"it did not come about in {seconds} s"
        time.sleep(0.02)
    return held


def has_checkpoint(run: Path, rank: int = 0) -> Callable[[], Any]:
    """Return a condition: a real worker has written a checkpoint, so the run is in its middle."""
    return lambda: list((run / "checkpoints").glob(f"step-*.{rank}-of-*"))


def stop_at(step: int) -> Callable[[int, dict[str, float]], None]:
    """Return a progress function that breaks a simulation off after a step, as if it was interrupted."""

    def progress(done: int, _: dict[str, float]) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def kill(process: int) -> None:
    """Kill a process as `kill -9` does."""
    os.kill(process, signal.SIGKILL)
