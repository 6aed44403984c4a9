"""What a federated round should take: bytes down and up, and virtual seconds, before any data is read."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.table import Table

from quorate.cluster import Cluster
from quorate.engines.traffic import by_machine
from quorate.exchange import Exchange
from quorate.predict import SIZES, spoken
from quorate.rand import Rand
from quorate.report import units

_SAMPLES = 100  # of a client, that computing is shown for
_LOOKED_AT = 200  # clients whose speeds are drawn


def rounds_table(program: Any, exchange: Exchange, cluster: Cluster, size: int, seed: int) -> Table:
    """Return a table of what a client is sent and says, and how long that takes.

    Args:
        program: with its settings filled in.
        exchange: of the clients' updates.
        cluster: whose machine number `size` is the server.
        size: clients.
        seed: the run's.
    """
    assert isinstance(program, partial)
    given = program.keywords
    at_once = min(size, given.get("cohort", given.get("concurrency", 1)))
    links = {field: by_machine(cluster, size + 1, field) for field in ("uplink", "downlink", "latency")}
    table = Table(box=None, pad_edge=False, title_justify="left", title=f"a client's part, with {at_once} at a time")
    table.add_column("a tensor of the model")
    for heading in (
        "sent down",
        "said up",
        f"both, {at_once} clients",
        "median client's links",
        "slowest client's links",
    ):
        table.add_column(heading, justify="right")
    downlink = Exchange(given["downlink"]) if given.get("downlink") is not None else Exchange()
    for each in SIZES:
        down, up = (sum(spoken(way, each, size).messages) for way in (downlink, exchange))
        times = _transfers(links, size, down, up, at_once)
        row = (down, up, at_once * (down + up))
        shown = [*map(units.size, row), *map(units.seconds, (statistics.median(times), max(times)))]
        table.add_row(units.size(each), *shown)
    looked_at = range(0, size, max(1, size // _LOOKED_AT))
    speeds = [_SAMPLES * cluster.speed(client, Rand(seed))(0, 0) for client in looked_at]
    table.caption = (
        f"computing takes {units.seconds(statistics.median(speeds))} for {_SAMPLES} samples on the median client,"
        f" {units.seconds(max(speeds))} on the slowest"
    )
    table.caption_justify = "left"
    return table


def _transfers(links: Mapping[str, Sequence[float]], size: int, down: float, up: float, at_once: int) -> list[float]:
    """Return each client's seconds of receiving and sending, if the server's links are shared by so many."""
    found = []
    for client in range(size):
        receiving = down / min(links["downlink"][client], links["uplink"][size] / at_once)
        sending = up / min(links["uplink"][client], links["downlink"][size] / at_once)
        found.append(receiving + sending + 2 * (links["latency"][client] + links["latency"][size]))
    return found
