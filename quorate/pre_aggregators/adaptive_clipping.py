"""Adaptive robust clipping, ARC: the longest updates are made as short as the longest of the others.

Source: Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan, "Adaptive gradient clipping for robust federated
learning", ICLR 2025, section 3: an (f, kappa)-robust rule is (f, kappa + 2f / (n - 2f))-robust after it (quoted from
memory, and tested on random data).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from quorate.aggregators import withstands
from quorate.aggregators._blocks import lengths
from quorate.aggregators._screening import check_f, check_updates, screened
from quorate.pre_aggregators._clipping import shortened


@withstands(lambda n: (n - 1) // 2)
def adaptive_clipping(updates: Tensor, *, f: int) -> Tensor:
    """Return the updates, the floor(2 f (n - f) / n) longest of them scaled down to the norm of the next longest.

    Args:
        updates: (n, d), of any float dtype. Rows that are not finite stay as they are, for the aggregator to leave out,
            and are counted neither in n nor in f here.
        f: how many updates may be arbitrary, n >= 2f + 1.

    Returns:
        (n, d), of the updates' dtype; the updates themselves if none is too long.

    Raises:
        ValueError: if there are no updates.
        RunError: if f is too large, or more than f updates are not finite.
    """
    check_updates("adaptive_clipping", updates)
    check_f(adaptive_clipping, len(updates), f)
    rows, f = screened(updates, f)
    n, norms = len(rows), lengths(updates, rows)
    radius = sorted(norms, reverse=True)[2 * f * (n - f) // n]
    return shortened(updates, dict(zip(rows, norms, strict=True)), radius)


EXAMPLES = (partial(adaptive_clipping, f=2), partial(adaptive_clipping, f=3))
