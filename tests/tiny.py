"""Small models on random data, and the shortest way to run a program on the simulator, on one thread of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quorate.cluster import Cluster
from quorate.engines.simulator import Simulator
from quorate.exchange import Exchange
from quorate.partitions.by_size import by_size
from quorate.partitions.iid import iid
from quorate.rand import Rand
from quorate.tasks import Data, Task
from quorate.trace import Trace
from quorate.training import Training

torch.set_num_threads(1)

FREE = Cluster(seconds_per_sample=0.0, uplink=float("inf"), downlink=float("inf"), latency=0.0)
"""Machines that cost nothing."""


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw normal numbers from a stream of the seed's own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mlp(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build (n, 6) -> (n, 3)."""
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def cnn(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build (n, 1, 6, 6) -> (n, 3)."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)]
    return nn.Sequential(*layers).to(dtype)


def classes(
    model: Callable[[], nn.Module] = mlp,
    *,
    n: int = 40,
    shape: tuple[int, ...] = (6,),
    dtype: torch.dtype = torch.float32,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    l2: float = 0.0,
) -> Task:
    """Classify noise into three classes."""
    data = Data(randn(n, *shape, dtype=dtype), torch.arange(n) % 3)
    return Task(model, loss, data, data, l2=l2)


def training(task: Task | None = None, size: int = 4, *, seed: int = 0, unequal: bool = False) -> Training:
    """Divide a task among workers; unequally, the first gets the most."""
    return Training(task or classes(), by_size if unequal else iid, size, Rand(seed))


def simulate(program: Callable[..., Any], size: int, cluster: Cluster = FREE, **settings: Any) -> list[Any]:
    """Run `program(node)` on every rank, and return what each returns."""
    return Simulator(size, cluster, **settings).run(program)


def train(
    program: Callable[..., Any],
    made: Training,
    exchange: Exchange | None = None,
    *,
    simulator: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[list[Tensor], Trace]:
    """Run one of the programs on the simulator; return each rank's parameters, and the trace."""
    trace = Trace(made.size)
    bound = partial(program, training=made, exchange=exchange or Exchange(), **settings)
    return Simulator(made.size, FREE, trace=trace, **(simulator or {})).run(bound), trace


def line_of(function: Callable[..., Any], text: str) -> str:
    """Return `file:line` of the one line of a function that holds a text, as messages name places."""
    lines, first = inspect.getsourcelines(function)
    (found,) = [first + offset for offset, line in enumerate(lines) if text in line]
    return f"{Path(inspect.getfile(function))}:{found}"
