"""8-bit floating-point numbers (E4M3) by blocks, scaled so that a block's largest is the format's: 448.

Source: Micikevicius et al., "FP8 formats for deep learning", 2022, table 1. A relative error of at most 1/17 for an
entry above 1/28,672 of the block's largest, where `int8` has an absolute one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quorate.codecs._quantiser import Block, Quantiser, largest, normal, widened

_LARGEST = 448.0
_SUBNORMAL = 2.0**-10  # half of the distance between subnormal numbers


@dataclass(frozen=True)
class Fp8(Quantiser):
    """Say every entry by one byte, and a scale per block; biased.

    Args:
        block: entries that share a scale.
    """

    block: Block = 1024

    @property
    def bits(self) -> int:
        """8."""
        return 8

    def bound(self, d: int) -> float:
        """Return (1/17)^2 for numbers of four significant bits, and what subnormal ones may add."""
        return (1 / 17) ** 2 + max(0, min(self.block, d) - 1) * (_SUBNORMAL / _LARGEST) ** 2 if d else 0.0

    def quantise(self, rows: Tensor, numbers: Tensor, codes: Tensor, spare: Tensor, chance: Tensor | None) -> None:
        """Round to the nearest; see `Quantiser`."""
        numbers.copy_(normal(largest(rows, spare).div_(_LARGEST), _LARGEST))
        torch.mul(rows, numbers.reciprocal(), out=spare)
        codes.view(torch.float8_e4m3fn).copy_(spare)

    def values(self, codes: Tensor, numbers: Tensor, out: Tensor) -> None:
        """Multiply by the scale."""
        widened(codes, 3, 7, out)
        out.mul_(numbers)
