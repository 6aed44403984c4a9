"""A model and data of your own as a task: `quorate run examples/own_task.toml`.

A task is a function that returns a `Task`; its keyword arguments are keys of the recipe's [task] table.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from quorate.tasks import Data, Task, accuracy


def tumours(*, hidden: int = 16) -> Task:
    """Tell malignant from benign tumours by 30 measurements; every third patient is for testing."""
    measurements, labels = load_breast_cancer(return_X_y=True)
    x, y = torch.tensor(measurements, dtype=torch.float32), torch.tensor(labels)
    test = torch.arange(len(x)) % 3 == 0
    x = (x - x[~test].mean(0)) / x[~test].std(0)
    return Task(
        model=lambda: nn.Sequential(nn.Linear(30, hidden), nn.Tanh(), nn.Linear(hidden, 2)),
        loss=nn.functional.cross_entropy,
        train=Data(x[~test], y[~test]),
        test=Data(x[test], y[test]),
        metrics={"accuracy": accuracy},
    )
