"""MoNNA's aggregation: the mean of the n - f updates that are nearest to a trusted one.

Source: Farhadkhani, Guerraoui, Gupta, Hoang, Pinot and Stephan, "Robust collaborative learning with linear gradient
overhead", ICML 2023 (nearest-neighbour averaging). Where each worker combines what it has received, the trusted update
is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import hypot, isfinite

import torch
from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._blocks import BLOCK, computed_in, in_blocks, length
from quorate.aggregators._distances import mean_of
from quorate.aggregators._screening import check, finite_rows, left_of
from quorate.errors import RunError
from quorate.wire import Opens


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
def monna(updates: Tensor, weights: Tensor | None = None, *, f: int, own: int = 0) -> Tensor:
    """Return the mean of the n - f updates nearest to the trusted one, itself among them.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out: each of these
            counts as one of the f.
        own: the row that is trusted, 0 .. n - 1. If it is not to be trusted, nor is the result.

    Returns:
        (d,), of the updates' dtype. Of updates that are equally far, the first ones are taken.

    Raises:
        ValueError: if there are no updates, the weights don't fit them, or own is out of range.
        RunError: if f is too large, more than f updates are not finite, or the trusted one is not.
    """
    check(monna, updates, weights, f)
    n = len(updates)
    if not 0 <= own < n:
        raise ValueError(f"monna needs own = 0 .. {n - 1}, the row of {n} that is trusted; got {own}")
    far = distances_to(updates, own)
    rows = list(range(n))
    if not all(map(isfinite, far)):
        rows, _ = left_of(finite_rows(updates), n, f)
    if own not in rows:
        raise RunError(
            f"the update of rank {own}, which monna trusts, is not finite",
            "find out why this worker says NaN or infinity, e.g. too large a learning rate",
        )
    order = sorted(range(len(rows)), key=lambda place: (far[rows[place]], rows[place] != own))
    return mean_of(updates, rows, order[: n - f])


def distances_to(updates: Tensor, row: int) -> list[float]:
    """Return the Euclidean distances of all rows of updates (n, d) to one; NaN or infinity if those are not finite."""
    d, wide = updates.shape[1], computed_in(updates)
    updates = updates.detach()
    parts = [[0.0] * -(-d // BLOCK) for _ in updates]

    def work(blocks: Sequence[slice]) -> None:
        for block in blocks:
            columns = updates[:, block].unbind(0)
            trusted = columns[row].to(wide)
            less = torch.empty_like(trusted)
            for column, norms in zip(columns, parts, strict=True):
                norms[block.start // BLOCK] = length(torch.sub(column, trusted, out=less))

    in_blocks(updates, work)
    return [hypot(*norms) for norms in parts]


EXAMPLES = (partial(monna, f=2), partial(monna, f=3, own=1))
