"""Majority vote: every worker votes for the sign of each coordinate, and the majority's signs are the update.

Source: Bernstein, Zhao, Azizzadenesheli and Anandkumar, "signSGD with majority vote is communication efficient and
fault tolerant", ICLR 2019, algorithm 1. A worker that lies has one vote. Entries are -1, 0 or 1 whatever the gradients'
size is: take a small learning rate, e.g. 1e-4. Codec: `sign`, without error feedback.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quorate.aggregators import needs
from quorate.wire import Opens


@needs(Opens.EACH)
def majority_vote(updates: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the sign of the sum of signs; 0 where as many vote for as against.

    Args:
        updates: (n, d), one row per worker; an entry of 0 abstains.
        weights: (n,), not negative, of any positive sum: what each vote counts; None: all the same.

    Returns:
        (d,), of the updates' dtype.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
    """
    if updates.dim() != 2 or len(updates) == 0:
        raise ValueError(f"majority_vote needs updates of shape (n, d) with n >= 1, got {tuple(updates.shape)}")
    votes = [1.0] * len(updates) if weights is None else [float(weight) for weight in weights]
    if len(votes) != len(updates) or min(votes) < 0 or not 0 < sum(votes) < float("inf"):
        raise ValueError(
            f"majority_vote needs {len(updates)} weights that are not negative, of positive sum; got {votes}"
        )
    tally, most = torch.zeros_like(updates[0]), max(votes)
    for update, vote in zip(updates, votes, strict=True):
        tally.add_(update.sign(), alpha=vote / most)
    return tally.sign_()
