"""How well a model serves each client: measured on data of its own that nobody has trained on.

A client's own test data are, in this order: samples that it holds out of training, where the recipe says so; the test
samples of its keys, where all training samples of these are its own (its speaker, its hospital); or the common test
samples, each class counted by the client's share of it, which suits clients that differ in labels only.

Source of the measures: Li, Sanjabi, Beirami and Smith, "Fair resource allocation in federated learning", ICLR 2020,
section 4 (mean, worst and best tenth, variance).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quorate.rand import Rand
from quorate.tasks import Data
from quorate.training import Training

How = Literal["held out", "keys", "labels", "all"]

TENTH = 10
MOST_CLASSES = 1000
"""More different labels than these are no classes."""


class Own(NamedTuple):
    """A client's own test data.

    Args:
        how: where they come from; "all": the common test data, for want of better.
        positions: (n,), in the training data if they are held out, else in the test data; none if `shares` tell.
        shares: (classes,), of the client's labels among those that are tested, which sum to 1.
    """

    how: How
    positions: Tensor
    shares: Tensor | None = None


def split(shard: Tensor, share: float, client: int, rand: Rand) -> tuple[Tensor, Tensor]:
    """Divide a client's samples into those that it trains on and those that it is tested on, both in their order.

    Args:
        shard: (n,), positions.
        share: of the samples that is held out, in [0, 1); if it is not 0, at least one sample, but never all.
        client: its number.
        rand: the run's stream.
    """
    n = len(shard)
    count = min(n - 1, max(1, round(share * n))) if share > 0 and n else 0
    if count == 0:
        return shard, shard[:0]
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=rand.fold("held out", client).generator())[:count]] = True
    return shard[~chosen], shard[chosen]


class Measuring:
    """Measures parameters on clients' own test data: by the task's `accuracy` if it has one, else by its loss.

    Args:
        training: the model and its data; of clients' data, a real client has only its own.
        held_out: the share of each client's samples that is not trained on.
    """

    def __init__(self, training: Training, held_out: float = 0.0) -> None:
        task = training.task
        self._training, self._held_out = training, held_out
        self.name = "accuracy" if "accuracy" in task.metrics else "loss"
        """Of the measure."""
        self.rises = self.name == "accuracy"
        """Whether more of it is better."""
        self._measure: Callable[[Tensor, Tensor], float] = task.metrics[self.name] if self.rises else self._loss
        self._keys = _Keys(task.train, task.test)
        self._classes, self._of_train, self._of_test = _classes(task.train.y, task.test.y)
        self._tested = torch.bincount(self._of_test, minlength=self._classes) > 0 if self._classes else None

    def own(self, client: int, shard: Tensor) -> Own:
        """Return what a client is tested on.

        Args:
            shard: (n,), positions of its samples in the training data, those that are held out among them.
        """
        _, held = split(shard, self._held_out, client, self._training.rand)
        if self._held_out:
            return Own("held out", held)
        positions = self._keys.tested(shard)
        if positions is not None:
            return Own("keys", positions)
        if self._tested is not None and self.rises:
            counts = torch.bincount(self._of_train[shard], minlength=self._classes).double()
            counts *= self._tested
            return Own("labels", shard[:0], counts / counts.sum())
        return Own("all", torch.arange(len(self._training.task.test)))

    def values(self, parameters: Tensor, owns: Sequence[Own]) -> list[float | None]:
        """Measure one model on the test data of many clients; None where there are none.

        Args:
            parameters: (d,).

        The common test data go through the model once, whatever the number of clients.
        """
        training, test = self._training, self._training.task.test
        held = [each.positions for each in owns if each.how == "held out"]
        if held:
            positions = torch.cat(held)
            seen = training.outputs(parameters, training.train.x[positions]), training.task.train.y[positions]
            pieces = iter(zip(*(part.split([len(each) for each in held]) for part in seen), strict=True))
        outputs = training.outputs(parameters, test.x) if len(held) < len(owns) else test.y[:0]
        by_class: Tensor | None = None
        whole: float | None = None
        found: list[float | None] = []
        for own in owns:
            if own.how == "held out":
                output, y = next(pieces)
                found.append(self._of(output, y))
            elif own.how == "labels" and own.shares is not None:
                by_class = self._by_class(outputs) if by_class is None else by_class
                value = float(own.shares @ by_class)
                found.append(value if math.isfinite(value) else None)
            elif own.how == "all":
                whole = self._of(outputs, test.y) if whole is None else whole
                found.append(whole)
            else:
                found.append(self._of(outputs[own.positions], test.y[own.positions]))
        return found

    def _of(self, output: Tensor, y: Tensor) -> float | None:
        return float(self._measure(output, y)) if len(y) else None

    def _by_class(self, outputs: Tensor) -> Tensor:
        """Return (classes,), the measure on each class's test samples; 0 for a class without any."""
        y = self._training.task.test.y
        return torch.tensor(
            [
                self._of(outputs[chosen], y[chosen]) or 0.0
                for chosen in (self._of_test == c for c in range(self._classes))
            ],
            dtype=torch.float64,
        )

    def _loss(self, output: Tensor, y: Tensor) -> float:
        return float(self._training.task.loss(output, y))

    def labels(self, shard: Tensor) -> list[int] | None:
        """Return how many training samples of each class a client has; None if there are no classes."""
        if not self._classes:
            return None
        counts: list[int] = torch.bincount(self._of_train[shard], minlength=self._classes).tolist()
        return counts


