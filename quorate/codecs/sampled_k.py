"""Sampled-k sparsification: send what exceeds a threshold that is read off a sample.

The sample is every so-many-th entry, from a random one on; then one pass finds about k entries. Where the sample would
hold too few large entries to tell, and where it has misled, the k largest are found exactly: so what is said is never
less than 0.97 of the energy (the sum of squares) of the k largest.

Source: the sampling of Lin et al., "Deep gradient compression", ICLR 2018, section 3, with a strided sample and without
its second selection. Biased; use it inside `error_feedback`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from quorate import selection
from quorate.codecs._sparsifier import Sparsifier, count, four_thirds
from quorate.codecs.top_k import Ratio
from quorate.rand import At

_AIM = 1.15  # of k: a sample of 65,536 errs by 12 %, and energy is lost by too few only
_FEWEST = 0.97  # of k: one in 12 samples misleads so far
_TELLING = 40  # entries above the threshold that a sample needs: their number errs by a sixth


@dataclass(frozen=True)
class SampledK(Sparsifier):
    """Say about k entries of the largest absolute values, from 0.97 k to 4 k / 3, and 1.15 k on average.

    Args:
        ratio: k / d.
        sample: entries that the threshold is read off, at most; of an update of fewer than 16 times as many, less.
    """

    ratio: Ratio = 0.001
    sample: Annotated[int, Field(ge=1)] = 65_536
    exact: ClassVar[bool] = False

    def at_most(self, d: int) -> int:
        """Return 4 k / 3; if more exceed the threshold, the largest of them are said."""
        return four_thirds(count(self.ratio, d), d)

    def bound(self, d: int) -> float:
        """Return 1 - 0.97 k / d: fewer are never chosen, and none that is left out is larger."""
        return 1 - math.ceil(_FEWEST * count(self.ratio, d)) / d if d else 0.0

    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the indices of what exceeds the threshold, ascending."""
        d, k = len(x), count(self.ratio, len(x))
        sample = selection.strided(x, self.sample, at.own.fold("sampled_k", d).seed)
        rank = round(_AIM * k * len(sample) / d) if d else 0
        if not _TELLING <= rank <= len(sample):
            return selection.largest(x, k).indices
        found = selection.above(x, selection.threshold_of(sample, rank))
        if len(found.indices) < _FEWEST * k:
            return selection.largest(x, k).indices
        return selection.most(found, self.at_most(d)).indices


EXAMPLES = (SampledK(0.1), SampledK(1.0), SampledK())
