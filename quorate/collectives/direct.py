"""Everybody sends all to everybody over connections of two: one latency, and several may be under way at once.

As `naive`, whose messages would be mixed up: here they are kept apart by the order in which the sums are begun, so that
buckets can be summed while others are on their way. No message waits for its receiver's permission.
"""

from __future__ import annotations

from collections.abc import Awaitable

from torch import Tensor

from quorate.collectives import flat
from quorate.node import Node
from quorate.wire import Message, Ragged


def direct(node: Node, tensor: Tensor, scale: float = 1.0) -> Awaitable[Tensor]:
    """Sum tensors of shape (d,); see `quorate.collectives.Collective`. Takes O(n d) memory; it starts at once."""
    own = flat(tensor, scale)
    return _sum(node.all_gather(Ragged((own,)), Ragged((own.to("meta"),))), tensor)


async def _sum(coming: Awaitable[list[Message]], like: Tensor) -> Tensor:
    """Add in the order of ranks."""
    heard = await coming
    total = heard[0][0]
    for (each,) in heard[1:]:
        total = total + each
    return total.view(like.shape)


def cost(n: int, bytes: float, latency: float, rate: float) -> float:
    """Return seconds; exact."""
    return latency + (n - 1) * bytes / rate if n > 1 else 0.0
