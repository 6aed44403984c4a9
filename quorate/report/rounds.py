"""What a federation's folder tells of its rounds and clients, read with suspicion.

`rounds.jsonl` says who took part, `clients.json` how well each client is served, and `run.json` what the federation was
compared with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quorate.errors import DataError
from quorate.report.folder import Floats

FATES = ("accepted", "late", "refused", "gone")
MODELS = ("federated", "alone", "pooled")
MEASURES = ("mean", "worst_decile", "best_decile", "deviation", "clients")
_MOST = 10**7  # clients
_CLASSES = 1000


@dataclass(frozen=True)
class Round:
    """One line of `rounds.jsonl`.

    Args:
        number: counted from 1.
        fates: numbers of clients, by what became of their replies.
        why: (client, reason, hostile) of those that were refused or are gone.
        up: bytes of replies.
        down: bytes of what was broadcast.
    """

    number: float
    fates: Mapping[str, tuple[int, ...]]
    why: tuple[tuple[int, str, bool], ...]
    up: float
    down: float


@dataclass(frozen=True)
class Clients:
    """What `clients.json` says: arrays with an entry per client, NaN where nothing was measured.

    Args:
        measure: what was measured.
        rises: whether more of it is better.
        values: by model.
        labels: (clients, classes), how many samples of each class the first clients have; none if there are no classes.
    """

    measure: str
    rises: bool
    values: Mapping[str, Floats]
    labels: Floats


@dataclass(frozen=True)
class Compared:
    """What a run was compared with, as `run.json` says it.

    Args:
        measure: what was measured.
        tested_on: what each client was measured on, in words.
        rows: by model, its numbers by name.
        notes: what was left out or failed, in words.
    """

    measure: str
    tested_on: str
    rows: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = field(default=())


def rounds(run: Path) -> tuple[Round, ...]:
    """Read who took part in a run's rounds; nothing if it was not a federation's.

    Raises:
        DataError: if the file is damaged, other than by a last line that was cut short.
    """
    path = run / "rounds.jsonl"
    if not path.is_file():
        return ()
    texts = [text for text in _text(path).split("\n") if text.strip()]
    found = []
    for i, text in enumerate(texts, start=1):
        try:
            found.append(_round(json.loads(text)))
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError, AttributeError) as error:
            if i == len(texts) and isinstance(error, json.JSONDecodeError):
                break
            raise _damaged(path, f"line {i} tells of no round ({str(error)[:80]})") from error
    return tuple(found)


def _round(raw: Mapping[str, Any]) -> Round:
    fates, why = {}, []
    for fate in FATES:
        entries = raw[fate]
        if fate in ("refused", "gone"):
            why += [(_client(each["client"]), str(each["why"])[:200], each.get("hostile") is True) for each in entries]
            entries = [each["client"] for each in entries]
        fates[fate] = tuple(_client(each) for each in entries)
    return Round(_amount(raw["round"]), fates, tuple(why), _amount(raw["bytes_up"]), _amount(raw["bytes_down"]))


def clients(run: Path) -> Clients | None:
    """Read how well each client is served; None if it was not measured.

    Raises:
        DataError: if the file is damaged.
    """
    path = run / "clients.json"
    if not path.is_file():
        return None
    try:
        raw = json.loads(_text(path))
        values = {name: np.array([_maybe(value) for value in raw[name]], dtype=np.float64) for name in MODELS}
        count = len(values["federated"])
        if count > _MOST or any(len(each) != count for each in values.values()):
            raise ValueError("lists of different lengths")
        rows = raw["labels"] or []
        if rows and (len({len(row) for row in rows}) != 1 or len(rows[0]) > _CLASSES):
            raise ValueError("labels that can't be")
        labels = np.array([[_amount(value) for value in row] for row in rows], dtype=np.float64)
        return Clients(
            str(raw["measure"]), raw["rises"] is not False, values, labels.reshape(len(rows), -1 if rows else 0)
        )
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise _damaged(path, f"it tells of no clients ({str(error)[:80]})") from error


def compared(facts: Mapping[str, Any]) -> Compared | None:
    """Return what a run was compared with; None if `run.json` says nothing of it that can be read."""
    raw = facts.get("comparison")
    if not isinstance(raw, Mapping):
        return None
    rows = {}
    for name in MODELS:
        row = raw.get(name)
        if isinstance(row, Mapping):
            numbers = {key: value for key in MEASURES if (value := _maybe(row.get(key))) == value}
            if "mean" in numbers:
                rows[name] = numbers
    notes = raw.get("notes")
    told = tuple(str(note) for note in notes) if isinstance(notes, list) else ()
    return Compared(str(raw.get("measure")), str(raw.get("tested_on")), rows, told) if rows else None


def counts(noted: Sequence[Round], fate: str, size: int) -> Floats:
    """Return how often each of so many clients met a fate."""
    named = [client for each in noted for client in each.fates[fate] if client < size]
    return np.bincount(np.array(named, dtype=np.int64), minlength=size).astype(np.float64)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"`{path}` can't be read: {error.strerror}") from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"`{path}` is damaged: {what}", f"remove `{path}` to see the report without it")


def _client(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError(f"no client: {str(value)[:40]}")
    return value


def _amount(value: Any) -> float:
    number = _maybe(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"no amount: {str(value)[:40]}")
    return number


def _maybe(value: Any) -> float:
    """Return a number, NaN for null and all else that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    number = float(value)
    return number if math.isfinite(number) else math.nan
