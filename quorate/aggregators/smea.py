"""SMEA, smallest maximum eigenvalue averaging: the mean of those n - f updates that vary least along any direction.

Source: Allouah, Guerraoui, Gupta, Pinot and Stephan, "On the privacy-robustness-utility trilemma in distributed
learning", ICML 2023.

All sets of n - f updates are compared, but few eigenvalues computed: along a given direction a set's variance is a sum
over the f updates that it lacks, and never more than its greatest eigenvalue. Each set whose eigenvalue is computed
gives a direction, by which most others are found to be worse than the best so far.
"""

from __future__ import annotations

from functools import partial
from math import comb, inf

import torch
from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._distances import geometry, mean_of, one_thread
from quorate.errors import RunError
from quorate.wire import Opens

MOST = 2_000_000
"""The most sets that are compared."""
EXACT = 2_000
"""Up to how many sets the best is found, whatever the tolerance."""
AT_ONCE = 16
"""Sets whose eigenvalues are computed together."""


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
def smea(updates: Tensor, weights: Tensor | None = None, *, f: int, tolerance: float = 0.05) -> Tensor:
    """Return the mean of the n - f updates whose covariance has the least greatest eigenvalue.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out: each of these
            counts as one of the f. There are n! / f! (n - f)! sets, at most `MOST`.
        tolerance: if there are more than `EXACT` sets, how much greater than the least eigenvalue that of the set may
            be, as a part of it. Where updates vary about as much along all directions, this saves minutes.

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
    with one_thread():
        chosen = least_eigenvalue(found.gram, found.f, tolerance)
    return mean_of(updates, found.rows, chosen)


def least_eigenvalue(gram: Tensor, f: int, tolerance: float) -> list[int]:
    """Return m - f of m rows whose scatter has the least greatest eigenvalue, or one that is little greater.

    Args:
        gram: (m, m): inner products of the rows relative to any point.
        f: how many rows are left out.
        tolerance: how much greater than the least it may be, as a part of it; exactly the least if sets are few.
    """
    m = len(gram)
    gram = gram / gram.diagonal().max().clamp_min(1e-300)
    slack = 1.0 if comb(m, f) <= EXACT else 1 + tolerance
    best, least, directions = peeled(gram, f)
    lacking = sets(m, f)
    bounds = torch.zeros(lacking.shape[1], dtype=torch.float64)
    while True:
        for direction in directions:
            torch.maximum(bounds, along(direction, lacking), out=bounds)
            left = (bounds * slack < least).nonzero()[:, 0]
            if len(left) < len(bounds):
                lacking, bounds = lacking[:, left], bounds[left]
        if not len(bounds):
            return best.tolist()
        first = bounds.topk(min(AT_ONCE, len(bounds)), largest=False).indices
        kept = torch.stack([without(m, lacks) for lacks in lacking[:, first].T])
        values, directions = foremost(gram, kept)
        bounds[first] = inf
        winner = int(values.argmin())
        if float(values[winner]) < least:
            best, least = kept[winner], float(values[winner])


def peeled(gram: Tensor, f: int) -> tuple[Tensor, float, Tensor]:
    """Leave out f of m rows one by one, each time the one that deviates most along the direction of most variance.

    Returns:
        the rows left (m - f,), the greatest eigenvalue of their scatter, and the directions met (f + 1, m); see
        `foremost`.
    """
    held, directions = torch.arange(len(gram)), list[Tensor]()
    for _ in range(f):
        directions.append(foremost(gram, held[None])[1][0])
        positions = directions[-1][held]
        held = held[torch.arange(len(held)) != (positions - positions.mean()).abs().argmax()]
    values, last = foremost(gram, held[None])
    return held, float(values), torch.stack([*directions, last[0]])


def without(m: int, lacking: Tensor) -> Tensor:
    """Return the numbers below m but for those in `lacking`, in order."""
    kept = torch.ones(m, dtype=torch.bool)
    kept[lacking.long()] = False
    return kept.nonzero()[:, 0]


def sets(m: int, f: int) -> Tensor:
    """Return all sets of f of the numbers below m, one in each column: (f, m! / f! (m - f)!), int32."""
    columns = torch.zeros(0, 1, dtype=torch.int32)
    for size in range(f):
        last = columns[-1] if size else torch.full((1,), -1, dtype=torch.int32)
        more = m - f + size - last
        ends = more.cumsum(0)
        each = torch.arange(len(last)).repeat_interleave(more)
        step = torch.arange(int(ends[-1])) - (ends - more)[each]
        columns = torch.cat([columns[:, each], (last[each] + 1 + step)[None].int()])
    return columns


def along(positions: Tensor, lacking: Tensor) -> Tensor:
    """Return, for sets of rows, the sums of squared deviations from their mean along a direction.

    Args:
        positions: (m,): where the rows lie along it.
        lacking: (f, s): the rows that each set lacks.
    """
    positions = positions - positions.mean()
    lost, squares = torch.zeros(2, lacking.shape[1], dtype=torch.float64).unbind()
    for column in lacking:
        value = positions.index_select(0, column)
        lost += value
        squares.addcmul_(value, value)
    mean_squared = lost.square_().div_(len(positions) - len(lacking))
    return (positions @ positions) - squares - mean_squared


def foremost(gram: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the greatest eigenvalue (s,) of the scatter of sets (s, k) of rows, and where all rows lie along its
    eigenvector (s, m)."""
    among = gram[kept[:, :, None], kept[:, None, :]]
    mean = among.mean(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(among - mean - mean.mT + mean.mean(dim=2, keepdim=True))
    greatest, vector = values[:, -1].clamp_min(1e-300), vectors[:, :, -1:]
    vector = (vector - vector.mean(dim=1, keepdim=True)) * greatest[:, None, None].rsqrt()
    return greatest, (gram[kept].mT @ vector)[:, :, 0]


EXAMPLES = (partial(smea, f=2), partial(smea, f=3), partial(smea, f=0))
