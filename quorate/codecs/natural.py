"""Natural compression: stochastic rounding to powers of two.

Source: Horvath, Ho, Horvath, Sahu, Canini and Richtarik, "Natural compression for distributed deep learning", MSML
2022, section 2. One byte per entry: the sign, and 7 bits of the exponent relative to the block's largest. The source
sends 9 bits, with all 8 of the exponent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quorate.codecs._quantiser import Block, Quantiser, anatomy, largest, widened

_CODES = 127
_BIAS = 127


@dataclass(frozen=True)
class Natural(Quantiser):
    """Say every entry as plus or minus a power of two, and a scale per block.

    Entries below 2**-126 of the block's largest become 0, and those beyond the largest power of two of their dtype that
    power; all others are right in expectation.

    Args:
        block: entries that share a scale.
    """

    block: Block = 4096
    random: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    @property
    def bits(self) -> int:
        """8."""
        return 8

    def bound(self, d: int) -> float:
        """Return the expectation's, 1/8: the source's theorem 1."""
        return 1 / 8

    def quantise(self, rows: Tensor, numbers: Tensor, codes: Tensor, spare: Tensor, chance: Tensor | None) -> None:
        """Add random bits to the mantissas, whose carry rounds the exponents up; see `Quantiser`."""
        assert chance is not None
        kind = anatomy(rows.dtype)
        ends = largest(rows, spare).view(kind.integer).bitwise_right_shift_(kind.mantissa)
        lowest = (ends - (_CODES - 1)).clamp_(0, 2 * kind.bias - _CODES)
        numbers.view(kind.integer).copy_((lowest + _BIAS).bitwise_left_shift_(kind.mantissa))
        integers = spare.view(kind.integer)
        chance.bitwise_and_((1 << kind.mantissa) - 1).add_(rows.view(kind.integer))
        torch.bitwise_right_shift(chance, kind.mantissa, out=integers)
        integers.bitwise_and_(2 * kind.bias + 1).sub_(lowest).clamp_(0, _CODES)
        integers.bitwise_or_(chance.bitwise_right_shift_(kind.width - 8).bitwise_and_(0x80))
        codes.copy_(integers)

    def values(self, codes: Tensor, numbers: Tensor, out: Tensor) -> None:
        """Multiply powers of two by the scale."""
        widened(codes, 0, _BIAS, out)
        out.mul_(numbers)
