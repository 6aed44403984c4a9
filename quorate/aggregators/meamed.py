"""Meamed, the mean around the median: in every coordinate, the mean of the n - f values closest to the median.

Source: Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", arXiv:1802.10116, 2018, definition 9 (from memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._lanes import average, by_rank
from quorate.aggregators._screening import check, screened
from quorate.wire import Opens


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
def meamed(updates: Tensor, weights: Tensor | None = None, *, f: int) -> Tensor:
    """Return the mean of the n - f values of every coordinate that are closest to their median.

    These are neighbours in sorted order. All such runs of n - f values hold the n - 2f in the middle, and the closest
    one holds, of the value with i smaller ones and the one with i + n - f smaller ones, i < f, that which is closer to
    the median: so one comparison for each i finds it.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out: each of these
            counts as one of the f. Of two values that are equally far from the median, the smaller one is taken.

    Returns:
        (d,), of the updates' dtype.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is too large, or more than f updates are not finite.
    """
    check(meamed, updates, weights, f)
    rows, f = screened(updates, f)
    n = len(rows)
    centre = frozenset(((n - 1) // 2, n // 2)) if f else frozenset()
    outer = frozenset((*range(f), *range(n - f, n)))

    def combine(values: Sequence[Tensor], out: Tensor) -> None:
        middle = torch.empty_like(out)
        average(values[(n - 1) // 2 : n // 2 + 1], middle)
        closer = [
            torch.where(middle - low > high - middle, high, low)
            for low, high in zip(values[:f], values[n - f :], strict=True)
        ]
        average([*values[f : n - f], *closer], out)

    return by_rank(updates, rows, centre | outer, frozenset(range(f, n - f)) - centre, combine)


EXAMPLES = (partial(meamed, f=2), partial(meamed, f=3), partial(meamed, f=0))
