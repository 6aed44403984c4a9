"""The selection of deep gradient compression: a threshold from a random sample, and an exact one if it lets through
far too many.

Source: Lin, Han, Mao, Wang and Dally, "Deep gradient compression", ICLR 2018, section 3. Its momentum correction,
factor masking and warm-up are settings of `error_feedback`, inside which this codec is to be used: it is biased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quorate import selection
from quorate.codecs._sparsifier import Sparsifier, count, four_thirds
from quorate.codecs.top_k import Ratio
from quorate.rand import At

_JUST_BELOW = 1 - 2**-20  # so that the sample's own entry is among those that exceed the threshold


@dataclass(frozen=True)
class DgcSample(Sparsifier):
    """Say about k entries of the largest absolute values; exactly k if more than 4 k / 3 exceed the threshold.

    Args:
        ratio: k / d.
        sample: the part of the entries that the threshold is read off, drawn with replacement; the source takes
            0.001 to 0.01. The number of entries chosen errs by about 1 / sqrt(sample * k) of k.
    """

    ratio: Ratio = 0.001
    sample: Ratio = 0.01
    exact: ClassVar[bool] = False

    def at_most(self, d: int) -> int:
        """Return 4 k / 3."""
        return four_thirds(count(self.ratio, d), d)

    def bound(self, d: int) -> float:
        """Return 1 - 1 / d: the largest entry is always chosen, and perhaps no other."""
        return 1 - 1 / d if d else 0.0

    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the indices of what is not below the threshold, ascending."""
        d, k, size = len(x), count(self.ratio, len(x)), count(self.sample, len(x))
        if not d:
            return torch.empty(0, dtype=torch.int64, device=x.device)
        drawn = torch.randint(d, (size,), generator=at.own.fold("dgc_sample", d).generator()).to(x.device)
        threshold = selection.threshold_of(selection.entries(x, drawn), count(self.ratio, size))
        found = selection.above(x, threshold * _JUST_BELOW)
        if not len(found.indices):
            return selection.largest(x, k).indices
        return (selection.most(found, k) if 3 * len(found.indices) > 4 * k else found).indices


EXAMPLES = (DgcSample(0.1), DgcSample(0.1, sample=0.5), DgcSample())
