"""gTop-k: sums go up a binomial tree, each cut to its k largest entries, and the k that are left come down.

As many bytes however many workers there are: 2 log2(n) messages of k entries, one after the other. Most of what is said
is left out of the sum. It goes back to who said it; what was cut off a sum although others' entries at the same index
came through, to who cut it. So it needs error feedback, and then nothing is lost.

Source: Shi et al., "A distributed synchronous SGD algorithm with global top-k sparsification for low bandwidth
networks", ICDCS 2019, algorithms 2 to 4. There, what was cut off at an index that came through is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quorate.node import Node
from quorate.sparse_collectives import (
    Entries,
    Load,
    Said,
    Sum,
    expected,
    leaves_out,
    merged,
    own_entries,
    read,
    tagged,
    written,
    written_bytes,
)
from quorate.wire import Message


@leaves_out
async def tree(node: Node, mine: Said) -> Sum:
    """Add up what all workers say, but for what is cut off; see `quorate.sparse_collectives.SparseCollective`.

    Of two messages that meet, as many entries are kept as the longer one has.
    """
    n, rank, own = node.size, node.rank, own_entries(mine)
    total, part = mine.zeros(), Entries(own.indices, own.values * mine.share)
    d = len(total)
    to_parent = rank & -rank or 1 << (n - 1).bit_length()  # the lowest bit that is set
    children = [rank + (1 << k) for k in range(to_parent.bit_length() - 1) if rank + (1 << k) < n]
    cut: list[Entries] = []
    with tagged(node) as tag:
        coming = [node.recv(child, expected(own.values, d), tag) for child in children]
        down = node.recv(rank - to_parent, expected(own.values, d), tag) if rank else None
        for every in coming:
            piece = read((await every)[1], d)
            part, off = _largest(merged(part, piece, d), max(len(part.indices), len(piece.indices)))
            cut.append(off)
        chosen: Message = written(part, d)
        if down is not None:
            up = node.send(rank - to_parent, chosen, tag)
            _, chosen = await down
            await up
        for child in reversed(children):
            await node.send(child, chosen, tag)
    indices, values = read(chosen, d)
    total[indices.to(total.device)] = values.to(total.device)
    return Sum(total, _left(own, mine.share, indices, cut, d))


def _largest(part: Entries, count: int) -> tuple[Entries, Entries]:
    """Divide entries into those of the largest absolute values and the rest."""
    kept = torch.zeros(len(part.indices), dtype=torch.bool)
    kept[part.values.abs().topk(min(count, len(kept)), sorted=False).indices] = True
    return Entries(part.indices[kept], part.values[kept]), Entries(part.indices[~kept], part.values[~kept])


def _left(own: Entries, share: float, through: Tensor, cut: Sequence[Entries], d: int) -> Entries:
    """Return what goes back to this worker, in the units of its own update."""
    out = ~torch.isin(own.indices, through, assume_unique=True)
    left = Entries(own.indices[out], own.values[out])
    for part in cut:
        lost = torch.isin(part.indices, through, assume_unique=True)
        if share and bool(lost.any()):
            left = merged(left, Entries(part.indices[lost], part.values[lost] / share), d)
    return left


def cost(n: int, load: Load, latency: float, rate: float) -> float:
    """Return seconds; exact if n is a power of two and every message has `load.entries` entries, otherwise at most."""
    levels = (n - 1).bit_length()
    return 2 * levels * (latency + written_bytes(load.entries, load.d, load.width) / rate)
