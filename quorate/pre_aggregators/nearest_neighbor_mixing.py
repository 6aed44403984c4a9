"""Nearest-neighbour mixing: every update is replaced by the mean of the n - f updates nearest to it.

Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan, "Fixing by mixing: a recipe for optimal Byzantine ML
under heterogeneity", AISTATS 2023, algorithm 2. Honest updates that differ by nature come closer to one another, so
that whatever aggregates them has less to mistake for an attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from quorate.aggregators import withstands
from quorate.aggregators._blocks import computed_in, in_blocks
from quorate.aggregators._distances import LENGTH, geometry, one_thread_each


@withstands(lambda n: (n - 1) // 2)
def nearest_neighbor_mixing(updates: Tensor, *, f: int) -> Tensor:
    """Return the mean of every update and those nearest to it, n - f together.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite: these are nobody's neighbours.

    Returns:
        (n, d), of the updates' dtype. Rows that are not finite stay as they are, for whatever aggregates them to leave
        out and to count. Of updates that are equally far, the first ones are taken.

    Raises:
        ValueError: if there are no updates.
        RunError: if f is too large, or more than f updates are not finite.
    """
    found = geometry(nearest_neighbor_mixing, updates, None, f)
    updates, n = updates.detach(), len(updates)
    nearest = found.squares.sort(dim=1, stable=True).indices[:, : n - f]
    shares = torch.zeros(len(found.rows), len(found.rows), dtype=torch.float64).scatter_(1, nearest, 1 / (n - f))
    mixing = shares.to(updates.device, computed_in(updates))
    mixed = torch.empty_like(updates)
    whole = len(found.rows) == n

    def work(blocks: Sequence[slice]) -> None:
        for block in blocks:
            columns = updates[:, block]
            if whole and updates.dtype == mixing.dtype:
                torch.mm(mixing, columns, out=mixed[:, block])
                continue
            mixed[:, block] = columns
            mixed[found.rows, block] = (mixing @ columns[found.rows].to(mixing.dtype)).to(updates.dtype)

    in_blocks(updates, one_thread_each(work), LENGTH)
    return mixed


EXAMPLES = (partial(nearest_neighbor_mixing, f=2), partial(nearest_neighbor_mixing, f=3))
