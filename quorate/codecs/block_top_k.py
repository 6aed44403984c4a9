"""Block-wise top-1 sparsification: send the largest entry of each block of neighbouring entries.

All messages have one length, an index within its block needs few bits, and one pass finds it; but where large entries
stand close together, smaller ones are sent instead.

Source: folklore; analysed with error feedback by Zheng, Huang and Kwok, "Communication-efficient distributed blockwise
momentum SGD with error-feedback", NeurIPS 2019, for other codecs of blocks. Biased; use it inside `error_feedback`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from quorate import index_coding, selection
from quorate.codecs import Side
from quorate.codecs._sparsifier import Sparsifier
from quorate.errors import QuorateError
from quorate.rand import At
from quorate.wire import Message


@dataclass(frozen=True)
class BlockTopK(Sparsifier):
    """Say the entry of the largest absolute value of each block.

    Args:
        block: entries of a block, the last of which may be shorter; indices take the bits that count up to it.
    """

    block: Annotated[int, Field(ge=2, le=index_coding.LARGEST)] = 1024
    exact: ClassVar[bool] = True

    def at_most(self, d: int) -> int:
        """Return the number of blocks."""
        return -(-d // self.block)

    def bound(self, d: int) -> float:
        """Return 1 - 1 / block, which a constant update reaches."""
        return 1 - 1 / min(d, self.block) if d else 0.0

    def emits(self, like: Tensor) -> Message:
        """Declare a value of each block, and the bytes of its place in it."""
        k = self.at_most(len(like))
        return like.new_empty(k), like.new_empty((k * self._bits + 7) // 8, dtype=index_coding.DTYPE)

    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the index of the largest of each block, ascending."""
        return selection.largest_of_blocks(x, self.block)

    def coded(self, chosen: Tensor, d: int) -> Tensor:
        """Return the entries' places in their blocks, packed."""
        return index_coding.packed(chosen % self.block, self._bits)

    def places(self, head: Tensor, side: Side, like: Tensor) -> Tensor:
        """Return the indices (k,) of a message's entries, ascending.

        Raises:
            QuorateError: if it is no message of this codec.
        """
        (coded,) = side
        expected, got = self.emits(like.to("meta")), (head, coded)
        if [each.shape for each in got] != [each.shape for each in expected] or coded.dtype != index_coding.DTYPE:
            raise QuorateError(f"a message of {self} has the wrong length: it is damaged")
        inside = index_coding.unpacked(coded, len(head), self._bits)
        index = inside + torch.arange(len(head)) * self.block
        if len(index) and (int(inside.max()) >= self.block or int(index[-1]) >= len(like)):
            raise QuorateError(f"a message of {self} names a place that its block does not have: it is damaged")
        return index.to(like.device)

    @property
    def _bits(self) -> int:
        return (self.block - 1).bit_length()


EXAMPLES = (BlockTopK(4), BlockTopK(7), BlockTopK())
