"""Every class divided among the workers in random proportions: from nearly even to one worker per class.

Source: Yurochkin, Agarwal, Ghosh, Greenewald, Hoang and Khazaeni, "Bayesian nonparametric federated learning of
neural networks", ICML 2019, section 4. (Hsu, Qi and Brown, 2019, draw proportions of classes per worker instead.)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from quorate.errors import RecipeError
from quorate.partitions._common import by_owner, class_of, require_workers
from quorate.rand import Rand
from quorate.tasks import Data


def dirichlet(data: Data, size: int, rand: Rand, *, alpha: float = 0.5) -> list[Tensor]:
    """Divide each class by proportions drawn from Dirichlet(alpha, ..., alpha).

    A worker that gets nothing is then given one sample of whoever has the most.

    Args:
        data: what is divided; y holds class labels.
        size: number of workers.
        rand: the stream that decides.
        alpha: without unit; near 0 each class goes to one worker, for large alpha all workers get equal shares.

    Returns:
        Per worker sorted indices into the data.

    Raises:
        RecipeError: if there is no worker or fewer samples than workers, if y holds no class labels, or if alpha is
            not a positive, finite number.
    """
    require_workers(data, size)
    label = class_of(data, "dirichlet")
    if not 0 < alpha < math.inf:
        raise RecipeError(f"alpha is a positive, finite number; got {alpha}", "set alpha = 0.5")
    generator, chance = rand.fold("order").generator(), np.random.default_rng(rand.fold("proportions").seed)
    owner = torch.empty(len(data), dtype=torch.int64)
    for k in range(int(label.max()) + 1):
        index = (label == k).nonzero()[:, 0]
        index = index[torch.randperm(len(index), generator=generator)]
        ends = np.rint(len(index) * np.cumsum(_proportions(chance, size, alpha))).astype(np.int64)
        owner[index] = torch.from_numpy(np.searchsorted(ends[:-1], np.arange(len(index)), side="right"))
    counts = owner.bincount(minlength=size)
    for worker in (counts == 0).nonzero()[:, 0].tolist():
        most = int(counts.argmax())
        theirs = (owner == most).nonzero()[:, 0]
        owner[theirs[int(torch.randint(len(theirs), (), generator=generator))]] = worker
        counts[most] -= 1
        counts[worker] += 1
    return by_owner(owner, size)


def _proportions(chance: np.random.Generator, size: int, alpha: float) -> np.ndarray:
    """Draw from Dirichlet(alpha, ..., alpha) by way of the logarithms of gamma variates.

    Gamma(alpha) is Gamma(alpha + 1) times U^(1 / alpha). The logarithm keeps the largest of them when alpha is so
    small that all would round to 0.
    """
    log = np.log(chance.standard_gamma(min(alpha, 1e12) + 1, size)) + np.log(1 - chance.random(size)) / max(
        alpha, 1e-12
    )
    share: np.ndarray = np.exp(log - log.max())
    share /= share.sum()
    return share
