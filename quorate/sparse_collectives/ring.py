"""A sparse ring: n ranges of indices go round to be merged, and once more to be spread; what fills up goes on dense.

It carries each coordinate that anybody says twice, however many say it, where `gather` carries it once for each who
does; for that it takes 2 (n - 1) latencies. Values travel as they are decoded. All that is said counts.

Source: Renggli et al., "SparCML: high-performance sparse communication for machine learning", SC 2019, section 5.3,
which splits the dimensions among workers, and switches to a dense form where that is shorter. Compare Li and Hoefler,
"Near-optimal sparse allreduce for distributed deep learning", PPoPP 2022, which also balances the ranges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quorate.node import Node
from quorate.sparse_collectives import (
    Entries,
    Load,
    Said,
    Sum,
    density,
    expected,
    merged,
    own_entries,
    read,
    tagged,
    written,
    written_bytes,
)
from quorate.wire import Message


async def ring(node: Node, mine: Said) -> Sum:
    """Add up what all workers say; see `quorate.sparse_collectives.SparseCollective`.

    Range c is merged from rank c upwards, round to c - 1.
    """
    n, rank, own = node.size, node.rank, own_entries(mine)
    own = Entries(own.indices, own.values * mine.share)
    total = mine.zeros()
    edges = [len(total) * c // n for c in range(n + 1)]
    lengths = [edges[c + 1] - edges[c] for c in range(n)]
    parts = _cut(own, edges)
    after, before, sent = (rank + 1) % n, (rank - 1) % n, []
    messages: list[Message] = [()] * n
    with tagged(node) as tag:
        for hop in range(n - 1):
            leaving, arriving = (rank - hop) % n, (rank - hop - 1) % n
            coming = node.recv(before, expected(own.values, lengths[arriving]), tag)
            sent.append(node.send(after, written(parts[leaving], lengths[leaving]), tag))
            piece = read((await coming)[1], lengths[arriving])
            parts[arriving] = merged(parts[arriving], piece, lengths[arriving])
        messages[after] = written(parts[after], lengths[after])
        for hop in range(n - 1):
            leaving, arriving = (after - hop) % n, (rank - hop) % n
            coming = node.recv(before, expected(own.values, lengths[arriving]), tag)
            sent.append(node.send(after, messages[leaving], tag))
            messages[arriving] = (await coming)[1]
        for every in sent:
            await every
    for c, message in enumerate(messages):
        _fill(total[edges[c] : edges[c + 1]], message)
    return Sum(total)


def _cut(own: Entries, edges: list[int]) -> list[Entries]:
    """Divide entries among ranges of indices; each counts from its own edge."""
    places = torch.searchsorted(own.indices, torch.tensor(edges)).tolist()
    return [
        Entries(own.indices[low:high] - edge, own.values[low:high])
        for low, high, edge in zip(places[:-1], places[1:], edges[:-1], strict=True)
    ]


def _fill(place: Tensor, message: Message) -> None:
    indices, values = read(message, len(place))
    if len(values) == len(place):
        place.copy_(values)
    else:
        place[indices.to(place.device)] = values.to(place.device)


def cost(n: int, load: Load, latency: float, rate: float) -> float:
    """Return seconds, if workers choose their entries independently, and as many in each range.

    What m workers say together fills a share 1 - (1 - entries / d)^m of a range.
    """
    if n == 1:
        return 0.0
    length = load.d / n
    hops = [
        written_bytes(density(load.entries / max(load.d, 1), m) * length, round(length), load.width)
        for m in range(1, n + 1)
    ]
    return 2 * (n - 1) * latency + (sum(hops[:-1]) + (n - 1) * hops[-1]) / rate
