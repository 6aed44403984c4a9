"""1-bit quantisation: an entry becomes the mean of those of its sign.

Source: Seide, Fu, Droppo, Li and Yu, "1-bit stochastic gradient descent and its application to data-parallel
distributed training of speech DNNs", Interspeech 2014, section 3.2; a pair of means per block in place of one per
column of a matrix. Biased; the source uses it with error feedback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quorate.codecs._quantiser import Block, Quantiser, sign_bits
from quorate.kernels import Fused


@dataclass(frozen=True)
class OneBit(Quantiser):
    """Say whether an entry is negative, and each block's two means: of the others, and of those that are.

    Args:
        block: entries that share the means.
    """

    block: Block = 4096
    width: ClassVar[int] = 2

    @property
    def bits(self) -> int:
        """1."""
        return 1

    def bound(self, d: int) -> float:
        """Return 1 - 1 / b for blocks of b, which one entry among zeros reaches."""
        return 1 - 1 / min(self.block, d) if d else 0.0

    def fused(self) -> Fused:
        """Return the kernels, which serve `sign` and `one_bit`."""
        from quorate.kernels import signs

        return signs

    def quantise(self, rows: Tensor, numbers: Tensor, codes: Tensor, spare: Tensor, chance: Tensor | None) -> None:
        """Take the sign bits, and the means; see `Quantiser`."""
        sign_bits(rows, codes, spare)
        below = spare.copy_(codes).sum(dim=1).clamp_min_(1)
        above = rows.shape[1] - spare.sum(dim=1)
        above.clamp_min_(1)
        # Divided before they are added up, lest the sum overflow.
        numbers[:, 0] = torch.clamp(rows, min=0, out=spare).div_(above[:, None]).sum(dim=1)
        numbers[:, 1] = torch.clamp(rows, max=0, out=spare).div_(below[:, None]).sum(dim=1)
        most = torch.finfo(rows.dtype).max / 2  # so that their difference is finite
        numbers.clamp_(-most, most)

    def values(self, codes: Tensor, numbers: Tensor, out: Tensor) -> None:
        """Take the first mean where the bit is 0, and the second where it is 1."""
        above, below = numbers[:, :1], numbers[:, 1:]
        out.copy_(codes).mul_(below - above).add_(above)
