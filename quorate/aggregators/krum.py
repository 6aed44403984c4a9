"""Krum: the update whose nearest neighbours are nearest.

Source: Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries: Byzantine tolerant gradient
descent", NeurIPS 2017, section 4. One worker's update is followed: f arbitrary ones do little harm, but nothing is
averaged, so that its noise is that of a single update.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._distances import geometry
from quorate.wire import Opens


@needs(Opens.EACH)
@withstands(lambda n: (n - 3) // 2)
def krum(updates: Tensor, weights: Tensor | None = None, *, f: int, nearest: int | None = None) -> Tensor:
    """Return the update with the least sum of squared distances to its nearest neighbours.

    Args:
        updates: (n, d), one row per worker, of any float dtype.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 3; as many may be not finite, and are left out: each of these
            counts as one of the f.
        nearest: how many neighbours count, 1 .. n - f - 1; None: n - f - 2, as in the paper.

    Returns:
        (d,), one of the rows. Of equal sums, the one with the least sum to one more neighbour; at last, the first.

    Raises:
        ValueError: if there are no updates, the weights don't fit them, or nearest is out of range.
        RunError: if f is too large, or more than f updates are not finite.
    """
    found = geometry(krum, updates, weights, f)
    nearest = counted("krum", nearest, len(updates) - f)
    return updates[found.rows[by_support(found.squares, nearest)[0]]].clone()


def counted(name: str, nearest: int | None, honest: int) -> int:
    """Return how many neighbours count of those that `honest` updates have at least: honest - 1."""
    if nearest is None:
        return honest - 2
    if not 1 <= nearest < honest:
        raise ValueError(f"{name} needs nearest = 1 .. {honest - 1} here, where n - f = {honest}; got {nearest}")
    return nearest


def by_support(squares: Tensor, nearest: int) -> list[int]:
    """Return the rows in the order of the sums of their squared distances to `nearest` neighbours, least first.

    Args:
        squares: (m, m), float64.
        nearest: 1 .. m - 1. Where these sums are the same, as they are of two rows that are each other's only
            neighbour, that to one neighbour more decides; where all are, the place.
    """
    sums = squares.sort(dim=1).values[:, 1:].cumsum(dim=1)[:, nearest - 1 :].tolist()
    return sorted(range(len(sums)), key=sums.__getitem__)


EXAMPLES = (partial(krum, f=2), partial(krum, f=0), partial(krum, f=1, nearest=5))
