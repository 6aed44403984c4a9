"""Workers with much and workers with little data, all drawn from the same distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quorate.errors import RecipeError
from quorate.partitions._common import by_owner, require_workers
from quorate.rand import Rand
from quorate.tasks import Data


def by_size(
    data: Data, size: int, rand: Rand, *, sizes: tuple[float, ...] | None = None, exponent: float = 1.0
) -> list[Tensor]:
    """Divide samples at random into parts of given proportions, each of at least one sample.

    Args:
        data: what is divided.
        size: number of workers.
        rand: the stream that decides who gets which samples.
        sizes: (size,), proportional to the sizes of the parts, in the order of the ranks.
        exponent: without sizes, the part of rank r is proportional to (r + 1)^-exponent; 0 makes all equal.

    Returns:
        Per worker sorted indices into the data. Sizes are rounded by largest remainders, so that proportions that
        come out whole are met exactly.

    Raises:
        RecipeError: if there is no worker or fewer samples than workers, if there is not one positive, finite size
            per worker, or if the exponent is negative or not finite.
    """
    require_workers(data, size)
    if sizes is not None and len(sizes) != size:
        raise RecipeError(
            f"`by_size` needs one size per worker, {size}; got {len(sizes)}", "leave out `sizes` for a power law"
        )
    if sizes is not None and not all(0 < part < math.inf for part in sizes):
        raise RecipeError(f"sizes are positive, finite numbers; got {list(sizes)}", "leave out `sizes` for a power law")
    if not 0 <= exponent < math.inf:
        raise RecipeError(f"exponent is a number from 0 up; got {exponent}", "set exponent = 1.0")
    weights = sizes if sizes is not None else tuple((rank + 1.0) ** -exponent for rank in range(size))
    counts = _counts(len(data), torch.tensor(weights, dtype=torch.float64))
    owner = torch.empty(len(data), dtype=torch.int64)
    owner[torch.randperm(len(data), generator=rand.generator())] = torch.arange(size).repeat_interleave(counts)
    return by_owner(owner, size)


def _counts(n: int, weights: Tensor) -> Tensor:
    """Divide n by largest remainders; whoever gets nothing takes one of the largest part."""
    weights = weights / weights.max()
    ideal = n * (weights / weights.sum())
    counts = ideal.long()
    order = (counts - ideal).argsort(stable=True)
    counts[order[: n - int(counts.sum())]] += 1
    for worker in (counts == 0).nonzero()[:, 0].tolist():
        counts[counts.argmax()] -= 1
        counts[worker] += 1
    return counts
