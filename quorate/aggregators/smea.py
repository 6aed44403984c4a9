"""SMEA, smallest maximum eigenvalue averaging: the mean of those n - f updates that vary least along any direction.

Source: Allouah, Guerraoui, Gupta, Pinot and Stephan, "On the privacy-robustness-utility trilemma in distributed
learning", ICML 2023.

All sets of n - f updates are compared, but few eigenvalues computed: along a given direction a set's variance is a sum
over the f updates that it lacks, and never more than its greatest eigenvalue. Each set whose eigenvalue is computed
gives a direction, by which most others are found to be worse than the best so far.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, combinations
from math import comb, inf

import numpy as np
import torch
from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._distances import geometry, mean_of
from quorate.errors import RunError
from quorate.wire import Opens

MOST = 2_000_000
"""The most sets that are compared."""
AT_ONCE = 16
"""Sets whose eigenvalues are computed together."""


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
def smea(updates: Tensor, weights: Tensor | None = None, *, f: int) -> Tensor:
    """Return the mean of the n - f updates whose covariance has the least greatest eigenvalue, found exactly.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out: each of these
            counts as one of the f. There are n! / f! (n - f)! sets, at most `MOST`.

    Returns:
        (d,), of the updates' dtype.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is too large, there are too many sets, or more than f updates are not finite.
    """
    if len(updates) > 1 and 0 <= f <= (len(updates) - 1) // 2 and comb(len(updates), f) > MOST:
        raise RunError(
            f"smea with f = {f} would compare {comb(len(updates), f):,} sets of {len(updates) - f} of {len(updates)} "
            f"updates, but no more than {MOST:,} are",
            'set name = "caf", which also bounds the variance along all directions, in little time',
        )
    found = geometry(smea, updates, weights, f)
    return mean_of(updates, found.rows, least_eigenvalue(found.gram, found.f))


def least_eigenvalue(gram: Tensor, f: int) -> list[int]:
    """Return the m - f of m rows whose scatter has the least greatest eigenvalue, from inner products (m, m)."""
    m = len(gram)
    gram = gram / gram.diagonal().max().clamp_min(1e-300)
    count = comb(m, f)
    lacking = np.fromiter(chain.from_iterable(combinations(range(m), f)), np.int16, count * f)
    left = torch.from_numpy(lacking).view(count, f)
    bounds = along(gram.new_zeros(m), left)
    rows = torch.arange(m)
    best, least = rows[: m - f], inf
    while len(left):
        first = bounds.topk(min(AT_ONCE, len(bounds)), largest=False).indices
        kept = torch.stack([rows[~torch.isin(rows, lacks)] for lacks in left[first].long()])
        values, directions = foremost(gram, kept)
        winner = int(values.argmin())
        if float(values[winner]) < least:
            best, least = kept[winner], float(values[winner])
        for direction in directions:
            torch.maximum(bounds, along(direction, left), out=bounds)
        bounds[first] = inf
        open_ = bounds < least
        left, bounds = left[open_], bounds[open_]
    return best.tolist()


def along(positions: Tensor, lacking: Tensor) -> Tensor:
    """Return, for sets of rows, the sums of squared deviations from their mean along a direction.

    Args:
        positions: (m,): where the rows lie along it.
        lacking: (s, f): the rows that each set lacks.
    """
    positions = positions - positions.mean()
    lost, squares = torch.zeros(len(lacking), dtype=torch.float64), torch.zeros(len(lacking), dtype=torch.float64)
    for column in lacking.long().unbind(1):
        value = positions[column]
        lost += value
        squares += value * value
    return (positions @ positions) - squares - lost * lost / (len(positions) - lacking.shape[1])


def foremost(gram: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the greatest eigenvalue (s,) of the scatter of sets (s, k) of rows, and where all rows lie along its
    eigenvector (s, m)."""
    among = gram[kept[:, :, None], kept[:, None, :]]
    mean = among.mean(dim=1, keepdim=True)
    less = among - mean - mean.mT + mean.mean(dim=2, keepdim=True)
    values, vectors = torch.linalg.eigh(less)
    greatest, vector = values[:, -1].clamp_min(0), vectors[:, :, -1:]
    vector = vector - vector.mean(dim=1, keepdim=True)
    positions = (gram[kept].mT @ vector)[:, :, 0]
    return greatest, positions / greatest.clamp_min(1e-300).sqrt()[:, None]


EXAMPLES = (partial(smea, f=2), partial(smea, f=3), partial(smea, f=0))