class _Keys:
    """The test samples of keys, for those who hold all training samples of theirs."""

    def __init__(self, train: Data, test: Data) -> None:
        self._key = None if test.key is None else train.key
        if self._key is None or test.key is None:
            return
        self._known, counts = self._key.unique(return_counts=True)
        self._counts = counts
        self._order = test.key.argsort(stable=True)
        self._sorted = test.key[self._order]

    def tested(self, shard: Tensor) -> Tensor | None:
        """Return the positions of test samples, ascending; None if some of a key's training samples are elsewhere."""
        if self._key is None:
            return None
        keys, counts = self._key[shard].unique(return_counts=True)
        if not torch.equal(counts, self._counts[torch.searchsorted(self._known, keys)]):
            return None
        first, last = torch.searchsorted(self._sorted, keys), torch.searchsorted(self._sorted, keys, right=True)
        ranges = [self._order[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        return torch.cat(ranges).sort().values if ranges else None


def _classes(train: Tensor, test: Tensor) -> tuple[int, Tensor, Tensor]:
    """Return the number of classes and both sets' samples' classes, numbered from 0; (0, ...) if there are none."""
    if train.dim() != 1 or test.dim() != 1:
        return 0, train[:0], test[:0]
    labels, numbers = torch.cat([train, test]).unique(return_inverse=True)
    if len(labels) > MOST_CLASSES or not torch.equal(labels, labels.round()):
        return 0, train[:0], test[:0]
    return len(labels), numbers[: len(train)], numbers[len(train) :]


def spread(values: Sequence[float], rises: bool = True) -> dict[str, float]:
    """Say how a measure is distributed among clients.

    Args:
        values: one per client, at least one.
        rises: whether more is better.

    Returns:
        `clients`, `mean`, `deviation` (standard deviation of these clients), and the means of the tenth of the clients
        (rounded up) that is served worst and best: `worst_decile`, `best_decile`.
    """
    ordered = sorted(values, reverse=not rises)
    tenth = math.ceil(len(ordered) / TENTH)
    mean = sum(ordered) / len(ordered)
    return {
        "clients": len(ordered),
        "mean": mean,
        "deviation": math.sqrt(sum((value - mean) ** 2 for value in ordered) / len(ordered)),
        "worst_decile": sum(ordered[:tenth]) / tenth,
        "best_decile": sum(ordered[-tenth:]) / tenth,
    }
