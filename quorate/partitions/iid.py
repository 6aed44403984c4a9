"""Samples dealt like cards: every worker's are drawn from the same distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from quorate.partitions._common import by_owner, require_workers
from quorate.rand import Rand
from quorate.tasks import Data


def iid(data: Data, size: int, rand: Rand) -> list[Tensor]:
    """Divide samples at random into parts whose sizes differ by at most one.

    Args:
        data: what is divided.
        size: number of workers.
        rand: the stream that decides.

    Returns:
        Per worker sorted indices into the data.

    Raises:
        RecipeError: if there is no worker, or fewer samples than workers.
    """
    require_workers(data, size)
    return by_owner(torch.randperm(len(data), generator=rand.generator()) % size, size)
