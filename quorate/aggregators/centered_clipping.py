"""Centered clipping: from where the last meeting ended, step by at most `radius` towards each update, on average.

Source: Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021, algorithm 2.
Attacks that hide in the spread of one step's updates, as ALIE does, add up over steps; what is remembered from the last
meeting is what holds against them, the more so if workers say momenta. It knows nothing of f but to check it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import hypot

import torch
from torch import Tensor

from quorate.aggregators import given, needs, withstands
from quorate.aggregators._blocks import BLOCK, computed_in, in_blocks, length
from quorate.aggregators._screening import check, screened
from quorate.aggregators.median import median
from quorate.wire import Opens


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
@given("last")
def centered_clipping(
    updates: Tensor,
    weights: Tensor | None = None,
    *,
    f: int,
    radius: float,
    steps: int = 1,
    last: Tensor | None = None,
) -> Tensor:
    """Return v after some steps v <- v + mean of (x_i - v) min(1, radius / |x_i - v|).

    Each step moves by at most `radius`, of which f updates decide at most f * radius / n. Take for it the distance that
    an honest update usually has from the last combination: if it is much smaller, v lags behind; if much larger, this
    is the mean. Updates that are changes of a model shrink as it learns, and so should the radius.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out. With fewer than
            n / 2, steps come to rest no further than f * radius / (n - f) from the honest updates, if those are
            in one place; the paper's own theorem is about f <= n / 10.
        radius: in the updates' unit, the Euclidean norm above which a difference is clipped; more than 0.
        steps: how many; at least 1.
        last: (d,), what the meeting before has come to; None: start from the coordinate median.

    Returns:
        (d,), of the updates' dtype.

    Raises:
        ValueError: if there are no updates, weights or `last` don't fit them, or radius or steps are out of range.
        RunError: if f is too large, or more than f updates are not finite.

    Reads the updates steps + 1 times.
    """
    check(centered_clipping, updates, weights, f)
    if not 0 < radius < float("inf") or steps < 1:
        raise ValueError(f"centered_clipping needs a radius above 0 and steps >= 1; got {radius} and {steps}")
    if last is not None and last.shape != updates.shape[1:]:
        raise ValueError(f"centered_clipping needs last of shape {tuple(updates.shape[1:])}, got {tuple(last.shape)}")
    rows, _ = screened(updates, f)
    centre = (median(updates, f=f) if last is None else last.detach()).to(computed_in(updates), copy=True)
    shares: list[float] = []
    for step in range(steps + 1):
        distances = _moved(updates.detach(), rows, centre, shares, measure=step < steps)
        shares = [min(1.0, radius / distance if distance else 1.0) / len(rows) for distance in distances]
    return centre.to(updates.dtype)


def _moved(
    updates: Tensor, rows: Sequence[int], centre: Tensor, shares: Sequence[float], *, measure: bool
) -> list[float]:
    """Move the centre (d,) by shares, if there are any, of the rows' differences from it; return, if asked to, how far
    it is from each row then."""
    found = [[0.0] * -(-len(centre) // BLOCK) for _ in rows]

    def work(blocks: Sequence[slice]) -> None:
        for block in blocks:
            here, columns = centre[block], updates[:, block].unbind(0)
            if shares:
                here.mul_(1 - sum(shares))
                for row, share in zip(rows, shares, strict=True):
                    here.add_(columns[row], alpha=share)
            if measure:
                for row, norms in zip(rows, found, strict=True):
                    norms[block.start // BLOCK] = length(torch.sub(columns[row], here))

    in_blocks(updates, work)
    return [hypot(*norms) for norms in found]


EXAMPLES = tuple(partial(centered_clipping, f=2, radius=radius, steps=steps) for radius, steps in ((0.5, 1), (2.0, 3)))
