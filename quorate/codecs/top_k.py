"""Top-k sparsification: send the largest entries of an update and their indices.

Source: Aji and Heafield, "Sparse communication for distributed gradient descent", EMNLP 2017. Biased; use it inside
`error_feedback`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from quorate import selection
from quorate.codecs._sparsifier import Sparsifier, count
from quorate.rand import At

Ratio = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class TopK(Sparsifier):
    """Say the k entries of the largest absolute values, exactly.

    Args:
        ratio: k / d.
    """

    ratio: Ratio = 0.001
    exact: ClassVar[bool] = True

    def at_most(self, d: int) -> int:
        """Return k."""
        return count(self.ratio, d)

    def bound(self, d: int) -> float:
        """Return 1 - k / d, which a constant update reaches."""
        return 1 - self.at_most(d) / d if d else 0.0

    def bell_shaped_bound(self, d: int) -> float:
        """Return (1 - k / d)^2, the bound if the squares of the entries, in order, fall to 0 as a convex function.

        Source:
            Shi, Chu, Cheung and See, "Understanding top-k sparsification in distributed deep learning",
            arXiv 1911.08772, 2019, where this is what a bell-shaped distribution means.
        """
        return self.bound(d) ** 2

    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the indices of the k largest, ascending; of equal ones, some."""
        return selection.largest(x, self.at_most(len(x))).indices


EXAMPLES = (TopK(0.1), TopK(1.0), TopK())
