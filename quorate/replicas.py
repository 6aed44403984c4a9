"""Batches of all training data that any worker can take, and their gradients, which have the same bits whoever does.

They have if all take them with the same number of torch threads, the same version of torch and processors of the same
kind; see `quorate.codes.repetition` for what breaks it. They are never taken many in one vectorised pass, in which the
bits depend on what else is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from quorate.errors import RecipeError
from quorate.gradient import Batch, Gradient
from quorate.partitions.iid import iid
from quorate.rand import Rand
from quorate.shares import Shares
from quorate.tasks import Data


class Replicas:
    """Gradients that several workers take of the same batches.

    Those of the last step are kept, so that of the workers of a simulation, who hold the same parameters, only one
    takes each.

    Args:
        gradient: maps parameters and a batch to loss and gradient.
        rand: the run's stream.
        samples: of the gradient's data, the first ones; what follows is somebody's own.
    """

    def __init__(self, gradient: Gradient, rand: Rand, samples: int) -> None:
        self._gradient, self._rand, self._samples = gradient, rand, samples
        self._shares = Shares(Data(gradient.data.x[:samples], gradient.data.y[:samples]), iid, 1, rand)
        self._at: tuple[Tensor | None, str | int] = None, -1
        self._taken: dict[tuple[str | int, ...], tuple[float, Tensor]] = {}

    def batches(self, step: int, n: int, size: int | Literal["full"]) -> list[Batch]:
        """Return the n batches of a step, counted from 0: parts of n * size samples, in a random order that all share.

        Together they are the batch of one worker that holds all data; see `Shares.indices`.

        Args:
            size: samples per batch; "full": all batches together are all samples. If there are fewer than n * size,
                all are taken, too, and sizes differ by at most one.

        Raises:
            RecipeError: if size is less than 1, or a batch would have no sample.
        """
        indices = self._shares.indices(0, step, size if size == "full" else n * size).tensor_split(n)
        if not len(indices[-1]):
            raise RecipeError(
                f"{n} batches can't share {self._samples} training samples", f"use at most {self._samples} workers"
            )
        return [Batch(each, len(each), ("forward", number, step), self._rand) for number, each in enumerate(indices)]

    def take(self, parameters: Tensor, batches: Sequence[Batch], number: int) -> tuple[float, Tensor]:
        """Return loss and gradient (d,), to be read only, of one of the batches of a step.

        The gradient counts as much as the batch has samples: the mean over all batches is that of all their samples.

        Raises:
            TaskError: see `Gradient`.
        """
        batch, step = batches[number], batches[number].stream[-1]
        if self._at[0] is not parameters or self._at[1] != step:
            self._at = parameters, step
            self._taken.clear()
        if batch.stream not in self._taken:
            self._taken[batch.stream] = _weighted(self._gradient(parameters, batch), batches, number)
        return self._taken[batch.stream]

    @cached_property
    def classes(self) -> int:
        """How many labels there are, if they are integers from 0 on."""
        return int(self._gradient.data.y[: self._samples].max()) + 1

    def samples(self, batch: Batch) -> Data:
        """Return a copy of a batch's samples."""
        data = self._gradient.data
        return Data(data.x[batch.indices], data.y[batch.indices])

    def take_instead(
        self, parameters: Tensor, batches: Sequence[Batch], number: int, samples: Data
    ) -> tuple[float, Tensor]:
        """Return loss and gradient (d,) of other samples, as many as a batch has, in its place; see `take`."""
        gradient, batch = self._gradient, batches[number]
        data, gradient.data = gradient.data, samples
        try:
            taken = gradient(parameters, batch._replace(indices=torch.arange(batch.size)))
        finally:
            gradient.data = data
        return _weighted(taken, batches, number)


def _weighted(taken: tuple[float, Tensor], batches: Sequence[Batch], number: int) -> tuple[float, Tensor]:
    samples = sum(batch.size for batch in batches)
    share = batches[number].size * len(batches) / samples
    return taken if share == 1 else (taken[0], taken[1] * share)
