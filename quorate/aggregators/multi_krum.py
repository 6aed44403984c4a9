"""Multi-Krum: the mean of the n - f updates whose nearest neighbours are nearest.

Source: Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries: Byzantine tolerant gradient
descent", NeurIPS 2017, section 4 (m-Krum), with m = n - f. What is far from most is left out, and the rest averaged.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._distances import geometry, mean_of
from quorate.aggregators.krum import by_support, counted
from quorate.wire import Opens


@needs(Opens.EACH)
@withstands(lambda n: (n - 3) // 2)
def multi_krum(updates: Tensor, weights: Tensor | None = None, *, f: int, nearest: int | None = None) -> Tensor:
    """Return the mean of the n - f updates with the least sums of squared distances to their nearest neighbours.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 3; as many may be not finite, and are left out: each of these
            counts as one of the f.
        nearest: how many neighbours count, 1 .. n - f - 1; None: n - f - 2, as in the paper.

    Returns:
        (d,), of the updates' dtype. Ties are broken as in `krum`.

    Raises:
        ValueError: if there are no updates, the weights don't fit them, or nearest is out of range.
        RunError: if f is too large, or more than f updates are not finite.
    """
    found = geometry(multi_krum, updates, weights, f)
    nearest = counted("multi_krum", nearest, len(updates) - f)
    return mean_of(updates, found.rows, by_support(found.squares, nearest)[: len(updates) - f])


EXAMPLES = (partial(multi_krum, f=2), partial(multi_krum, f=0), partial(multi_krum, f=1, nearest=5))
