"""Drawing without replacement, with unequal chances."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quorate.rand import Rand
from quorate.selections import Known


def draw(candidates: Sequence[int], weights: Sequence[float], count: int, rand: Rand) -> list[int]:
    """Draw candidates one after another, each with a chance in proportion to its weight among those that are left.

    Args:
        weights: not negative, one for each; candidates of weight 0 come last, in order.
        count: how many; all, if there are no more.

    Returns:
        The candidates, in the order in which they were drawn.

    Source:
        Efraimidis and Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 97(5),
        2006, algorithm A: the keys are exponential times with these rates.
    """
    times = torch.empty(len(candidates), dtype=torch.float64).exponential_(generator=rand.generator())
    keys = times / torch.tensor(list(weights), dtype=torch.float64)
    order = keys.sort(stable=True).indices[:count].tolist()
    return [candidates[place] for place in order]


def samples(candidates: Sequence[int], known: Known) -> list[float]:
    """Return how many samples each candidate has; of one who has not told, the mean of the others."""
    told = [known.samples[each] for each in candidates if each in known.samples]
    mean = sum(told) / len(told) if told else 1.0
    return [known.samples.get(each, mean) for each in candidates]
