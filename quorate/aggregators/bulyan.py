"""Bulyan: Krum chooses n - 2f updates one after the other, of which each coordinate's middle is averaged.

Source: El Mhamdi, Guerraoui and Rouault, "The hidden vulnerability of distributed learning in Byzantium", ICML 2018,
section 4. An update that is close to the others in Euclidean distance may be far off in one coordinate; the second
step leaves such values out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._distances import geometry
from quorate.aggregators._lanes import average, by_rank
from quorate.aggregators.krum import by_support
from quorate.wire import Opens


@needs(Opens.EACH)
@withstands(lambda n: (n - 3) // 4)
def bulyan(updates: Tensor, weights: Tensor | None = None, *, f: int) -> Tensor:
    """Return, for every coordinate, the mean of the n - 4f values closest to the median of those that Krum chooses.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 4f + 3; as many may be not finite, and are left out: each of these
            counts as one of the f.

    Returns:
        (d,), of the updates' dtype. Of two values that are equally far from the median, the smaller one is taken.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is too large, or more than f updates are not finite.
    """
    found = geometry(bulyan, updates, weights, f)
    chosen = sorted(found.rows[place] for place in one_by_one(found.squares, found.f))
    return middle(updates, chosen, 2 * found.f)


def one_by_one(squares: Tensor, f: int) -> list[int]:
    """Return the m - 2f rows that Krum chooses, each among those that are left; squares are (m, m).

    As fewer are left, fewer neighbours count: all but f + 1 of the others, and one at least.
    """
    left, chosen = list(range(len(squares))), list[int]()
    while len(left) > 2 * f:
        among = squares[left][:, left]
        first = by_support(among, max(1, len(left) - f - 2))[0] if len(left) > 1 else 0
        chosen.append(left.pop(first))
    return chosen


def middle(updates: Tensor, rows: Sequence[int], drop: int) -> Tensor:
    """Return the mean (d,) of all but `drop` of the values of some rows, those closest to their median.

    These are neighbours in sorted order: if of the values i and i + kept, by rank, the latter is closer to the median,
    the run begins after i. So there are `kept` slots, where a value gives way to the one `kept` ranks above it.
    """
    n = len(rows)
    kept = n - drop
    centre = frozenset(((n - 1) // 2, n // 2)) if drop else frozenset[int]()
    outer = frozenset((*range(drop), *range(kept, n)))

    def combine(values: Sequence[Tensor], out: Tensor) -> None:
        median = torch.empty_like(out)
        average(values[(n - 1) // 2 : n // 2 + 1], median)
        slots = list(values[:kept])
        for rank in range(drop):
            low, high = values[rank], values[rank + kept]
            slots[rank % kept] = torch.where(median - low > high - median, high, slots[rank % kept])
        average(slots, out)

    return by_rank(updates, rows, centre | outer, frozenset(range(n)) - outer - centre, combine)


EXAMPLES = (partial(bulyan, f=1), partial(bulyan, f=0))
