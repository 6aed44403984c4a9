"""Sign: one bit per entry, and the mean absolute value of each block.

Source: Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML 2018, and, scaled,
Karimireddy et al., "Error feedback fixes SignSGD and other gradient compression schemes", ICML 2019, algorithm 1
(EF-signSGD), which is `error_feedback` around it. The majority's vote is the aggregator `majority_vote`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quorate.codecs._quantiser import Block, Quantiser, anatomy, sign_bits
from quorate.kernels import Fused


@dataclass(frozen=True)
class Sign(Quantiser):
    """Say whether an entry is negative; biased.

    Args:
        block: entries that share a mean absolute value.
    """

    block: Block = 4096

    @property
    def bits(self) -> int:
        """1."""
        return 1

    def bound(self, d: int) -> float:
        """Return 1 - 1 / b for blocks of b: 1 - ||x||_1^2 / (b ||x||^2), which one entry among zeros reaches."""
        return 1 - 1 / min(self.block, d) if d else 0.0

    def fused(self) -> Fused:
        """Return the kernels, which serve `sign` and `one_bit`."""
        from quorate.kernels import signs

        return signs

    def quantise(self, rows: Tensor, numbers: Tensor, codes: Tensor, spare: Tensor, chance: Tensor | None) -> None:
        """Take the sign bits, and the mean; see `Quantiser`."""
        torch.sum(torch.abs(rows, out=spare), dim=1, keepdim=True, out=numbers)
        numbers.clamp_(max=torch.finfo(rows.dtype).max).div_(rows.shape[1])
        sign_bits(rows, codes, spare)

    def values(self, codes: Tensor, numbers: Tensor, out: Tensor) -> None:
        """Give the mean the sign bits."""
        kind = anatomy(out.dtype)
        signs = out.view(kind.integer).copy_(codes).bitwise_left_shift_(kind.width - 1)
        signs.bitwise_or_(numbers.abs().view(kind.integer))
