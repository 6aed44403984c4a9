"""Geometric median: the point from which the sum of the distances to all updates is least.

Source: Weiszfeld, "Sur le point pour lequel la somme des distances de n points donnes est minimum", 1937; at updates
themselves, Vardi and Zhang, "The multivariate L1-median and associated data depth", PNAS 97(4), 2000; as an aggregator,
Chen, Su and Xu, "Distributed statistical machine learning in adversarial settings", POMACS 1(2), 2017.

It lies among the updates, so it is found as their weights: all that is needed are inner products. Weiszfeld's steps are
mixed with Newton's, until the gradient shows that no point is better by a millionth of a millionth.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import sqrt

import torch
from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._distances import NEAR, Geometry, around, combined, geometry, one_thread
from quorate.wire import Opens

TOLERANCE = 1e-12
"""By how much of the sum of distances the result may be from the least."""
STEPS = 200
"""The most steps; about ten are needed."""


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
def geometric_median(updates: Tensor, weights: Tensor | None = None, *, f: int) -> Tensor:
    """Return the point with the least sum of Euclidean distances to the updates.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored.
        f: how many updates may be arbitrary, n >= 2f + 1; as many may be not finite, and are left out. The result
            depends on it in no other way.

    Returns:
        (d,), of the updates' dtype. Where several points are as good, as between the two middle ones of an even number
        on a line, the middle of the updates among them.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is too large, or more than f updates are not finite.
    """
    found = around_the_best(updates, geometry(geometric_median, updates, weights, f))
    with one_thread():
        shares = weights_of_median(found)
    return combined(updates, found.rows, (shares * found.drawn_in).tolist())


def around_the_best(updates: Tensor, found: Geometry) -> Geometry:
    """Return inner products relative to the update from which the sum of the distances to the others is least."""
    for _ in found.rows:
        best = int(at_updates(found).argmin())
        if best == found.centre:
            break
        found = exactly_around(updates, found, best)
    return found


def exactly_around(updates: Tensor, found: Geometry, best: int) -> Geometry:
    """Return inner products relative to an update: computed anew if others are so close to it that little is left."""
    gram, lengths = found.gram, found.gram.diagonal()
    close = found.squares[best] < NEAR[torch.float32] * (lengths + lengths[best])
    close[best] = False
    if bool(close.any()):
        return around(updates, found, best)
    towards = gram[best]
    gram = gram - towards - towards[:, None] + towards[best]
    gram[best] = gram[:, best] = 0
    return replace(found, gram=gram, centre=best)


def at_updates(found: Geometry) -> Tensor:
    """Return, for each update (m,), the sum of the distances from it, less that from the centre; see `cost`."""
    lengths = found.gram.diagonal()
    sums = found.squares.sqrt() + lengths.sqrt()
    return ((lengths[:, None] - 2 * found.gram) / sums.clamp_min(1e-300)).sum(dim=1)


def cost(gram: Tensor, shares: Tensor) -> float:
    """Return the sum of the distances from the mean with these weights (m,), less that from the centre.

    Each distance r less that from the centre, l, is taken as (r^2 - l^2) / (r + l), which an update that is huge
    leaves exact.
    """
    towards, lengths = gram @ shares, gram.diagonal()
    moved = shares @ towards - 2 * towards
    distances = (lengths + moved).clamp_min(0).sqrt()
    return float((moved / (distances + lengths.sqrt()).clamp_min(1e-300)).sum())


def weights_of_median(found: Geometry) -> Tensor:
    """Return the weights (m,) of the updates, of sum 1, with which their mean is the geometric median.

    Inner products are relative to the update from which the sum of the distances to the others is least.
    """
    gram, best = found.gram, found.centre
    m, away = len(gram), gram.diagonal().clamp_min(0).sqrt()
    there = away == 0
    inverse = torch.where(there, 0.0, 1 / away.clamp_min(1e-300))
    pull, held = sqrt(max(0.0, float(inverse @ gram @ inverse))), float(there.sum())
    if (pull - held) * 2 / m <= TOLERANCE:
        equal = (at_updates(found) <= TOLERANCE * m * away).double()
        return equal / equal.sum()
    # From here on the sum of distances is less than from any update, so that no update is met again.
    shares = inverse / inverse.sum() * (1 - held / pull)
    shares[best] += held / pull
    closest, least = shares, float("inf")
    for _ in range(STEPS):
        towards = gram @ shares
        inner = gram - towards - towards[:, None] + shares @ towards
        distances = inner.diagonal().clamp_min(1e-300).sqrt()
        inverse = 1 / distances
        gradient = inverse - inverse.sum() * shares
        missing = sqrt(max(0.0, float(gradient @ gram @ gradient))) * 2 / m
        if missing < least:
            closest, least = shares, missing
        if missing <= TOLERANCE:
            break
        newton = newton_step(inner, shares, distances)
        weiszfeld = inverse / inverse.sum()
        shares = newton if cost(gram, newton) <= cost(gram, weiszfeld) else weiszfeld
    return closest


def newton_step(inner: Tensor, shares: Tensor, distances: Tensor) -> Tensor:
    """Return the weights (m,) of Newton's next point.

    The Hessian at y, sum_i (I - u_i u_i') / r_i with unit vectors u_i to the updates, is inverted on their span by
    Woodbury's formula.

    Args:
        inner: (m, m): inner products relative to y.
        shares: (m,): the weights that make y.
        distances: (m,): r, from y to the updates.
    """
    inverse = 1 / distances
    total = inverse.sum()
    cosines = inverse[:, None] * inner * inverse
    system = torch.diag(distances * total * (1 + 1e-13)) - cosines
    scale = (distances * total).rsqrt()
    right = scale * cosines.sum(dim=1)
    solution: Tensor = torch.linalg.lstsq(scale[:, None] * system * scale, right[:, None]).solution[:, 0]
    change = (1 + scale * solution) * inverse / total
    return shares + change - change.sum() * shares


EXAMPLES = (partial(geometric_median, f=3), partial(geometric_median, f=0))
