"""A server in a loop and its clients, without an engine; and clients whose losses are bowls with known bottoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quorate.algorithms import Algorithm
from quorate.exchange import Exchange
from quorate.federated import Answer, Request
from quorate.federated.client import Asked, Client
from quorate.federated.local import LocalSettings
from quorate.federated.model import Model
from quorate.optimizer import Optimizer
from quorate.outer_optimizers import OuterOptimizer
from quorate.outer_optimizers.sgd import Sgd
from quorate.rand import Rand
from quorate.tasks import Data, Task
from quorate.training import Training
from quorate.trees import Tree
from tests.tiny import randn

AVERAGE = Sgd()


class Federation:
    """What a server's program does in a round, and nothing else."""

    def __init__(
        self,
        algorithm: Algorithm,
        made: Training,
        *,
        lr: float = 0.1,
        epochs: int = 1,
        batch: Any = "full",
        optimizer: Optimizer | None = None,
        outer: OuterOptimizer = AVERAGE,
        exchange: Exchange | None = None,
    ) -> None:
        settings = LocalSettings(optimizer or Optimizer("sgd", {"lr": lr}), epochs, batch)
        algorithm.check(settings, made.layout)
        said, heard = exchange or Exchange(), Exchange()
        self.made, self.algorithm, self.rounds = made, algorithm, 0
        self.client = Client(made, algorithm, settings, said, heard, made.size)
        self.model = Model(made, said, heard, algorithm, outer, made.size)
        self.memories: dict[int, Tree] = {}

    @property
    def parameters(self) -> Tensor:
        return self.model.parameters

    def asked(self, cohort: Sequence[int], steps: Mapping[int, int] | None = None) -> list[Asked]:
        said = self.model.broadcast(self.rounds)
        return [
            Asked(
                client,
                self.memories.get(client, {}),
                Request(self.rounds, said, {"steps": steps[client]} if steps else {}),
                self.made.shards[client],
            )
            for client in cohort
        ]

    def answers(self, asked: Sequence[Asked]) -> list[tuple[Tree, Answer]]:
        found = self.client.answers(asked, self.client.train)
        for each in found:
            if isinstance(each, Exception):
                raise each
        return [each for each in found if not isinstance(each, Exception)]

    def round(self, cohort: Sequence[int] | None = None, steps: Mapping[int, int] | None = None) -> list[Answer]:
        """Ask clients, all by default, accept what they reply, and update."""
        asked = self.asked(range(self.made.size) if cohort is None else cohort, steps)
        replies = []
        for memory, answer in self.answers(asked):
            assert self.model.flaw(answer) is None
            self.memories[answer.client] = memory
            replies.append(answer)
        self.model.update(replies)
        self.rounds += 1
        return replies

    def personal(self, client: int) -> Tensor:
        """The parameters that one client uses."""
        return self.client.personal(self.parameters, self.memories.get(client, {}))


class Bowl(nn.Module):
    """Map the roots of curvatures (n, d) to (n, d): times the parameters."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(d, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


class Bowls:
    """Clients with losses h_i (w - b_i)^2 / 2, summed over coordinates, whatever the batch.

    Args:
        samples: how many, all equal, each client has: with batches of one, as many steps an epoch.
    """

    def __init__(self, samples: Sequence[int], d: int = 3, seed: int = 0) -> None:
        n = len(samples)
        self.h = 0.5 + 1.5 * randn(n, d, seed=seed, dtype=torch.float64).sigmoid()
        self.b = 3 * randn(n, d, seed=seed + 1, dtype=torch.float64)
        self.samples = torch.tensor(samples).double()
        root, times = self.h.sqrt(), torch.tensor(samples)
        data = Data(root.repeat_interleave(times, 0), (root * self.b).repeat_interleave(times, 0))
        task = Task(lambda: Bowl(d), lambda out, y: (out - y).square().sum(1).mean() / 2, data, data)
        shards = list(torch.arange(len(data)).split(list(samples)))
        self.training = Training(task, lambda data, size, rand: shards, n, Rand(seed))

    def gradient(self, client: int, w: Tensor) -> Tensor:
        return self.h[client] * (w - self.b[client])

    def bottom(self, weights: Tensor) -> Tensor:
        """The minimum of the weighted sum of all losses."""
        shares = weights[:, None] * self.h
        return (shares * self.b).sum(0) / shares.sum(0)

    @property
    def alike(self) -> Tensor:
        """The minimum if all clients count alike."""
        return self.bottom(torch.ones_like(self.samples))

    @property
    def pooled(self) -> Tensor:
        """The minimum of the pooled data."""
        return self.bottom(self.samples)


def far(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors."""
    return float((a - b).abs().max())


def quarrel(clients: int = 6, each: int = 40) -> Training:
    """Two classes of points; every other client has the labels the wrong way round."""
    x = randn(clients * each, 6)
    y = (x[:, 0] + x[:, 1] > 0).long()
    shards = list(torch.arange(clients * each).split(each))
    for shard in shards[1::2]:
        y[shard] = 1 - y[shard]
    data = Data(x, y)
    model = lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))  # noqa: E731
    task = Task(model, nn.functional.cross_entropy, data, data)
    return Training(task, lambda data, size, rand: shards, clients, Rand(0))


def accuracies(federation: Federation) -> tuple[list[float], list[float]]:
    """How often the server's parameters, and each client's own, are right on the client's samples."""
    made, found = federation.made, ([], [])
    for client, shard in enumerate(made.shards):
        for parameters, values in zip((federation.parameters, federation.personal(client)), found, strict=True):
            right = made.outputs(parameters, made.train.x[shard]).argmax(1) == made.train.y[shard]
            values.append(float(right.double().mean()))
    return found
