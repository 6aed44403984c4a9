"""Threshold sparsification: send the entries whose absolute values exceed a fixed number.

Source: Strom, "Scalable distributed DNN training using commodity GPU cloud computing", Interspeech 2015, section 3,
without its quantisation. Biased; use it inside `error_feedback`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from quorate import selection
from quorate.codecs._sparsifier import Sparsifier, count
from quorate.codecs.top_k import Ratio
from quorate.rand import At


@dataclass(frozen=True)
class Threshold(Sparsifier):
    """Say every entry above a threshold, but no more of them than a part of all.

    Args:
        value: the threshold, in the update's own unit.
        most_ratio: the part of all entries that are said at most: the largest.
    """

    value: Annotated[float, Field(ge=0)]
    most_ratio: Ratio = 0.01
    exact: ClassVar[bool] = False

    def at_most(self, d: int) -> int:
        """Return the largest number of entries that `most_ratio` allows."""
        return count(self.most_ratio, d)

    def bound(self, d: int) -> float:
        """Return 1: nothing may exceed the threshold."""
        return 1.0 if d else 0.0

    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the indices of what exceeds the threshold, ascending."""
        return selection.most(selection.above(x, self.value), self.at_most(len(x))).indices


EXAMPLES = (Threshold(0.5, most_ratio=0.5), Threshold(0.0, most_ratio=1.0), Threshold(1e9))
