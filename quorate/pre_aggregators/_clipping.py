"""Shorter updates: rows scaled down to a greatest Euclidean norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from quorate.aggregators._blocks import in_blocks, times


def shortened(updates: Tensor, norms: Mapping[int, float], radius: float) -> Tensor:
    """Return updates (n, d) of which rows with a norm above the radius are scaled down to it.

    Args:
        norms: of rows, by their places; a row without one stays as it is.

    Returns:
        (n, d), of the updates' dtype; the updates themselves if no row is too long.
    """
    factors = {row: radius / norm for row, norm in norms.items() if norm > radius}
    if not factors:
        return updates
    clipped = updates.detach().clone()

    def work(blocks: Sequence[slice]) -> None:
        for block in blocks:
            for row, factor in factors.items():
                times(clipped[row, block], factor, clipped[row, block])

    in_blocks(updates, work)
    return clipped
