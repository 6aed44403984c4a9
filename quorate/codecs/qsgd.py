"""QSGD: stochastic rounding to a few multiples of a bucket's Euclidean norm.

Source: Alistarh, Grubic, Li, Tomioka and Vojnovic, "QSGD: communication-efficient SGD via gradient quantization and
encoding", NeurIPS 2017, section 3.1; codes have a fixed number of bits in place of Elias's.
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
from quorate.errors import RecipeError


@dataclass(frozen=True)
class Qsgd(Levels):
    """Say every entry as one of 2 s + 1 levels, and the norm of each bucket.

    Args:
        levels: s, from 1 to 127; 1, 3, 7, 15, 31, 63 and 127 use 2 to 8 bits up.
        block: entries of a bucket; the source uses 512 with 4 bits.

    Raises:
        RecipeError: if there are fewer or more levels, or the bucket is no multiple of 8.
    """

    levels: Annotated[int, Field(ge=1, le=127)] = 7
    block: Block = 512
    random: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.levels <= 127:
            raise RecipeError(f"qsgd has 1 to 127 levels, got {self.levels}", "levels = 7")

    @property
    def most(self) -> int:
        """s."""
        return self.levels

    def bound(self, d: int) -> float:
        """Return the expectation's: min(b / (4 s^2), sqrt(b) / s) for buckets of b.

        The source's lemma 3.1 with the variance of an entry, p (1 - p) / s^2 of the squared norm, at most 1 / (4 s^2).
        """
        length = min(self.block, d)
        return min(length / (4 * self.levels**2), sqrt(length) / self.levels)

    def steps(self, rows: Tensor, spare: Tensor) -> Tensor:
        """Return the norms, of entries that have been divided by the largest lest their squares overflow."""
        most = largest(rows, spare).clamp_min_(torch.finfo(rows.dtype).tiny)
        torch.mul(rows, most.reciprocal(), out=spare)
        norms: Tensor = torch.linalg.vector_norm(spare, dim=1, keepdim=True)
        return norms.clamp_min_(1).mul_(most)


EXAMPLES = (Qsgd(), Qsgd(levels=1, block=8), Qsgd(levels=127), Qsgd(levels=2))
