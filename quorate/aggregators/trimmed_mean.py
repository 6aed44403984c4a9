"""Trimmed mean: in every coordinate, the mean without the f largest and the f smallest values.

Source: Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning: towards optimal statistical rates",
ICML 2018, definition 2, with f = beta * n.
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
def trimmed_mean(updates: Tensor, weights: Tensor | None = None, *, f: int) -> Tensor:
    """Return the mean of the n - 2f middle values of every coordinate.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out: each of these
            counts as one of the f. In every coordinate, the result lies between values that honest workers have said.

    Returns:
        (d,), of the updates' dtype.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is too large, or more than f updates are not finite.
    """
    check(trimmed_mean, updates, weights, f)
    rows, f = screened(updates, f)
    first, beyond = f, len(rows) - f
    middle = frozenset(range(first, beyond))
    return by_rank(updates, rows, frozenset(), middle, lambda values, out: average(values[first:beyond], out))


EXAMPLES = (partial(trimmed_mean, f=2), partial(trimmed_mean, f=3), partial(trimmed_mean, f=0))
