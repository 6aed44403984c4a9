"""Label-sorted shards: the "pathological" division, in which a worker sees only a few classes.

Source: McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quorate.errors import RecipeError
from quorate.partitions._common import by_owner, class_of, require_workers
from quorate.rand import Rand
from quorate.tasks import Data


def shards(data: Data, size: int, rand: Rand, *, per_worker: int = 2) -> list[Tensor]:
    """Sort samples by label, cut them into equal shards, and give each worker some of these at random.

    Args:
        data: what is divided; y holds class labels.
        size: number of workers.
        rand: the stream that decides.
        per_worker: shards of each worker, so roughly the number of its classes. Sizes of shards differ by at most one.

    Returns:
        Per worker sorted indices into the data.

    Raises:
        RecipeError: if there is no worker, if y holds no class labels, or if there are fewer samples than shards.
    """
    require_workers(data, size)
    label, number = class_of(data, "shards"), size * per_worker
    if per_worker < 1:
        raise RecipeError(f"per_worker is the number of shards, at least 1; got {per_worker}", "set per_worker = 2")
    if number > len(data):
        raise RecipeError(
            f"{size} workers with {per_worker} shards each need at least {number} samples, but there are {len(data)}",
            f"set per_worker = {len(data) // size}",
        )
    holder = torch.randperm(number, generator=rand.generator()) % size
    owner = torch.empty(len(data), dtype=torch.int64)
    for worker, shard in zip(holder.tolist(), label.argsort(stable=True).tensor_split(number), strict=True):
        owner[shard] = worker
    return by_owner(owner, size)
