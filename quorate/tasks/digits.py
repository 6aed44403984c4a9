"""Scikit-learn's digits: 1,797 images of 8 x 8 pixels, ten classes; they come with the package.

Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (its test part).
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.tasks import Data, Task, accuracy

TEST = 0.2  # share of each class


def digits(*, hidden: int = 64) -> Task:
    """Classify digits with one hidden layer of ReLU; the same fifth of each class is the test in every run.

    Args:
        hidden: units of the hidden layer.

    Returns:
        A task with x (n, 64), float32 in [0, 1], and y (n,), int64.

    Raises:
        RecipeError: if there is no hidden unit.
    """
    if hidden < 1:
        raise RecipeError(f"hidden is the number of hidden units, at least 1; got {hidden}", "set hidden = 64")
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()
    test = _test_part(y)
    return Task(
        model=lambda: nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
        loss=functional.cross_entropy,
        train=Data(x[~test], y[~test]),
        test=Data(x[test], y[test]),
        metrics={"accuracy": accuracy},
    )


def _test_part(y: Tensor) -> Tensor:
    """Mark a fixed fifth of each class."""
    test = torch.zeros(len(y), dtype=torch.bool)
    generator = Rand(0).fold("digits", "test").generator()
    for label in range(10):
        index = (y == label).nonzero()[:, 0]
        test[index[torch.randperm(len(index), generator=generator)[: round(TEST * len(index))]]] = True
    return test
