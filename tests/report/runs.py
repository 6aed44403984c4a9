"""Run folders to report on, made up but shaped like real ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def write_run(
    folder: Path,
    *,
    n: int = 8,
    steps: int = 200,
    seed: int = 7,
    speed: float = 1.0,
    bytes_per_step: int = 269_360,
    with_trace: bool = True,
    **facts: Any,
) -> Path:
    """Write a run folder of n workers in a ring, whose last worker takes twice as long as the others."""
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    lines = [_line(step, steps, speed, bytes_per_step, chance) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.toml").write_text(f'seed = {seed}\n\n[program]\nname = "synchronous_sgd"\nsteps = {steps}\n')
    result = {"accuracy": lines[-1]["accuracy"], "loss": lines[-1]["test_loss"], "steps": steps} if lines else {}
    costs = {key: lines[-1][key] for key in ("clock_seconds", "wall_seconds", "bytes")} if lines else {}
    run: dict[str, Any] = {"quorate": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7", "seed": seed}
    run |= {"recipe": "first_run", "engine": "simulator", "workers": n, "program": "synchronous_sgd", "task": "digits"}
    run |= {"parameters": 4810, "started": "2026-03-02T09:30:00+00:00", "status": "finished", "error": None}
    run |= {"batching": "exact", "result": result | costs | {"parameters_sha256": DIGEST, "run": folder.name}}
    (folder / "run.json").write_text(json.dumps(run | facts))
    if with_trace:
        (folder / "trace.json").write_text(json.dumps(trace(n, steps, speed, bytes_per_step, chance)))
    return folder


def _line(step: int, steps: int, speed: float, bytes_per_step: int, chance: random.Random) -> dict[str, Any]:
    loss = 2.3 * 0.98 ** (speed * step)
    line: dict[str, Any] = {"step": step, "clock_seconds": step * 0.024 / speed, "wall_seconds": step * 0.0031}
    line |= {"bytes": step * bytes_per_step, "train_loss": loss + 0.1 * chance.random()}
    if step % 10 == 0 or step == steps:
        line |= {"test_loss": loss + 0.05, "accuracy": 0.97 - 0.85 * 0.975 ** (speed * step)}
    return line


def trace(n: int, steps: int, speed: float, bytes_per_step: int, chance: random.Random) -> dict[str, Any]:
    """Return a trace of n workers in a ring; the timeline holds the first 50 steps of at most 80 workers."""
    length, intervals = 0.024 / speed, []
    for rank in range(min(n, 80)):
        for step in range(min(steps, 50)):
            start, busy = step * length, length * (0.8 if rank == n - 1 else 0.4) * (0.9 + 0.2 * chance.random())
            intervals.append([rank, "computing", start, start + busy])
            intervals.append([rank, "waiting", start + busy, start + length])
            if n > 1:
                intervals.append([rank, "sending", start + 0.7 * busy, start + busy + 0.1 * length])
    sent = steps * bytes_per_step // n if n > 1 else 0
    workers = [
        {"rank": rank, "host": None, "sent_bytes": sent, "received_bytes": sent, "sent_messages": 14 * steps}
        | {"computing_seconds": steps * length * (0.8 if rank == n - 1 else 0.4), "sending_seconds": steps * length / 5}
        | {"waiting_seconds": steps * length * (0.2 if rank == n - 1 else 0.6)}
        for rank in range(n)
    ]
    links = [[rank, (rank + 1) % n, sent, 14 * steps] for rank in range(n)] if n > 1 else []
    timeline = {"until": min(steps, 50) * length, "intervals": intervals}
    return {"size": n, "seconds": steps * length, "workers": workers, "links": links, "timeline": timeline}
