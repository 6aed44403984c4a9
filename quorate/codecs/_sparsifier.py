"""Sparsifiers: codecs that say some entries of an update as they are, and where they are.

The head holds the values (k,), ready for the next codec of a chain; the side holds their indices, coded. A sparsifier
is biased, and what it leaves out is lost unless `error_feedback` keeps it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from quorate import index_coding, selection
from quorate.codecs import Plain, Side, State
from quorate.rand import At
from quorate.wire import Message, Ragged, Wire, require


class Sparsifier(Plain, ABC):
    """What all sparsifiers share; each says which entries it chooses, and how many at most."""

    exact: ClassVar[bool]
    """Whether it always chooses as many entries as it may."""

    @abstractmethod
    def at_most(self, d: int) -> int:
        """Return how many of d entries it may choose; at least 1, unless d is 0."""

    @abstractmethod
    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the indices of the entries of x, of shape (d,), that are said: int64, ascending; x is only read."""

    def wire(self, before: Wire) -> Wire:
        """Declare that entry i means another coordinate on every worker."""
        require(
            before.number == "real", "a sparsifier compares real numbers, but is given something else", "put it first"
        )
        return replace(before, aligned=False, summable=False)

    def emits(self, like: Tensor) -> Message:
        """Declare the values and the bytes of their indices."""
        k, d = self.at_most(len(like)), len(like)
        if self.exact:
            return like.new_empty(k), like.new_empty(index_coding.size(k, d), dtype=index_coding.DTYPE)
        meta = like.to("meta")
        return Ragged((meta.new_empty(k), meta.new_empty(4 * k, dtype=index_coding.DTYPE)))

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Say the chosen entries."""
        chosen = self.select(x, at)
        return x[chosen], (self.coded(chosen, len(x)).to(x.device),), state

    def take(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Say the chosen entries, and leave the others in x."""
        chosen = self.select(x, at)
        return selection.take(x, chosen), (self.coded(chosen, len(x)).to(x.device),), state

    def coded(self, chosen: Tensor, d: int) -> Tensor:
        """Return the bytes that say which of d entries are chosen."""
        return index_coding.encode(chosen, d)

    def places(self, head: Tensor, side: Side, like: Tensor) -> Tensor:
        """Return the indices (k,) of a message's entries, ascending.

        Raises:
            QuorateError: if it is no message of this codec.
        """
        (coded,) = side
        return index_coding.decode(coded, len(head), len(like)).to(like.device)

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Put the values where they belong, among zeros."""
        return like.new_zeros(len(like)).scatter_(0, self.places(head, side, like), head)

    def add(self, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Add the values where they belong; O(k)."""
        total.index_add_(0, self.places(head, side, total), head, alpha=share)


def count(ratio: float, d: int) -> int:
    """Return how many of d entries a ratio means: at least 1, unless d is 0."""
    return min(d, max(1, round(ratio * d)))


def four_thirds(k: int, d: int) -> int:
    """Return how many of d entries are taken for about k at most: 4 k / 3, and at least k."""
    return min(d, 4 * k // 3)
