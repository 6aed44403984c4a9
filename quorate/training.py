"""A task made ready for n workers: flat parameters, everybody's share of the data, batches, evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from quorate.errors import QuorateError, RecipeError
from quorate.flat import Layout
from quorate.gradient import Batch, Gradient, Objective, TaskError, where
from quorate.partitions import Partition
from quorate.rand import Rand
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
        if size < 1:
            raise RecipeError(f"a run needs at least one worker, got {size}", "use `--simulate 8`")
        self.task, self.size, self.rand = task, size, rand
        self.shards: list[Tensor] = partition(task.train, size, rand.fold("partition"))
        sizes = self._samples = [len(shard) for shard in self.shards]
        self.weights: Sequence[float] | None = None
        """The workers' shares of the samples, which sum to 1; None if they are all equal."""
        if len(set(sizes)) > 1:
            self.weights = tuple(count / sum(sizes) for count in sizes)
        self.train = Data(task.train.x.to(device), task.train.y.to(device))
        with torch.random.fork_rng():
            torch.manual_seed(rand.fold("model").seed)
            model = task.model().to(device)
        objective = Objective(model, task.loss, task.l2)
        self.layout = Layout.of(objective)
        self._initial = self.layout.flatten(objective)
        self.gradient = Gradient(objective, self.layout, self.train)
        self._epochs: dict[int, tuple[int, Tensor]] = {}

    def initial(self) -> Tensor:
        """Return the initial parameters (d,), equal on all workers, to be read only."""
        return self._initial

    def batch(self, rank: int, step: int, size: int | Literal["full"]) -> Batch:
        """Return a worker's batch of a step, counted from 0.

        A worker goes through its samples in a new random order each epoch, without gaps between epochs. A worker
        with fewer samples than `size` uses all it has; "full" is all samples of the worker in the order of the data.

        Raises:
            RecipeError: if size is less than 1.
        """
        if size != "full" and size < 1:
            raise RecipeError(
                f'`batch` is the number of samples per worker and step, at least 1, or "full"; got {size}', "batch = 32"
            )
        shard, samples, stream = self.shards[rank], self._samples[rank], ("forward", rank, step)
        if size == "full" or size >= samples:
            return Batch(shard, samples, stream, self.rand)
        first, last = step * size, (step + 1) * size
        pieces = []
        while first < last:
            epoch, offset = divmod(first, samples)
            piece = self._order(rank, epoch)[offset : offset + last - first]
            pieces.append(piece)
            first += piece.shape[0]
        return Batch(pieces[0] if len(pieces) == 1 else torch.cat(pieces), size, stream, self.rand)

    def _order(self, rank: int, epoch: int) -> Tensor:
        cached = self._epochs.get(rank)
        if cached is None or cached[0] != epoch:
            shard, generator = self.shards[rank], self.rand.fold("batch", rank, epoch).generator()
            cached = epoch, shard[torch.randperm(len(shard), generator=generator)]
            self._epochs[rank] = cached
        return cached[1]

    @torch.no_grad()
    def evaluate(self, parameters: Tensor) -> dict[str, float]:
        """Measure parameters (d,) on the test data: `test_loss`, without the l2 penalty, and the task's metrics."""
        objective, test = self.gradient.objective, self.task.test
        self.gradient.adopt(parameters)
        objective.eval()
        device = parameters.device
        try:
            outputs = torch.cat([objective.model(part.to(device)).cpu() for part in test.x.split(_EVALUATED_AT_ONCE)])
            values = {"test_loss": float(self.task.loss(outputs, test.y))}
            return values | {name: float(metric(outputs, test.y)) for name, metric in self.task.metrics.items()}
        except QuorateError:
            raise
        except Exception as error:
            raise TaskError(f"the evaluation on the test data failed: {where(error)}") from error
