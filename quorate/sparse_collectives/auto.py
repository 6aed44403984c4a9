"""The sparse collective that should be fastest, for what a codec says, the number of workers, and latency and rate.

Source: Renggli et al., "SparCML: high-performance sparse communication for machine learning", SC 2019, section 5, which
chooses by the density that is to be expected of the sum.
"""

from __future__ import annotations

from collections.abc import Awaitable

from quorate.cluster import Rate, Seconds
from quorate.collectives.auto import on_gloo as dense_on_gloo
from quorate.node import Node
from quorate.sparse_collectives import Load, Said, SparseCollective, SparseCost, Sum, dense, gather, ring, tree

_WAYS: dict[str, tuple[SparseCollective, SparseCost]] = {
    "gather": (gather.gather, gather.cost),
    "ring": (ring.ring, ring.cost),
    "tree": (tree.tree, tree.cost),
    "dense": (dense.dense, dense.cost),
}
_HANDLING = 0.3e-3  # seconds of a worker's own time per message, as `quorate.engines.transport` has measured it
_WORTH_IT = 0.8  # of the seconds of `gather`, which loses nothing and can't be wrong about others' choices


def auto(node: Node, mine: Said, *, latency: Seconds = 100e-6, rate: Rate = 125e6) -> Awaitable[Sum]:
    """Add up what all workers say; see `quorate.sparse_collectives.SparseCollective`.

    The choice depends on nothing but the arguments, so that it is the same on all workers and engines. `tree` is among
    the choices if what it leaves out is remembered by error feedback.

    Args:
        latency: seconds one way between two workers.
        rate: bytes per second that a worker can send, and receive at the same time.
    """
    way, _ = _WAYS[chosen(node.size, mine.load(), latency, rate, tree_too=mine.remembers)]
    return way(node, mine)


def chosen(n: int, load: Load, latency: float = 100e-6, rate: float = 125e6, *, tree_too: bool = False) -> str:
    """Return the name of what is fastest on real processes: `gather`, unless another one saves a fifth of its seconds.

    Args:
        tree_too: whether `tree` may be used.
    """
    taken = {name: on_gloo(name, n, load, latency, rate) for name in _WAYS if tree_too or name != "tree"}
    best = min(taken, key=taken.__getitem__)
    return best if taken[best] < _WORTH_IT * taken["gather"] else "gather"


def on_gloo(name: str, n: int, load: Load, latency: float, rate: float) -> float:
    """Return the seconds on real processes over gloo: its closed form, and each message's handling.

    Messages of tags from 1 wait for no permission, other than those of gloo's own sums.
    """
    if n == 1:
        return 0.0
    if name == "dense":
        return dense_on_gloo("backend", n, load.dense, latency, rate)
    messages = {"gather": 1, "ring": 2 * (n - 1), "tree": 2 * (n - 1).bit_length()}[name]
    return _WAYS[name][1](n, load, latency, rate) + messages * _HANDLING


def cost(n: int, load: Load, latency: float, rate: float) -> float:
    """Return seconds of the one chosen among those that leave nothing out; as exact as its own `cost`."""
    return _WAYS[chosen(n, load, latency, rate)][1](n, load, latency, rate)
