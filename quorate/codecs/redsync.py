"""The selection of RedSync: a threshold by bisection between the mean and the maximum of the magnitudes.

Source: Fang, Fu, Yang and Hsieh, "RedSync: reducing synchronization bandwidth for distributed deep learning training
system", Journal of Parallel and Distributed Computing 133, 2019. Biased; use it inside `error_feedback`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from quorate import selection
from quorate.codecs._sparsifier import Sparsifier, count
from quorate.codecs.top_k import Ratio
from quorate.rand import At


@dataclass(frozen=True)
class Redsync(Sparsifier):
    """Say k to 2 k entries of the largest absolute values, if bisection finds a threshold that so many exceed.

    Args:
        ratio: k / d.
        trim: leave out all but the k largest of those found.
        tolerance: the part of the way from mean to maximum at which bisection ends. The code of Shi et al., 2019,
            has 0.2, with which it often ends far from k.
    """

    ratio: Ratio = 0.001
    trim: bool = False
    tolerance: Annotated[float, Field(ge=1e-6, lt=1)] = 0.001
    exact: ClassVar[bool] = False

    def at_most(self, d: int) -> int:
        """Return 2 k, or k if trimmed; of more that exceed the last threshold, the largest are said."""
        return min(d, (1 if self.trim else 2) * count(self.ratio, d))

    def bound(self, d: int) -> float:
        """Return 1: where bisection ends early, nothing may be chosen."""
        return 1.0 if d else 0.0

    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the indices of what exceeds the threshold, ascending.

        Counts are compared with 2 k at most, so the 2 k largest are found first, and all else is done on them.
        """
        d, k = len(x), count(self.ratio, len(x))
        if not d:
            return torch.empty(0, dtype=torch.int64, device=x.device)
        mean, top = selection.mean_and_largest_magnitude(x)
        candidates = selection.largest(x, min(d, 2 * k))
        ordered = candidates.magnitudes.sort().values
        low, high, threshold = 0.0, 1.0, mean
        while high - low > self.tolerance:
            middle = (low + high) / 2
            threshold = mean + middle * (top - mean)
            exceed = len(ordered) - int(torch.searchsorted(ordered, threshold, right=True))
            if k < exceed < 2 * k:
                break
            low, high = (low, middle) if exceed <= k else (middle, high)
        return selection.most(candidates.above(threshold), self.at_most(d)).indices


EXAMPLES = (Redsync(0.1), Redsync(0.1, trim=True), Redsync(0.3, tolerance=0.2))
