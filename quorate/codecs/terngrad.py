"""TernGrad: every entry is minus, zero or plus the block's largest, at random, and right in expectation.

Source: Wen et al., "TernGrad: ternary gradients to reduce communication in distributed deep learning", NeurIPS 2017,
algorithm 1 and section 3.3; a scale per block in place of one per layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from quorate.codecs._levels import Levels
from quorate.codecs._quantiser import Block, largest


@dataclass(frozen=True)
class Terngrad(Levels):
    """Say every entry by two bits, and a scale per block.

    Args:
        block: entries that share a scale.
        clip: entries further out than so many times their block's root mean square are pulled in first, which narrows
            the scale but biases; 0: none are. The source clips at 2.5 standard deviations.
    """

    block: Block = 512
    clip: Annotated[float, Field(ge=0)] = 0.0
    random: ClassVar[bool] = True

    @property
    def most(self) -> int:
        """1."""
        return 1

    @property
    def clipped(self) -> bool:  # type: ignore[override]
        """Whether entries are pulled in."""
        return self.clip > 0

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """Whether nothing is pulled in."""
        return not self.clip

    def bound(self, d: int) -> float:
        """Return the expectation's: (sqrt(b) - 1) / 2 for blocks of b; with clipping at least 1.

        The expected error is max|x| ||x||_1 - ||x||^2, whose share of ||x||^2 is largest for one entry of 1 and b - 1
        of 1 / (sqrt(b) + 1). Squared, what is clipped off and what is left are no longer than the update together.
        """
        most = (sqrt(max(1, min(self.block, d))) - 1) / 2
        return max(1.0, most) if self.clip else most

    def steps(self, rows: Tensor, spare: Tensor) -> Tensor:
        """Return the largest absolute values, or the ends of the clip."""
        most = largest(rows, spare)
        if not self.clip:
            return most
        shrunk = torch.mul(rows, most.clamp_min(torch.finfo(rows.dtype).tiny).reciprocal(), out=spare)
        root = torch.linalg.vector_norm(shrunk, dim=1, keepdim=True).div_(sqrt(rows.shape[1]))
        return most.mul_(root.mul_(self.clip).clamp_max_(1))


EXAMPLES = (Terngrad(), Terngrad(block=8), Terngrad(clip=2.5))
