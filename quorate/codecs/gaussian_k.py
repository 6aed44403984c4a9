"""Gaussian-k sparsification: send what exceeds a threshold that about k entries of a normal distribution would exceed.

If far from k entries exceed it, because they are not distributed normally, it is corrected by fixed factors. Error
feedback makes many entries fall just short of the last threshold, where such a factor goes from far too many to almost
none: then, unlike in the source, the k largest of those that exceed the lowest threshold tried are sent.

Also unlike in the source, which reads all entries for mean and deviation and again to count for each threshold, mean
and deviation are those of a sample, and one pass finds the largest entries, on which all thresholds are counted.

Source: Shi, Chu, Cheung and See, "Understanding top-k sparsification in distributed deep learning", arXiv 1911.08772,
2019, algorithm 1, with the constants of the authors' code. Biased; use it inside `error_feedback`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from quorate import selection
from quorate.codecs._sparsifier import Sparsifier, count, four_thirds
from quorate.codecs.top_k import Ratio
from quorate.rand import At

_LOWER, _HIGHER = 0.5, 1.5
_SHORT = 10_000  # entries; of fewer, torch finds the largest sooner than a sample is made


@dataclass(frozen=True)
class GaussianK(Sparsifier):
    """Say about k entries of the largest absolute values: all above one threshold, but at most 4 k / 3.

    Args:
        ratio: k / d.
        corrections: how often the threshold is halved if fewer than 2 k / 3 exceed it, or multiplied by 1.5 if more
            than 4 k / 3 do.
        sample: entries that mean and deviation are of, at least; of an update with fewer than twice as many, all are.
            The deviation of as many normal numbers errs by 0.3 %, where a correction is by 50 %.
    """

    ratio: Ratio = 0.001
    corrections: Annotated[int, Field(ge=0, le=100)] = 3
    sample: Annotated[int, Field(ge=1)] = 65_536
    exact: ClassVar[bool] = False

    def at_most(self, d: int) -> int:
        """Return 4 k / 3; if more exceed the last threshold, the largest of them are said."""
        return four_thirds(count(self.ratio, d), d)

    def bound(self, d: int) -> float:
        """Return 1: of entries that are far from distributed normally, it may choose none."""
        return 1.0 if d else 0.0

    def bell_shaped_bound(self, d: int) -> float:
        """Return (1 - k / d)^2, which holds where k or more are chosen and the entries are as `top_k` says."""
        return (1 - count(self.ratio, d) / d) ** 2 if d else 0.0

    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the indices of what exceeds the threshold, ascending.

        Counts are compared with 4 k / 3 at most, so that one more than these of the largest entries tell them all.
        """
        d, k = len(x), count(self.ratio, len(x))
        if not d:
            return torch.empty(0, dtype=torch.int64, device=x.device)
        sample = x if d < 2 * self.sample else selection.strided(x, self.sample, at.own.fold("gaussian_k", d).seed, 1)
        mean, deviation = selection.moments(sample)
        lowest = threshold = abs(mean) + deviation * NormalDist().inv_cdf(1 - k / (2 * d))
        find = selection.plain_largest if d < _SHORT else selection.at_least
        candidates = find(x, min(d, self.at_most(d) + 1))
        magnitudes = candidates.magnitudes.cpu().numpy()

        def exceed(threshold: float) -> int:
            return int(np.count_nonzero(magnitudes > threshold))

        chosen = exceed(threshold)
        for _ in range(self.corrections):
            if 2 * k <= 3 * chosen <= 4 * k:
                break
            threshold *= _LOWER if chosen < k else _HIGHER
            lowest, chosen = min(lowest, threshold), exceed(threshold)
        if 3 * chosen < 2 * k:
            chosen = min(k, exceed(lowest))
        return selection.most(candidates, min(chosen, self.at_most(d))).indices


EXAMPLES = (GaussianK(0.1), GaussianK(1.0), GaussianK(), GaussianK(0.1, sample=8))
