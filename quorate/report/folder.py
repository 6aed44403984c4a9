"""A run folder, read with suspicion: it may be of a killed run, or come from somebody else.

Only the last line of `metrics.jsonl` may be cut short; any other damage is an error that names the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quorate.errors import DataError, QuorateError

Floats = NDArray[np.float64]

KINDS = ("computing", "sending", "waiting")
COSTS = ("steps", "clock_seconds", "wall_seconds", "bytes")


@dataclass(frozen=True)
class Worker:
    """What one worker did in the whole run; sending may overlap computing."""

    rank: int
    host: str | None
    sent_bytes: float
    received_bytes: float
    sent_messages: float
    computing_seconds: float
    sending_seconds: float
    waiting_seconds: float


@dataclass(frozen=True)
class Trace:
    """Who sent what to whom, and when.

    Args:
        size: number of workers.
        seconds: how long the run took, on its own clock.
        workers: one entry per worker, in the order of the file.
        links: (m, 4), a row per link: from rank, to rank, bytes, messages.
        until: the timeline holds what began before this second.
        intervals: kind -> (m, 3), a row per interval: rank, first and last second.
    """

    size: int
    seconds: float
    workers: tuple[Worker, ...]
    links: Floats
    until: float
    intervals: Mapping[str, Floats]


@dataclass(frozen=True)
class Result:
    """What came out of a run, or how far an unfinished one got; None is not known."""

    accuracy: float | None = None
    loss: float | None = None
    steps: float | None = None
    clock_seconds: float | None = None
    wall_seconds: float | None = None
    bytes: float | None = None
    parameters_sha256: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder tells it.

    Args:
        folder: where it was read from; its last part is the run's name.
        facts: what `run.json` says, except for the result.
        result: the result, or the last known numbers of a run without one.
        recipe: the resolved recipe, or "" if there is none.
        metrics: a mapping per line from a metric's name to its value; what the file calls null is left out.
        trace: None for a run that was killed before it wrote one.
    """

    folder: Path
    facts: Mapping[str, Any]
    result: Result
    recipe: str
    metrics: tuple[Mapping[str, float], ...]
    trace: Trace | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return self.facts.get("status") == "finished"

    @property
    def federated(self) -> bool:
        """Whether it is of a federation, which has rounds and clients."""
        return self.facts.get("federated") is True

    @property
    def virtual(self) -> bool:
        """Whether its seconds are those of the simulator's clock."""
        return self.facts.get("engine") == "simulator"


def load(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        QuorateError: if it is no run folder, or a file in it is damaged.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise QuorateError(
            f"`{folder}` is not a run folder: it has no run.json",
            "a run folder is printed at the end of `quorate run`",
        )
    facts = _object(_parsed(folder / "run.json"), folder / "run.json")
    recipe, metrics, trace = (folder / name for name in ("recipe.toml", "metrics.jsonl", "trace.json"))
    points = _metrics(metrics) if metrics.is_file() else ()
    outcome = facts.pop("result", None)
    return RunRecord(
        folder=folder.resolve(),
        facts=facts,
        result=_progress(points) if outcome is None else _result(_object(outcome, folder / "run.json"), folder),
        recipe=_text(recipe) if recipe.is_file() else "",
        metrics=points,
        trace=_trace(trace) if trace.is_file() else None,
    )


def names(records: Sequence[RunRecord]) -> list[str]:
    """Return a short name for each run, no two alike."""
    chosen = [record.name for record in records]
    if len(set(chosen)) < len(chosen):
        chosen = [f"{record.folder.parent.name}/{record.name}" for record in records]
    if len(set(chosen)) < len(chosen):
        chosen = [f"{name} ({i})" for i, name in enumerate(chosen, start=1)]
    return chosen


def _damaged(path: Path, what: str) -> DataError:
    hint = "repeat the run, or copy its folder again"
    if path.name == "trace.json":
        hint = f"remove `{path}` to see the report without the pictures of the workers"
    return DataError(f"`{path}` is damaged: {what}", hint)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"`{path}` can't be read: {error.strerror}") from error


