"""The algorithm that should be fastest for a tensor's bytes, the number of workers, and the links' latency and rate.

Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", International
Journal of High Performance Computing Applications 19(1), 2005, sections 3 (the model of costs) and 4.5 (the choice by
length).
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any

from torch import Tensor

from quorate.cluster import Rate, Seconds
from quorate.collectives import Collective, Cost, backend, direct, halving_doubling, naive, ring, tree
from quorate.node import FEW, Node
from quorate.wire import size_in_bytes

_ALGORITHMS: dict[str, tuple[Collective, Cost]] = {
    "backend": (backend.backend, backend.cost),
    "direct": (direct.direct, direct.cost),
    "naive": (naive.naive, naive.cost),
    "tree": (tree.tree, tree.cost),
    "halving_doubling": (halving_doubling.halving_doubling, halving_doubling.cost),
    "ring": (ring.ring, ring.cost),
}
_OVERLAP = ("backend", "direct")  # whose messages are kept apart when several sums are under way at once
_OWN_TIME = 0.5e-3  # seconds that our messages take of a worker's own time; measured
_WORTH_IT = 0.8


def auto(
    node: Node,
    tensor: Tensor,
    scale: float = 1.0,
    *,
    latency: Seconds = 100e-6,
    rate: Rate = 125e6,
    overlapping: bool = False,
) -> Awaitable[Tensor]:
    """Sum tensors of shape (d,); see `quorate.collectives.Collective`.

    The choice depends on nothing but the arguments, so that it is the same on all workers and engines. Where workers
    have no connections of two, `naive` stands in for `direct`: it adds in the same order.

    Args:
        latency: seconds one way between two workers.
        rate: bytes per second that a worker can send, and receive at the same time.
        overlapping: choose among those of which several may be under way at once.
    """
    choice = chosen(node.size, size_in_bytes((tensor,)), latency, rate, overlapping)
    if choice == "direct" and not node.talks_alone:
        choice = "backend" if overlapping else "naive"
    collective, _ = _ALGORITHMS[choice]
    return collective(node, tensor, scale)


def chosen(n: int, bytes: float, latency: float = 100e-6, rate: float = 125e6, overlapping: bool = False) -> str:
    """Return the name of what is fastest on real processes: `backend`, unless another one saves a fifth of its seconds.

    `tree` is never the best: `halving_doubling` has its latencies and fewer bytes. `direct` is `naive` without a wait
    for permission; it takes a connection for each two workers, which more than 32 are spared.
    """
    among = [name for name in (_OVERLAP if overlapping else _ALGORITHMS) if name != "direct" or n <= FEW]
    taken = {name: on_gloo(name, n, bytes, latency, rate) for name in among}
    best = min(taken, key=taken.__getitem__)
    return best if taken[best] < _WORTH_IT * taken["backend"] else "backend"


def on_gloo(name: str, n: int, bytes: float, latency: float, rate: float) -> float:
    """Return the seconds of an algorithm on real processes over gloo.

    gloo sends a message when it knows that the receiver has made room. Our algorithms say so for all messages when they
    begin, so that only the first one waits another latency for that word; gloo's own waits for it every time. On
    connections of two, room is held all the time: `direct` waits for no word.
    """
    if n == 1:
        return 0.0
    if name == "backend":
        return latency + backend.on_gloo(n, bytes, latency, rate)
    waits = 0.0 if name == "direct" else latency
    return waits + _ALGORITHMS[name][1](n, bytes, latency, rate) + _OWN_TIME


def overlapping(collective: Any) -> Collective | None:
    """Return a collective so that several of its sums may be under way at once; None if it can't be.

    `auto` is restricted to those that can; what is not known to be one of ours can't.
    """
    if getattr(collective, "func", collective) is auto:
        return partial(auto, **{**getattr(collective, "keywords", {}), "overlapping": True})
    return collective if any(collective is _ALGORITHMS[name][0] for name in _OVERLAP) else None


def cost(n: int, bytes: float, latency: float, rate: float) -> float:
    """Return seconds of the one chosen; as exact as its own `cost`."""
    return _ALGORITHMS[chosen(n, bytes, latency, rate)][1](n, bytes, latency, rate)
