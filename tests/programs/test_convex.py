"""Distributed gradient descent is gradient descent: unequal shards, weighted by size, end where the pooled data does.

Local steps are not: with a period of more than one step the end is another one; `pytest -rP` shows by how much.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quorate.optimizer import Optimizer
from quorate.periods.every import every
from quorate.programs.local_sgd import local_sgd
from quorate.programs.parameter_server import parameter_server
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.tasks import Task
from quorate.tasks.k_means import k_means
from quorate.tasks.logistic_regression import logistic_regression
from quorate.tasks.svm import svm
from tests.tiny import train, training

STEPS, STEPS_ON_FILES = 50, 20
RATES = {svm: 0.1, logistic_regression: 0.5, k_means: 0.2}
TASKS = pytest.mark.parametrize("ready", list(RATES))
SIZES = pytest.mark.parametrize("size", [2, 5, 16])


@cache
def task_of(ready, data: Path | None) -> Task:
    """Load a9a, or generate rows."""
    if data and ready is k_means:
        return k_means(data=data, clusters=2)
    return ready(data=data) if data else ready(file="generated", features=20, samples=400)


@cache
def centralised(ready, data: Path | None) -> Tensor:
    """Descend along the gradient of the pooled data, in a plain loop."""
    task = task_of(ready, data)
    model = task.model()
    for _ in range(STEPS_ON_FILES if data else STEPS):
        loss = task.loss(model(task.train.x), task.train.y)
        parameters = list(model.parameters())
        loss = loss + task.l2 / 2 * sum(parameter.square().sum() for parameter in parameters)
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= RATES[ready] * slope
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def gap(program, ready, size: int, data: Path | None = None, **settings) -> float:
    """Return the largest difference, over workers and coordinates, to the centralised parameters."""
    made = training(task_of(ready, data), size, unequal=True)
    assert len({len(shard) for shard in made.shards}) > 1
    settings |= {"optimizer": Optimizer("sgd", {"lr": RATES[ready]}), "batch": "full"}
    ends, _ = train(program, made, steps=STEPS_ON_FILES if data else STEPS, **settings)
    central = centralised(ready, data)
    assert central.dtype == torch.float64
    assert (central - made.initial()).abs().max() > 1e-3
    return max(float((end - central).abs().max()) for end in ends)


@TASKS
@SIZES
@pytest.mark.parametrize("program", [synchronous_sgd, parameter_server])
def test_distributed_descent_equals_centralised_descent(program, ready, size):
    assert gap(program, ready, size) <= 1e-9


@TASKS
@SIZES
def test_local_steps_equal_it_if_workers_meet_after_each(ready, size):
    assert gap(local_sgd, ready, size, period=every) <= 1e-9


@TASKS
@SIZES
@pytest.mark.parametrize("tau", [2, 10])
def test_local_steps_do_not_equal_it_if_workers_meet_less_often(ready, size, tau):
    difference = gap(local_sgd, ready, size, period=partial(every, tau=tau))
    print(f"{ready.__name__}, {size} workers, tau = {tau}: off by {difference:.2e}")
    assert difference > 1e-6


@TASKS
def test_unequal_shards_do_not_equal_it_if_weighted_equally(ready):
    made = training(task_of(ready, None), 5, unequal=True)
    made.weights = None
    settings = {"optimizer": Optimizer("sgd", {"lr": RATES[ready]}), "steps": STEPS, "batch": "full"}
    (end, *_), _ = train(synchronous_sgd, made, **settings)
    assert (end - centralised(ready, None)).abs().max() > 1e-6


@pytest.mark.data("libsvm/a9a", "libsvm/a9a.t")
@TASKS
@SIZES
def test_distributed_descent_equals_centralised_descent_on_a9a(ready, size, data_folder):
    assert gap(synchronous_sgd, ready, size, data_folder) <= 1e-9


@pytest.mark.data("libsvm/a9a", "libsvm/a9a.t")
@TASKS
def test_local_steps_do_not_equal_it_on_a9a(ready, data_folder):
    difference = gap(local_sgd, ready, 5, data_folder, period=partial(every, tau=10))
    print(f"{ready.__name__} on a9a, 5 workers, tau = 10: off by {difference:.2e}")
    assert difference > 1e-6
