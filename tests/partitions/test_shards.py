from __future__ import annotations

import pytest
import torch

from quorate.errors import RecipeError
from quorate.partitions.shards import shards
from quorate.rand import Rand
from quorate.tasks import Data


@pytest.mark.parametrize("per_worker", [1, 2, 3])
def test_a_worker_sees_few_classes(per_worker):
    y = torch.arange(10).repeat(60)
    parts = shards(Data(y, y), 20, Rand(0), per_worker=per_worker)
    assert {len(part) for part in parts} == {30}
    assert all(len(y[part].unique()) <= 2 * per_worker for part in parts)


def test_shards_that_fit_the_classes_hold_one_class_each():
    y = torch.tensor([-1, 1]).repeat(8)
    assert all(len(y[part].unique()) == 1 for part in shards(Data(y, y), 4, Rand(0), per_worker=1))


@pytest.mark.parametrize(
    ("y", "per_worker", "says"),
    [
        (torch.arange(9), 0, "per_worker is the number of shards, at least 1; got 0\nhint: set per_worker = 2"),
        (
            torch.arange(9),
            4,
            "3 workers with 4 shards each need at least 12 samples, but there are 9\nhint: set per_worker = 3",
        ),
        (
            torch.zeros(9),
            2,
            "`shards` divides by class label, but the targets are torch.float32 of shape (9,)"
            '\nhint: set name = "iid" in [partition]',
        ),
        (
            torch.zeros(9, 2).long(),
            2,
            "`shards` divides by class label, but the targets are torch.int64 of shape (9, 2)"
            '\nhint: set name = "iid" in [partition]',
        ),
    ],
)
def test_refuses_what_has_no_shards(y, per_worker, says):
    with pytest.raises(RecipeError) as error:
        shards(Data(y, y), 3, Rand(0), per_worker=per_worker)
    assert str(error.value) == says
