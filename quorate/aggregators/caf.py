"""CAF, covariance-bound agnostic filter: what deviates along the direction of most variance loses weight, again and
again.

Source: Allouah, Guerraoui and Stephan, "Towards trustworthy federated learning with untrusted participants", ICML 2025,
as released in ByzFL 0.0.11 but for two things: the direction is found exactly, from the inner products, instead of by
one step of the power method from a random vector; and the largest deviation is that of an update which still has
weight, so that one is left out at every step, while there one that is out already may hold up the filter forever.
"""

from __future__ import annotations

from functools import partial
from math import inf

import torch
from torch import Tensor

from quorate.aggregators import needs, withstands
from quorate.aggregators._distances import combined, geometry, one_thread
from quorate.wire import Opens


@needs(Opens.EACH)
@withstands(lambda n: (n - 1) // 2)
def caf(updates: Tensor, weights: Tensor | None = None, *, f: int) -> Tensor:
    """Return the weighted mean with the least variance along any direction, of those met while weights shrink.

    Args:
        updates: (n, d), one row per worker, of any float dtype; half precision is computed in float32.
        weights: (n,), checked and otherwise ignored; the filter's own weights begin at 1 each.
        f: how many updates may be arbitrary, n >= 2f + 1: the filter goes on until the weights' sum is at most n - 2f.
            As many may be not finite, and are left out: each of these counts as one of the f.

    Returns:
        (d,), of the updates' dtype.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is too large, or more than f updates are not finite.
    """
    found = geometry(caf, updates, weights, f)
    with one_thread():
        shares = filtered(found.gram, found.f)
    return combined(updates, found.rows, (shares * found.drawn_in).tolist())


def filtered(gram: Tensor, f: int) -> Tensor:
    """Return each update's share (m,) in the mean, from the inner products (m, m) relative to any point.

    The covariance has the eigenvalues of the m x m matrix of inner products relative to the mean, each multiplied by
    the roots of the two weights; along its foremost eigenvector updates lie as in that matrix times the weighted one.
    """
    m = len(gram)
    held = torch.ones(m, dtype=torch.float64)
    best, least = held / m, inf
    while True:
        shares = held / held.sum()
        roots = shares.sqrt()
        less = relative(gram, shares)
        values, vectors = torch.linalg.eigh(roots[:, None] * less * roots)
        if float(values[-1]) < least:
            best, least = shares, float(values[-1])
        strays = (less @ (roots * vectors[:, -1])).square_().where(held > 0, 0)
        most = strays.max()
        if not most > 0:
            return best
        held = torch.where(strays < most * (1 - 1e-9), held * (1 - strays / most), 0.0)  # equal ones go together
        if held.sum() <= m - 2 * f:
            return best


def relative(gram: Tensor, shares: Tensor) -> Tensor:
    """Return the inner products (m, m) relative to the mean with these shares (m,), of sum 1."""
    towards = gram @ shares
    return gram - towards - towards[:, None] + shares @ towards


EXAMPLES = (partial(caf, f=2), partial(caf, f=3), partial(caf, f=0))
