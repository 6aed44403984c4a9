"""Weighted mean: what distributed gradient descent and federated averaging combine by.

Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017,
algorithm 1 (weights n_k / n). One arbitrary update moves it arbitrarily far.
"""

from __future__ import annotations

from torch import Tensor

from quorate.aggregators import needs
from quorate.wire import Opens


@needs(Opens.TOTAL)
def mean(updates: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean of the rows.

    Args:
        updates: (n, d), one row per worker.
        weights: (n,), not negative, of any positive sum, e.g. the workers' numbers of samples; None: all equal.

    Returns:
        (d,), of the updates' dtype, summed in the order of the rows, so that the bits don't depend on d or threads.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
    """
    if updates.dim() != 2 or len(updates) == 0:
        raise ValueError(f"mean needs updates of shape (n, d) with n >= 1, got {tuple(updates.shape)}")
    if weights is None:
        shares = [1 / len(updates)] * len(updates)
    else:
        values = [float(weight) for weight in weights]
        if len(values) != len(updates) or min(values) < 0 or not 0 < sum(values) < float("inf"):
            raise ValueError(f"mean needs {len(updates)} weights that are not negative, of positive sum; got {values}")
        shares = [value / sum(values) for value in values]
    total = updates[0] * shares[0]
    for update, share in zip(updates[1:], shares[1:], strict=True):
        total += update * share
    return total
