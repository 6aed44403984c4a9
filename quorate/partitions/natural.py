"""Samples that belong together stay together: writers, hospitals or speakers, each with one worker."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from quorate.errors import RecipeError
from quorate.partitions._common import by_owner, require_workers
from quorate.rand import Rand
from quorate.tasks import Data


def natural(data: Data, size: int, rand: Rand) -> list[Tensor]:
    """Give each key to one worker, the largest first, always to the worker with the fewest samples so far.

    Args:
        data: what is divided; its key says what belongs together.
        size: number of workers; as many as there are keys makes each key one worker.
        rand: the stream that orders keys of equal size.

    Returns:
        Per worker sorted indices into the data.

    Raises:
        RecipeError: if there is no worker, if the data has no key, or if there are fewer keys than workers.

    Source:
        Graham, "Bounds on multiprocessing timing anomalies", SIAM Journal on Applied Mathematics 17(2), 1969: the
        largest part is at most 4/3 of what is possible.
    """
    require_workers(data, size)
    if data.key is None:
        raise RecipeError(
            "`natural` divides by the key of a sample, but this task's data has none", 'set name = "iid" in [partition]'
        )
    _, key, counts = data.key.unique(return_inverse=True, return_counts=True)
    if len(counts) < size:
        raise RecipeError(
            f"{size} workers can't share {len(counts)} keys: each needs at least one",
            f"use at most {len(counts)} workers",
        )
    shuffled = torch.randperm(len(counts), generator=rand.generator())
    load = [(0, worker) for worker in range(size)]
    holder = torch.empty(len(counts), dtype=torch.int64)
    for k in shuffled[counts[shuffled].argsort(descending=True, stable=True)].tolist():
        samples, worker = load[0]
        holder[k] = worker
        heapq.heapreplace(load, (samples + int(counts[k]), worker))
    return by_owner(holder[key], size)
