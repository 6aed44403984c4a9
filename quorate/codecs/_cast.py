"""Casts: codecs that say every entry in fewer bits of floating point, which can be summed on their way."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from quorate.codecs import Plain, Side, State
from quorate.codecs._quantiser import pieces
from quorate.rand import At
from quorate.wire import Message, Wire, require


class Cast(Plain):
    """What casts share.

    What is larger than the format's largest number over the number of workers is said to be that, so that no sum over
    all workers overflows; the rest of it stays with `error_feedback`.
    """

    dtype: ClassVar[torch.dtype]

    def bound(self, d: int) -> float:
        """Return 1, for updates that are too small or too large for the format; see the file's first lines."""
        return 1.0 if d else 0.0

    def wire(self, before: Wire) -> Wire:
        """Declare that an update may become longer by a rounding."""
        require(before.number == "real", f"{self} rounds real numbers, but is given something else", "put it first")
        return replace(before, l2_bound=before.l2_bound * (1 + torch.finfo(self.dtype).eps))

    def emits(self, like: Tensor) -> Message:
        """Declare a head of the format."""
        return (like.new_empty(len(like), dtype=self.dtype),)

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Round to the nearest."""
        most = self.most(at.size)
        return x.clamp_(-most, most).to(self.dtype), (), state

    def take(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Round to the nearest, and leave the difference, piece by piece."""
        (head,), most = self.emits(x), self.most(at.size)
        for place, _, _ in pieces(len(x), 1, x.device):
            head[place] = x[place].clamp(-most, most)
            x[place].sub_(head[place])
        return head, (), state

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Cast back."""
        return head.to(like.dtype)

    def add(self, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Add piece by piece."""
        for place, _, _ in pieces(len(total), 1, total.device):
            total[place].add_(head[place], alpha=share)

    def most(self, workers: int) -> float:
        """Return the largest number of which so many can be added up, each sum rounded."""
        numbers = torch.finfo(self.dtype)
        return float(numbers.max / (workers * (1 + numbers.eps / 2) ** workers))
