"""Decoded first, then summed as any other vector: the bytes of an all-reduce, whatever messages say.

What is left where sparse messages would fill up on their way. All that is said counts.
"""

from __future__ import annotations

from quorate.collectives import backend
from quorate.node import Node
from quorate.sparse_collectives import Load, Said, Sum


async def dense(node: Node, mine: Said) -> Sum:
    """Add up what all workers say; see `quorate.sparse_collectives.SparseCollective`."""
    indices, values = mine.entries()
    own = mine.zeros()
    own[indices] = values
    return Sum(await node.all_reduce(own, mine.share))


def cost(n: int, load: Load, latency: float, rate: float) -> float:
    """Return seconds; as exact as those of `backend`."""
    return backend.cost(n, load.dense, latency, rate)
