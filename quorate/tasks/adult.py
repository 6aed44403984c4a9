"""UCI Adult: does a person earn more than 50,000 dollars a year? What people have in common can be an institution.

Source of the data: Becker and Kohavi, "Adult", UCI Machine Learning Repository, 1996, from the US census of 1994. Some
attributes are sensitive: who is served badly is worth a look.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from quorate.errors import RecipeError
from quorate.tasks import Data, Task, accuracy
from quorate.tasks.files import find
from quorate.tasks.files.census import CATEGORIES, Census, read_census

Institution = Literal["workclass", "education", "marital-status", "occupation", "race", "sex", "native-country"]
SCALES = {"age": (40.0, 15.0), "education-num": (10.0, 3.0), "hours-per-week": (40.0, 12.0)}
"""Of a number: what is subtracted, and then what it is divided by."""
LOGARITHMS = {"capital-gain": 10.0, "capital-loss": 10.0}
"""Of a sum of money in dollars: what log(1 + it) is divided by."""


def adult(
    *,
    data: Path | None = None,
    file: str = "adult/adult.data",
    test_file: str = "adult/adult.test",
    institution: Institution = "occupation",
    hidden: int = 32,
) -> Task:
    """Predict from a census who has a high income.

    How a person becomes numbers is fixed, and depends on nobody's data: institutions need not agree on means first.

    Args:
        data: the data folder.
        file: of the training rows, inside the folder.
        test_file: of the test rows.
        institution: what people of one institution have in common: the key, for partitions of whole institutions.
        hidden: units of the hidden layer; 0 makes it a logistic regression.

    Returns:
        A task with x (n, 104), float32: age, years of education, hours a week, capital gain and loss, each of the
        order of 1, and 99 entries that are 1 for what is true of a person's categories, none for a `?`; the survey's
        own weights are left out. y is (n,), int64, 1 for more than 50,000 dollars; the key is the category's number,
        that of a `?` the one after the last.

    Raises:
        RecipeError: if hidden is out of range.
        DataError: if a file is missing or not as it should be.
    """
    if not 0 <= hidden <= 2**16:
        raise RecipeError(f"hidden is a whole number from 0 to {2**16}; got {hidden}", "set hidden = 32")
    train, test = (_prepared(read_census(find(data, name)), institution) for name in (file, test_file))
    return Task(
        model=lambda: _build(train.x.shape[1], hidden),
        loss=functional.cross_entropy,
        train=train,
        test=test,
        metrics={"accuracy": accuracy},
    )


def _prepared(census: Census, institution: Institution) -> Data:
    columns = census.columns
    numbers = [(columns[name] - middle) / scale for name, (middle, scale) in SCALES.items()]
    numbers += [columns[name].double().log1p() / scale for name, scale in LOGARITHMS.items()]
    true = [_one_hot(columns[name], len(values)) for name, values in CATEGORIES.items()]
    key, count = columns[institution], len(CATEGORIES[institution])
    x = torch.cat([torch.stack(numbers, dim=1).float(), *true], dim=1)
    return Data(x, census.label, torch.where(key < 0, count, key))


def _one_hot(place: Tensor, count: int) -> Tensor:
    """Return (n, count), float32: 1 at a place from 0 up, nothing for -1."""
    return functional.one_hot(place + 1, count + 1)[:, 1:].float()


def _build(features: int, hidden: int) -> nn.Module:
    if not hidden:
        return nn.Sequential(nn.Linear(features, 2))
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2))
