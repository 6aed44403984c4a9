"""The bytes that a worker says in a meeting, and the seconds that a meeting should take on a described cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.table import Table

from quorate import parts
from quorate.cluster import Cluster
from quorate.codecs.identity import Identity
from quorate.collectives import auto as summing_auto
from quorate.collectives import backend, cost_of
from quorate.exchange import Exchange
from quorate.node import FEW
from quorate.rand import At, Rand
from quorate.report import units
from quorate.sparse_collectives import Load, density, has_left_out
from quorate.sparse_collectives import auto as sparse_auto
from quorate.sparse_collectives import cost_of as sparse_cost_of
from quorate.sparse_collectives._load import parts_of, says_entries
from quorate.trees import leaves
from quorate.wire import Ragged, size_in_bytes

SIZES = (1e3, 100e3, 10e6)  # bytes of an update
_WIDTH = 4  # bytes of an entry


class Spoken(NamedTuple):
    """What one worker says of an update.

    Args:
        update: bytes of the update.
        messages: bytes of the message, or of each, if it meets more than once.
        exact: it is the same for all updates; otherwise it was counted on one that is bell-shaped.
        kept: bytes that the worker remembers for the next update.
        load: what a sparse meeting has to carry; None if nothing is sparse.
    """

    update: float
    messages: tuple[float, ...]
    exact: bool
    kept: float
    load: Load | None

    @property
    def said(self) -> float:
        """All bytes."""
        return sum(self.messages)


class Links(NamedTuple):
    """Between n workers, all as slow as the slowest.

    Args:
        latency: seconds one way.
        rate: bytes per second.
        gloo: they are driven by gloo.
    """

    n: int
    latency: float
    rate: float
    gloo: bool

    def summing(self, name: str, part: Any, count: float) -> float | None:
        """Return the seconds of a collective on so many bytes; None if it states no cost."""
        if self.gloo and name in parts.names("collective"):
            return summing_auto.on_gloo(name, self.n, count, self.latency, self.rate)
        cost = cost_of(part)
        return cost(self.n, count, self.latency, self.rate) if cost else None

    def merging(self, name: str, part: Any, load: Load) -> float | None:
        """Return the seconds of a sparse collective; None if it states no cost."""
        if self.gloo and name in parts.names("sparse_collective"):
            return sparse_auto.on_gloo(name, self.n, load, self.latency, self.rate)
        cost = sparse_cost_of(part)
        return cost(self.n, load, self.latency, self.rate) if cost else None

    def gathering(self, spoken: Spoken) -> float:
        """Return the seconds until everybody has everybody's message: directly, or round gloo's ring."""
        if spoken.exact and self.n > FEW:
            hop = (2 if self.gloo else 1) * self.latency
            return (self.n - 1) * (hop + spoken.said / self.rate) + (self.latency if self.gloo else 0.0)
        return self.latency + (self.n - 1) * spoken.said / self.rate if self.n > 1 else 0.0


class _Row(NamedTuple):
    """A way, its seconds by size, and what it chooses for each, if it chooses."""

    label: str
    seconds: list[float | None]
    choices: list[str] | None = None


def equal_links(cluster: Cluster, n: int) -> tuple[float, float]:
    """Return seconds one way between the two most distant workers, and the bytes per second of the narrowest link."""
    latency = 2 * max(cluster.of(rank, "latency") for rank in range(n))
    return latency, min(cluster.of(rank, link) for rank in range(n) for link in ("uplink", "downlink"))


def spoken(exchange: Exchange, size: float, n: int) -> Spoken:
    """Return what a worker says of an update of so many bytes, float32; messages that vary are counted on a normal one.

    Args:
        n: workers.
    """
    codec, d = exchange.codec, round(size / _WIDTH)
    x = torch.randn(d, generator=Rand(0).fold("prediction").generator())
    state, emitted = codec.init(x), codec.emits(x)
    kept = sum(size_in_bytes((tensor,)) for _, tensor in leaves(state))
    load = exchange.load(x) if says_entries(codec) else None
    if exchange.meets_itself:
        return Spoken(size, tuple(float(size_in_bytes((each,))) for each in emitted), True, kept, load)
    if not isinstance(emitted, Ragged):
        return Spoken(size, (float(size_in_bytes(emitted)),), True, kept, load)
    head, side, _ = codec.encode(x, state, At(getattr(codec, "warm_up", 0), 0, n, Rand(0)))
    counted = float(size_in_bytes((head, *side)))
    return Spoken(
        size, (counted,), False, kept, load and load._replace(entries=_said(exchange, load, head), said=counted)
    )


def _said(exchange: Exchange, load: Load, head: torch.Tensor) -> int:
    """Return how many entries a message says, as far as its head tells."""
    return len(head) if len(parts_of(exchange.codec)) == 1 else load.entries


def predicted(exchange: Exchange, name: str, cluster: Cluster, n: int) -> tuple[list[Table], list[str]]:
    """Return tables of what a worker says and how long a meeting should take, and hints.

    Args:
        name: what the recipe calls the collective that is used; of sparse messages, the sparse one.
        n: workers.
    """
    links = Links(n, *equal_links(cluster, n), cluster.transport == "gloo")
    said = [spoken(exchange, size, n) for size in SIZES]
    rows = _rows(exchange, name, links, said)
    tables = [_meetings(rows)]
    if isinstance(exchange.codec, Identity):
        return tables, []
    plain = [links.summing("backend", backend.backend, each.update) for each in said]
    tables = [_messages(said, n), _meetings([*rows, _Row("uncompressed", plain)])]
    return tables, _hints(exchange, rows, plain)


def _rows(exchange: Exchange, name: str, links: Links, said: Sequence[Spoken]) -> list[_Row]:
    """Return the ways of forming the sum, the one that is used first."""
    if exchange.sums_in_flight:
        return _choices("collective", exchange.collective, name, links, said)
    if exchange.combines_entries:
        return _choices("sparse_collective", exchange.sparse_collective, name, links, said, exchange.remembers)
    return [_Row("gathered (used)", [links.gathering(each) for each in said])]


def _choices(
    kind: str, used: Any, name: str, links: Links, said: Sequence[Spoken], remembers: bool = False
) -> list[_Row]:
    ways = {name: used} | {each: parts.find(kind, each) for each in parts.names(kind) if each != name}
    if not remembers:
        ways = {each: part for each, part in ways.items() if not has_left_out(part)}
    rows = []
    for each, part in ways.items():
        choices: list[str] | None = None
        if getattr(part, "func", part) in (summing_auto.auto, sparse_auto.auto):
            if each != name:
                part = partial(part, latency=links.latency, rate=links.rate)
            choices = [_chosen(part, links.n, one, remembers) for one in said]
        seconds: list[float | None] = []
        for position, one in enumerate(said):
            taken = each if choices is None else choices[position]
            seconds.append(_seconds(kind, links, taken, part if choices is None else parts.find(kind, taken), one))
        rows.append(_Row(f"{each} (used)" if each == name else each, seconds, choices))
    return rows


def _chosen(part: Any, n: int, one: Spoken, remembers: bool) -> str:
    settings = getattr(part, "keywords", {})
    if getattr(part, "func", part) is summing_auto.auto:
        return summing_auto.chosen(n, one.messages[0], **settings)
    assert one.load is not None
    return sparse_auto.chosen(n, one.load, **settings, tree_too=remembers)


def _seconds(kind: str, links: Links, name: str, part: Any, one: Spoken) -> float | None:
    if kind == "sparse_collective":
        assert one.load is not None
        return links.merging(name, part, one.load)
    taken = [links.summing(name, part, count) for count in one.messages]
    return None if None in taken else sum(each for each in taken if each is not None)


def _meetings(rows: Sequence[_Row]) -> Table:
    shown = _table("a meeting should take", SIZES)
    for row in rows:
        if row.choices is not None:
            shown.add_row(f"{row.label.removesuffix(' (used)')}, which takes", *row.choices)
        shown.add_row(row.label, *map(units.seconds, row.seconds))
    return shown


def _messages(said: Sequence[Spoken], n: int) -> Table:
    shown = _table("of an update of", [each.update for each in said])

    def add(label: str, written: Callable[[float], str], values: Sequence[float]) -> None:
        shown.add_row(label, *map(written, values))

    add("a worker says" + ("" if said[0].exact else ", about"), units.size, [each.said for each in said])
    add("times less", lambda times: f"{times:.3g}", [each.update / each.said for each in said])
    loads = [each.load for each in said if each.load is not None]
    if loads:
        add("of its entries", _percent, [load.entries / load.d for load in loads])
        add(f"{n} workers fill", _percent, [density(load.entries / load.d, n) for load in loads])
    add("it remembers", units.size, [each.kept for each in said])
    return shown


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _table(title: str, sizes: Sequence[float]) -> Table:
    shown = Table(box=None, pad_edge=False)
    shown.add_column(title, no_wrap=True)
    for size in sizes:
        shown.add_column(units.size(size), justify="right", no_wrap=True)
    return shown


def _hints(exchange: Exchange, rows: Sequence[_Row], plain: Sequence[float | None]) -> list[str]:
    """Say where messages that are short make meetings that are long, and what is faster."""
    summed = exchange.sums_in_flight
    hints = []
    for place, (size, dense) in enumerate(zip(SIZES, plain, strict=True)):
        used = rows[0].seconds[place]
        if used is None or dense is None or used <= dense:
            continue
        others = {row.label: row.seconds[place] or used for row in rows[1:] if row.choices is None}
        best = min(others, key=others.__getitem__, default="")
        if best and others[best] < dense:
            better = f'name = "{best}" in [{"collective" if summed else "sparse_collective"}]'
        elif summed:
            better = "leave out [[codec]] on links like these"
        elif exchange.combines_entries:
            better = "fewer workers, or a smaller ratio"
        else:
            better = '[[codec]] name = "fp16", which is summed on its way, or fewer workers'
        hints.append(
            f"an update of {units.size(size)} takes longer than uncompressed: {units.seconds(used)} instead of"
            f" {units.seconds(dense)}\nhint: {better}"
        )
    return hints


def route(exchange: Exchange, name: str) -> str:
    """Say in words how messages become one update.

    Args:
        name: what the recipe calls the sparse collective.
    """
    if exchange.meets_itself:
        return "summed on their way, in meetings of the codec's own"
    if exchange.sums_in_flight:
        return "summed on their way (all-reduce)"
    if not exchange.combines_entries or name == "gather":
        return "gathered, decoded and aggregated"
    chained = ", as they are decoded" if len(parts_of(exchange.codec)) > 1 else ""
    left = "; the rest goes back to who said it" if has_left_out(exchange.sparse_collective) else ""
    return f"combined by `{name}`{chained}{left}"
