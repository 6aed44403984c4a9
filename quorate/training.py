"""A task made ready for n workers: flat parameters, everybody's share of the data, batches, evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from quorate.errors import QuorateError
from quorate.flat import Layout
from quorate.gradient import Batch, Gradient, Objective, TaskError, where
from quorate.partitions import Partition
from quorate.rand import Rand
from quorate.replicas import Replicas
from quorate.shares import Shares
from quorate.tasks import Data, Task

_EVALUATED_AT_ONCE = 2_000  # samples, to bound the memory of an evaluation


class Training:
    """What programs train on.

    Args:
        task: the model, its loss and data.
        partition: divides the training data.
        size: number of workers.
        rand: the run's stream.
        device: where parameters and data are held.

    Raises:
        RecipeError: if the partition can't serve so many workers, or the model has no trainable parameters.
    """

    def __init__(
        self, task: Task, partition: Partition, size: int, rand: Rand, device: torch.device | str = "cpu"
    ) -> None:
        self._shares = Shares(task.train, partition, size, rand)
        self.task, self.size, self.rand = task, size, rand
        self.shards, self._sizes = self._shares.shards, self._shares.sizes
        self.weights: Sequence[float] | None = self._shares.weights
        """The workers' shares of the samples, which sum to 1; None if they are all equal."""
        self.train = Data(task.train.x.to(device), task.train.y.to(device))
        with torch.random.fork_rng():
            torch.manual_seed(rand.fold("model").seed)
            model = task.model().to(device)
        objective = Objective(model, task.loss, task.l2)
        self.layout = Layout.of(objective)
        self._initial = self.layout.flatten(objective)
        self.gradient = Gradient(objective, self.layout, self.train)

    @cached_property
    def replicas(self) -> Replicas:
        """Batches of all data, undivided, that several workers take."""
        return Replicas(self.gradient, self.rand, sum(self._sizes))

    def initial(self) -> Tensor:
        """Return the initial parameters (d,), equal on all workers, to be read only."""
        return self._initial

    def replace_share(self, rank: int, data: Data) -> None:
        """Give a worker other samples than its own, as many; before any training."""
        first = len(self.train)
        to = self.train.x.device
        x, y = torch.cat([self.train.x, data.x.to(to)]), torch.cat([self.train.y, data.y.to(to)])
        self.train = self.gradient.data = Data(x, y)
        self.task = replace(self.task, train=Data(x.cpu(), y.cpu()))
        self.shards[rank] = torch.arange(first, first + len(data))

    def batch(self, rank: int, step: int, size: int | Literal["full"]) -> Batch:
        """Return a worker's batch of a step, counted from 0; see `Shares.indices`."""
        samples = self._sizes[rank]
        count = samples if size == "full" else min(size, samples)
        return Batch(self._shares.indices(rank, step, size), count, ("forward", rank, step), self.rand)

    def evaluate(self, parameters: Tensor) -> dict[str, float]:
        """Measure parameters (d,) on the test data: `test_loss`, without the l2 penalty, and the task's metrics."""
        test, outputs = self.task.test, self.outputs(parameters, self.task.test.x)
        try:
            values = {"test_loss": float(self.task.loss(outputs, test.y))}
            return values | {name: float(metric(outputs, test.y)) for name, metric in self.task.metrics.items()}
        except QuorateError:
            raise
        except Exception as error:
            raise TaskError(f"the evaluation on the test data failed: {where(error)}") from error

    @torch.no_grad()
    def outputs(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return what the model makes of inputs (n, ...) with parameters (d,), on the CPU.

        Raises:
            TaskError: if the model fails.
        """
        objective, device = self.gradient.objective, parameters.device
        self.gradient.adopt(parameters)
        objective.eval()
        try:
            return torch.cat([objective.model(part.to(device)).cpu() for part in x.split(_EVALUATED_AT_ONCE)])
        except QuorateError:
            raise
        except Exception as error:
            raise TaskError(f"the evaluation on the test data failed: {where(error)}") from error
