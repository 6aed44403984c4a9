"""How training data is divided among workers: each sample belongs to exactly one of them.

A partition is a function in a file of the same name, `(data, size, rand, *, ...) -> indices`: one integer tensor
per worker, sorted, none empty; together they hold every sample once.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.tasks import Data

Partition = Callable[[Data, int, Rand], list[Tensor]]


def require_samples(data: Data, size: int) -> None:
    """Refuse to divide fewer samples than there are workers.

    Raises:
        RecipeError: if a worker would be left without a sample.
    """
    if len(data) < size:
        raise RecipeError(
            f"{size} workers can't share {len(data)} training samples: each needs at least one",
            f"use at most {len(data)} workers",
        )
