"""Runs side by side as numbers, the best of each column marked.

Only finished runs compete, and clocks only if they are of the same kind: virtual seconds say nothing about wall time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from quorate.report import units
from quorate.report.folder import RunRecord, load, names
from quorate.report.target import Target, waiting

DIGITS = 8  # of the hash: enough to see whether two runs ended with the same parameters


@dataclass(frozen=True)
class Column:
    """A measure of a run: its short and long title, how to get and write it, and which end of it is best, if any."""

    title: str
    full: str
    get: Callable[[RunRecord], float | None]
    write: Callable[[float | None], str]
    best: Callable[[Sequence[float]], float] | None = None


COLUMNS = (
    Column("accuracy", "accuracy", lambda record: record.result.accuracy, units.share, max),
    Column("loss", "loss", lambda record: record.result.loss, units.plain, min),
    Column("steps", "steps", lambda record: record.result.steps, units.count),
    Column("clock", "on the run's clock", lambda record: record.result.clock_seconds, units.seconds, min),
    Column("wall", "wall time", lambda record: record.result.wall_seconds, units.seconds, min),
    Column("bytes", "bytes sent", lambda record: record.result.bytes, units.size, min),
    Column("waiting", "of the workers' time spent waiting", waiting, units.share, min),
)


_OF_FEDERATIONS = {
    "steps": replace(COLUMNS[2], title="rounds", full="rounds"),
    "waiting": replace(COLUMNS[-1], full="of the clients' and the server's time spent waiting"),
}


def columns(target: Target | None, federated: bool = False) -> tuple[Column, ...]:
    """Return what runs are measured by: if there is a target, first how long and how much it took to reach it.

    Args:
        federated: all are of federations, which have rounds and clients.
    """
    usual = tuple(_OF_FEDERATIONS.get(column.title, column) for column in COLUMNS) if federated else COLUMNS
    if target is None:
        return usual
    seconds, sent = (partial(target.cost, key=key) for key in ("clock_seconds", "bytes"))
    return (
        Column("until", f"until {target}", seconds, units.seconds, min),
        Column("sent", f"bytes sent until {target}", sent, units.size, min),
        *usual,
    )


def titles(target: Target | None = None, federated: bool = False) -> tuple[str, ...]:
    """Return the heads of all columns."""
    return ("run", *(column.title for column in columns(target, federated)), "model")


@dataclass(frozen=True)
class Cell:
    """The text of one entry, and whether it is the best of its column."""

    text: str
    best: bool = False


def cells(records: Sequence[RunRecord], target: Target | None = None) -> list[list[Cell]]:
    """Return a row per run, an entry per title in `titles`; the texts are not escaped."""
    rows = [
        [Cell(name if record.finished else f"{name} ({record.facts.get('status')})")]
        for name, record in zip(names(records), records, strict=True)
    ]
    for column in columns(target, all(record.federated for record in records)):
        marked = _best(column, records)
        for row, record in zip(rows, records, strict=True):
            value = column.get(record)
            row.append(Cell(column.write(value), best=record.finished and value is not None and value == marked))
    for row, record in zip(rows, records, strict=True):
        row.append(Cell((record.result.parameters_sha256 or units.NOTHING)[:DIGITS]))
    return rows


def comparison(folders: Sequence[Path], target: Target | None = None) -> Table:
    """Return the comparison of run folders for the terminal.

    Raises:
        QuorateError: if one of them is no run folder, or damaged.
    """
    table = Table(box=box.SIMPLE, padding=0, pad_edge=False)
    dropped = (
        () if target is None else ("loss", "steps", "rounds", "wall", "model")
    )  # 80 characters are not enough for all
    records = [load(folder) for folder in folders]
    rows, heads = cells(records, target), titles(target, all(record.federated for record in records))
    for i, title in enumerate(heads):
        if title not in dropped:
            table.add_column(title, justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    for whole in rows:
        row = [cell for cell, title in zip(whole, heads, strict=True) if title not in dropped]
        table.add_row(*(Text(printable(cell.text) + "*" * cell.best, "bold green" * cell.best) for cell in row))
    if any(cell.best for row in rows for cell in row):
        reaching = "" if target is None else f"; until {target}, and what was sent until then"
        table.caption = f"* best of the finished runs{reaching}"
    return table


def printable(text: Any) -> str:
    """Return the text without control characters, which could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def _best(column: Column, records: Sequence[RunRecord]) -> float | None:
    """Return the best value of a column; None if there is nothing to choose between."""
    competing = [record for record in records if record.finished]
    if column.best is None or (
        column.write is units.seconds and column.title != "wall" and len({record.virtual for record in competing}) > 1
    ):
        return None
    values = [value for record in competing if (value := column.get(record)) is not None]
    numbers = [value for value in values if math.isfinite(value)]
    return column.best(numbers) if len(set(values)) > 1 and numbers else None
