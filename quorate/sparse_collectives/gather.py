"""Everybody's message goes to everybody as it is encoded: one latency, n - 1 times the bytes; the default.

What messages of every codec can do. Values that were quantised after their choice stay so on their way, and all that is
said counts. With many workers it is slower than sending everything: n - 1 sparse messages outweigh one dense sum.
"""

from __future__ import annotations

from quorate.node import Node
from quorate.sparse_collectives import Load, Said, Sum


async def gather(node: Node, mine: Said) -> Sum:
    """Add up what all workers say; see `quorate.sparse_collectives.SparseCollective`. Takes O(n k) memory."""
    return Sum(mine.total(await node.all_gather(mine.message, mine.most)))


def cost(n: int, load: Load, latency: float, rate: float) -> float:
    """Return seconds; exact if all messages have `load.said` bytes, and connections of two are used."""
    return latency + (n - 1) * load.said / rate if n > 1 else 0.0
