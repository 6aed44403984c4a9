"""Bucketing: updates are put in buckets by chance, and the buckets' means are aggregated.

Source: Karimireddy, He and Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR 2022,
algorithm 1. Means of several honest updates differ less than these do, but f arbitrary updates spoil up to f buckets:
with buckets of `size` updates, the aggregator withstands about 1 / size of what it would.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from quorate.aggregators import given
from quorate.aggregators._blocks import computed_in, in_blocks
from quorate.aggregators._lanes import average
from quorate.aggregators._screening import check_updates
from quorate.rand import Rand


@given("rand")
def bucketing(updates: Tensor, *, size: int, rand: Rand) -> Tensor:
    """Return the means of buckets that updates are dealt out to.

    Args:
        updates: (n, d), of any float dtype; half precision is computed in float32. A row that is not finite makes its
            bucket so, which the aggregator leaves out.
        size: how many updates a bucket holds; the last one may hold fewer.
        rand: which updates meet in a bucket.

    Returns:
        (ceil(n / size), d), of the updates' dtype.

    Raises:
        ValueError: if there are no updates, or size is below 1.
    """
    check_updates("bucketing", updates)
    if size < 1:
        raise ValueError(f"bucketing needs a size of at least 1, got {size}")
    n, wide = len(updates), computed_in(updates)
    order = torch.randperm(n, generator=rand.fold("bucketing").generator()).tolist()
    buckets = [order[first : first + size] for first in range(0, n, size)]
    means = updates.new_empty(len(buckets), updates.shape[1])

    def work(blocks: Sequence[slice]) -> None:
        for block in blocks:
            columns = updates.detach()[:, block].unbind(0)
            out = torch.empty_like(columns[0], dtype=wide)
            for mean, bucket in zip(means[:, block].unbind(0), buckets, strict=True):
                average([columns[row] for row in bucket], out)
                mean.copy_(out)

    in_blocks(updates, work)
    return means


EXAMPLES = (partial(bucketing, size=2), partial(bucketing, size=3))
