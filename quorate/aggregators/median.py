"""Coordinate median: in every coordinate, the value in the middle.

Source: Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning: towards optimal statistical rates",
ICML 2018, definition 1. If workers' data differ much, it is drawn to 0 where few of them have a say in a coordinate.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._lanes import average, by_rank
from quorate.aggregators._screening import check, screened
from quorate.wire import Opens


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
def median(updates: Tensor, weights: Tensor | None = None, *, f: int) -> Tensor:
    """Return the median of every coordinate; of an even number of updates, the mean of the two middle values.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out. In every
            coordinate, the result lies between values that honest workers have said.

    Returns:
        (d,), of the updates' dtype.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is too large, or more than f updates are not finite.
    """
    check(median, updates, weights, f)
    rows, _ = screened(updates, f)
    first, last = (len(rows) - 1) // 2, len(rows) // 2
    middle = frozenset((first, last))
    return by_rank(updates, rows, frozenset(), middle, lambda values, out: average(values[first : last + 1], out))


EXAMPLES = (partial(median, f=3), partial(median, f=1))
