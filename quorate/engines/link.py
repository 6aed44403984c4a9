"""The link between real workers, measured: how long a few bytes take, and how many bytes get through in a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from quorate.adaptive import Link
from quorate.engines.processes import ProcessNode
from quorate.wire import Ragged

_FEW = 16  # float32 entries: more than the 8 bytes for which gloo's ring asks at once
_SMALLEST, _GROWTH, _LARGEST = 16 << 10, 2, 4 << 20  # float32 entries of the all-reduces that the rate is taken from
_LONG, _SHORT = 0.07, 0.25  # seconds of bytes that are enough to tell the rate; below these all is done twice
_PATIENCE, _TIMES = 0.15, 5  # seconds for taking one latency, and how often at most
_IN_A_ROW = 3  # gathers that are timed together: the workers do not begin at the same instant


def measure(node: ProcessNode) -> Link:
    """Measure the link; all workers call this at once, and get the same.

    Takes about a second at 10 Mbit/s and 10 ms, less on faster links. The slowest of the workers counts. Connections
    of two are made if there are none yet.

    Raises:
        PeerError: if a worker does not take part.
    """
    if node.size == 1:
        return Link(1, inf, 0.0, 0.0)
    few = torch.zeros(_FEW, device=node.device)
    all_reduce = _seconds(node, lambda: node.all_reduce(few))
    all_gather = inf
    if node.device.type == "cpu":
        like = Ragged((few.to("meta"),))
        all_gather = _seconds(node, lambda: node.all_gather(Ragged((few,)), like), _IN_A_ROW)
    return Link(node.size, _rate(node, all_reduce), all_reduce, all_gather)


def _rate(node: ProcessNode, latency: float) -> float:
    """Return bytes per second, from all-reduces that grow until their bytes take long enough."""
    entries = _SMALLEST
    while True:
        many = partial(node.all_reduce, torch.zeros(entries, device=node.device))
        taken = slowest(node, _once(node, many))
        if taken < _SHORT:
            taken = min(taken, slowest(node, _once(node, many)))
        if taken - latency >= _LONG or entries >= _LARGEST:
            moved = 2 * (node.size - 1) / node.size * 4 * entries
            return moved / max(taken - latency, taken / 10)
        entries *= _GROWTH


def _seconds(node: ProcessNode, call: Callable[[], Any], in_a_row: int = 1) -> float:
    """Return the seconds of a call: the quickest of a few, after one that makes what connections it needs."""
    _once(node, call)
    first = slowest(node, _once(node, call, in_a_row))
    times = max(1, min(_TIMES, int(_PATIENCE / first)))
    return min([first, *(slowest(node, _once(node, call, in_a_row)) for _ in range(times))]) / in_a_row


def _once(node: ProcessNode, call: Callable[[], Any], times: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call().wait()
    if node.device.type == "cuda":
        torch.cuda.synchronize(node.device)
    return time.perf_counter() - began


def slowest(node: ProcessNode, seconds: float) -> float:
    """Return the largest of all workers' numbers, the same on all."""
    return max(map(float, told(node, torch.tensor([seconds], dtype=torch.float64))))


def told(node: ProcessNode, numbers: Tensor) -> list[Tensor]:
    """Return what each worker tells, in the order of ranks; equally many numbers on all."""
    return [message[0].cpu() for message in node.all_gather((numbers.to(node.device),)).wait()]
