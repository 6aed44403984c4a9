"""8-bit quantisation by blocks: multiples of a 127th of the block's largest absolute value.

Source: Dettmers, "8-bit approximations for parallelism in deep learning", ICLR 2016, and, for one scale per block,
Dettmers et al., "8-bit optimizers via block-wise quantization", ICLR 2022, section 2; here the steps are all equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quorate.codecs._levels import Levels
from quorate.codecs._quantiser import Block, largest
from quorate.kernels import Fused


@dataclass(frozen=True)
class Int8(Levels):
    """Say every entry by one byte, and a scale per block.

    Args:
        block: entries that share a scale.
        stochastic: round up or down at random, so that the expectation is the entry; four times slower.
    """

    block: Block = 1024
    stochastic: bool = False

    @property
    def most(self) -> int:
        """127."""
        return 127

    @property
    def random(self) -> bool:  # type: ignore[override]
        """Whether it is stochastic."""
        return self.stochastic

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """Whether it is stochastic."""
        return self.stochastic

    def bound(self, d: int) -> float:
        """Return what half a step is at most, squared, for all entries of a block but the largest.

        Stochastic rounding errs by half a step squared in expectation, where an entry lies between two multiples.
        """
        return max(0, min(self.block, d) - 1) / (4 * 127**2)

    def fused(self) -> Fused | None:
        """Return the kernels for rounding to the nearest."""
        if self.stochastic:
            return None
        from quorate.kernels import int8

        return int8

    def steps(self, rows: Tensor, spare: Tensor) -> Tensor:
        """Return the largest absolute values."""
        return largest(rows, spare)


EXAMPLES = (Int8(), Int8(block=8), Int8(stochastic=True))
