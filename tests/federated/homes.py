"""Clients of a small federation, to measure and to compare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quorate.algorithms import Algorithm
from quorate.algorithms.fed_avg import FedAvg
from quorate.exchange import Exchange
from quorate.federated.client import Client
from quorate.federated.local import LocalSettings
from quorate.optimizer import Optimizer
from quorate.partitions.iid import iid
from quorate.rand import Rand
from quorate.tasks import Data, Task, accuracy
from quorate.training import Training
from tests.tiny import randn


def blobs(n: int = 120, key: Tensor | None = None, test_key: Tensor | None = None) -> Task:
    """Classify three overlapping blobs; the second half of the samples is the test."""
    y = torch.arange(n) % 3
    x = y[:, None] + randn(n, 4, seed=3)
    half = n // 2
    return Task(
        lambda: nn.Linear(4, 3),
        functional.cross_entropy,
        Data(x[:half], y[:half], key),
        Data(x[half:], y[half:], test_key),
        {"accuracy": accuracy},
    )


def training(size: int = 4, task: Task | None = None, seed: int = 0) -> Training:
    """Divide the blobs among clients."""
    return Training(task or blobs(), iid, size, Rand(seed))


def clients(made: Training, algorithm: Algorithm | None = None, lr: float = 0.1, **more: Any) -> Client:
    """Return what the clients of a training have in common."""
    local = LocalSettings(Optimizer("sgd", {"lr": lr}), 2, 5)
    return Client(made, algorithm or FedAvg(), local, Exchange(), Exchange(), made.size, **more)