def _parsed(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not valid JSON ({error})") from error


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged(path, f"an object was expected, got {str(value)[:40]}")
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _required(value: Mapping[str, Any], key: str, path: Path) -> float:
    number = _number(value.get(key))
    if number is None or not 0 <= number < math.inf:
        raise _damaged(path, f"`{key}` must be a number of at least 0, got {value.get(key)!r}")
    return number


def _metrics(path: Path) -> tuple[Mapping[str, float], ...]:
    lines = [line for line in _text(path).split("\n") if line.strip()]
    points: list[Mapping[str, float]] = []
    for i, line in enumerate(lines, start=1):
        try:
            raw = _object(json.loads(line), path)
        except (ValueError, RecursionError) as error:
            if i == len(lines):
                break
            raise _damaged(path, f"line {i} is not valid JSON ({error})") from error
        for key in ("step", "clock_seconds", "bytes"):
            _required(raw, key, path)
        points.append({key: number for key, value in raw.items() if (number := _number(value)) is not None})
    return tuple(points)


def _result(raw: Mapping[str, Any], folder: Path) -> Result:
    digest = raw.get("parameters_sha256")
    return Result(
        accuracy=_number(raw.get("accuracy")),
        loss=_number(raw.get("loss")),
        **{key: _required(raw, key, folder / "run.json") for key in COSTS},
        parameters_sha256=digest if isinstance(digest, str) else None,
    )


def _progress(points: Sequence[Mapping[str, float]]) -> Result:
    def last(*keys: str) -> float | None:
        return next((point[key] for point in reversed(points) for key in keys if key in point), None)

    return Result(
        last("accuracy"), last("test_loss"), last("step"), last("clock_seconds"), last("wall_seconds"), last("bytes")
    )


def _trace(path: Path) -> Trace:
    raw = _object(_parsed(path), path)
    size = int(_required(raw, "size", path))
    timeline = _object(raw.get("timeline") or {}, path)
    by_kind: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    workers = [_worker(_object(entry, path), path) for entry in _list(raw.get("workers"), path)]
    for entry in _list(timeline.get("intervals"), path):
        if not isinstance(entry, list) or len(entry) != 4:
            raise _damaged(path, f"an interval must be [rank, kind, start, end], got {str(entry)[:80]}")
        if isinstance(entry[1], str) and entry[1] in by_kind:
            by_kind[entry[1]].append((entry[0], entry[2], entry[3]))
    links = _rows(_list(raw.get("links"), path), 4, path)
    ranks = np.concatenate([links[:, :2].ravel(), [worker.rank for worker in workers]])
    if size > 10**9:
        raise _damaged(path, f"{size} workers are more than this report can count")
    if len(ranks) and ranks.max() >= size:
        raise _damaged(path, f"it names rank {ranks.max():.0f} of {size} workers")
    return Trace(
        size=size,
        seconds=_required(raw, "seconds", path),
        workers=tuple(workers),
        links=links,
        until=_number(timeline.get("until")) or 0.0,
        intervals={kind: _rows(entries, 3, path) for kind, entries in by_kind.items()},
    )


def _worker(raw: Mapping[str, Any], path: Path) -> Worker:
    host = raw.get("host")
    measures = {key: _required(raw, key, path) for key in list(Worker.__annotations__)[2:]}
    return Worker(int(_required(raw, "rank", path)), host if isinstance(host, str) else None, **measures)


def _list(value: Any, path: Path) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise _damaged(path, f"a list was expected, got {str(value)[:40]}")
    return value or []


def _rows(entries: Sequence[Any], width: int, path: Path) -> Floats:
    try:
        rows = np.array(entries, dtype=np.float64).reshape(-1, width) if entries else np.empty((0, width))
    except (ValueError, TypeError, OverflowError) as error:
        raise _damaged(path, f"rows of {width} numbers were expected ({error})") from error
    if len(rows) != len(entries) or not np.isfinite(rows).all() or (rows < 0).any():
        raise _damaged(path, f"rows of {width} finite numbers of at least 0 were expected")
    return rows
