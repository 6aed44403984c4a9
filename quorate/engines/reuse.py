"""Memory for messages that is used again once nobody holds a tensor in it.

What the allocator is given back it may return to the system, which hands it out anew page by page: 4 MB then cost about
as much time as their way through a socket. Memory of sizes that were not asked for lately is given back all the same.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

_KEPT = 3  # of a size: one that is waited for, one that the program reads, and one in between
_LATELY = 64  # requests
_UNHELD = 3  # references to bytes in which there is no tensor: from the list, the loop and the question


class Reuse:
    """Memory of one connection."""

    def __init__(self) -> None:
        self._kept: dict[int, list[bytearray]] = {}
        self._asked: dict[int, int] = {}
        self._requests = 0

    def take(self, count: int) -> Tensor:
        """Return an uninitialised tensor of `count` bytes, at least 1."""
        self._requests += 1
        self._asked[count] = self._requests
        for size in [size for size, request in self._asked.items() if request <= self._requests - _LATELY]:
            del self._kept[size], self._asked[size]
        kept = self._kept.setdefault(count, [])
        for each in kept:
            if sys.getrefcount(each) == _UNHELD:
                return torch.frombuffer(each, dtype=torch.uint8)
        if len(kept) == _KEPT:
            return torch.empty(count, dtype=torch.uint8)
        fresh = bytearray(count)
        kept.append(fresh)
        return torch.frombuffer(fresh, dtype=torch.uint8)
