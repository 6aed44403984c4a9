"""A federation as a person watches it: its rounds, and how its clients are."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quorate.engines.federation_status import Status
from quorate.recorder import Progress

_ROWS = 8  # rounds that stay in sight
_CLIENTS = 30
_BUSY, _PRESENT = ("asked", "sending", "replied"), ("waiting",)
_OWN = ("sent", "received")


def seconds(count: float | None) -> str:
    """Return a duration as people say it: `7 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`."""
    if count is None:
        return "-"
    whole = round(count)
    for unit, size, smaller, parts in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // parts
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def size(count: float) -> str:
    """Return bytes as people say them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _plain(text: str) -> Text:
    """Return text as it is, without control characters: a client may have chosen it."""
    return Text("".join(sign if sign.isprintable() else "?" for sign in text))


def _measures(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items()) or "-"


def run_table(status: Status) -> Table:
    """Return how a run stands, a line each."""
    table = Table(show_header=False, box=None, pad_edge=False)
    states = [each.state for each in status.clients]
    busy = sum(state in _BUSY for state in states)
    present = busy + sum(state in _PRESENT for state in states)
    table.add_row("run", _plain(f"{status.run}, {status.state}"))
    table.add_row("rounds", f"{status.round} of {status.rounds or '?'} done")
    table.add_row("clients", f"{busy} at work, {present} present, of {len(states)}")
    table.add_row("accuracy", "-" if status.accuracy is None else f"{status.accuracy:.4f}")
    table.add_row("bytes", f"{size(status.bytes_up)} up, {size(status.bytes_down)} down")
    table.add_row("time", f"{seconds(status.seconds)}, {seconds(status.eta)} left")
    return table


def clients_table(status: Status, most: int = _CLIENTS) -> Table:
    """Return how the clients are: those at work first, then by who was heard of last."""
    table = Table(box=None, pad_edge=False)
    for name in ("client", "name", "state", "last seen", "rounds", "up", "down", "offences"):
        table.add_column(name, justify="left" if name in ("name", "state") else "right")
    found = sorted(status.clients, key=lambda each: (_order(each.state), each.seen or 0.0, each.number))
    for each in found[:most]:
        seen = "never" if each.seen is None else f"{seconds(each.seen)} ago"
        row = (str(each.rounds), size(each.bytes_up), size(each.bytes_down), str(each.offences or ""))
        table.add_row(str(each.number), _plain(each.name), _plain(each.state), seen, *row)
    if len(found) > most:
        table.add_row("", f"and {len(found) - most} more")
    return table


def _order(state: str) -> int:
    return 0 if state in _BUSY else 1 if state in _PRESENT else 2 if state == "away" else 3


def whole(status: Status) -> RenderableType:
    """Return both tables."""
    return Group(run_table(status), "", clients_table(status))


def watch(ask: Callable[[], Status], console: Console, every: float = 1.0) -> None:
    """Show how a run stands until it is finished or stopping, or the server is gone, which raises."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = ask()
            live.update(whole(status), refresh=True)
            if status.state != "running":
                return
            time.sleep(every)


class Rounds:
    """The last rounds of a run as a table; told of each as a `Progress`.

    Args:
        rounds: that there will be.
        cohort: clients whose replies make one.
        now: returns seconds.
    """

    def __init__(self, rounds: int, cohort: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rounds, self._cohort, self._now = rounds, cohort, now
        self._first: tuple[int, float] | None = None
        self._rows: deque[tuple[str, ...]] = deque(maxlen=_ROWS)
        self._since: tuple[str, ...] | None = None
        self._measured: Mapping[str, float] = {}
        self.began = now()

    def told(self, round: int, measures: Mapping[str, float]) -> None:
        """Take note of a round that is done, counted from 1.

        Args:
            measures: the last evaluation, and `sent` and `received`: bytes from clients, and to them.
        """
        moment = self._now()
        evaluated = {name: value for name, value in measures.items() if name not in _OWN}
        left = None
        if self._first is None:
            self._first = (round - 1, self.began) if round == 1 else (round, moment)
        first, since = self._first
        if round > first:
            left = (moment - since) / (round - first) * (self._rounds - round)
        row = (
            f"{round}/{self._rounds}",
            str(self._cohort),
            _measures(evaluated) if evaluated != self._measured else "",
            *(size(measures[name]) if name in measures else "-" for name in _OWN),
            seconds(left),
        )
        if evaluated == self._measured:
            self._since = row
        else:
            self._rows.append(row)
            self._since, self._measured = None, evaluated

    def __rich__(self) -> Table:
        """Return the table: a line for each evaluation, and one for the rounds since."""
        table = Table(box=None, pad_edge=False)
        for name in ("round", "cohort", "measured", "up", "down", "time left"):
            table.add_column(name, justify="left" if name == "measured" else "right")
        for row in [*self._rows, *([self._since] if self._since else [])]:
            table.add_row(*row)
        return table


@contextmanager
def rounds_table(rounds: int, cohort: int, console: Console, show: bool) -> Iterator[Progress | None]:
    """Show the rounds of a run while it goes on; yields what a recorder tells of them."""
    if not show:
        yield None
        return
    table = Rounds(rounds, cohort)
    with Live(table, console=console, transient=True, refresh_per_second=4):
        yield table.told
