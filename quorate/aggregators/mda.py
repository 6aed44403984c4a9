"""MDA, minimum-diameter averaging: the mean of those n - f updates of which no two are far apart.

Source: El Mhamdi, Guerraoui, Guirguis, Hoang and Rouault, "Genuinely distributed Byzantine machine learning", PODC
2020.

To leave out f updates so that no pair farther apart than t is left is to cover the edges of a graph, the pairs farther
apart than t, by f of its vertices. The least such t is found by bisection over the distances, and covers by a search
that branches on an update with most edges: either it is left out, or all are that it is too far from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._distances import geometry, mean_of
from quorate.wire import Opens

MOST = 5000
"""The most sets of equal diameter that are compared."""


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
def mda(updates: Tensor, weights: Tensor | None = None, *, f: int) -> Tensor:
    """Return the mean of the n - f updates with the least diameter, found exactly.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out: each of these
            counts as one of the f. The search takes milliseconds for tens of updates; its time grows exponentially with
            f where distances are all about the same.

    Returns:
        (d,), of the updates' dtype. Of several sets of the same diameter, the one with the least sum of squared
        distances, among the first `MOST` of them.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is too large, or more than f updates are not finite.
    """
    found = geometry(mda, updates, weights, f)
    return mean_of(updates, found.rows, least_diameter(found.squares, found.f))


def least_diameter(squares: Tensor, f: int) -> list[int]:
    """Return which m - f of m rows have the least diameter, from their squared distances (m, m)."""
    table = squares.tolist()
    lengths = sorted({0.0, *squares.flatten().tolist()})
    place = bisect_left(lengths, True, key=lambda length: next(covers(apart(table, length), f), None) is not None)
    best, least = list[int](), float("inf")
    for cover in islice(covers(apart(table, lengths[place]), f), MOST):
        kept = thinned(squares, [row for row in range(len(table)) if not cover >> row & 1], len(table) - f)
        spread = float(squares[kept][:, kept].sum())
        if spread < least:
            best, least = kept, spread
    return best


def apart(table: Sequence[Sequence[float]], length: float) -> list[int]:
    """Return, for every row, the rows that are farther from it than a squared length, as bits."""
    return [sum(1 << other for other, far in enumerate(row) if far > length) for row in table]


def covers(graph: list[int], size: int) -> Iterator[int]:
    """Find sets of at most `size` vertices that touch every edge; of those that are no larger than need be, all.

    Args:
        graph: each vertex's neighbours, as bits.

    Yields:
        vertices as bits; one set may come several times.
    """
    degrees = [near.bit_count() for near in graph]
    edges, top = sum(degrees) // 2, max(degrees, default=0)
    if edges == 0:
        yield 0
        return
    if sum(sorted(degrees)[-size:] if size else ()) < edges:
        return
    vertex = degrees.index(top)
    for taken in (1 << vertex, graph[vertex]):
        if taken.bit_count() <= size:
            left = [0 if taken >> each & 1 else near & ~taken for each, near in enumerate(graph)]
            for rest in covers(left, size - taken.bit_count()):
                yield taken | rest


def thinned(squares: Tensor, rows: list[int], number: int) -> list[int]:
    """Return that number of rows: those that are farthest from the others, by squared distances, are left out first."""
    while len(rows) > number:
        farthest = int(squares[rows][:, rows].sum(dim=1).argmax())
        rows = rows[:farthest] + rows[farthest + 1 :]
    return rows


EXAMPLES = (partial(mda, f=2), partial(mda, f=3), partial(mda, f=0))
