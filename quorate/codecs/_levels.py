"""Quantisers whose blocks are a step times whole numbers of either sign, in two's complement of as few bits as do."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from quorate.codecs._quantiser import Quantiser, anatomy, normal


class Levels(Quantiser):
    """What they share; each says how long a block's step is."""

    clipped: ClassVar[bool] = False
    """Whether entries may be further out than `most` steps."""

    @property
    @abstractmethod
    def most(self) -> int:
        """The largest whole number, from 1 to 127."""

    @abstractmethod
    def steps(self, rows: Tensor, spare: Tensor) -> Tensor:
        """Return `most` times the blocks' steps (r, 1), a new tensor; see `quantise`."""

    @property
    def bits(self) -> int:
        """Those of `most`, and the sign."""
        return self.most.bit_length() + 1

    def quantise(self, rows: Tensor, numbers: Tensor, codes: Tensor, spare: Tensor, chance: Tensor | None) -> None:
        """Round to the nearest multiple of the step, or at random to one of the two that an entry lies between."""
        kind = anatomy(rows.dtype)
        edge = self.most * (1 - 4 * torch.finfo(rows.dtype).eps)  # not rounded beyond `most`, whatever is added
        numbers.copy_(normal(self.steps(rows, spare).div_(edge), self.most))
        torch.mul(rows, numbers.reciprocal(), out=spare)
        if self.clipped:
            spare.clamp_(-edge, edge)
        if chance is not None:
            chance.bitwise_right_shift_(kind.width - kind.mantissa - 1)
            spare.add_(chance, alpha=0.5 ** (kind.mantissa + 1))
        codes.view(torch.int8).copy_(spare.round_())
        if self.bits < 8:
            codes.bitwise_and_((1 << self.bits) - 1)

    def values(self, codes: Tensor, numbers: Tensor, out: Tensor) -> None:
        """Multiply by the step."""
        unused = 8 - self.bits
        if unused:
            codes = codes.bitwise_left_shift(unused).view(torch.int8).bitwise_right_shift_(unused)
        torch.mul(codes.view(torch.int8), numbers, out=out)
