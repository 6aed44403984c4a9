from __future__ import annotations

import pytest
import torch

from quorate.attacks.label_flip import LabelFlip
from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.tasks import Data
from tests.attacks.lab import one


def flipped(y, classes=10, **settings):
    return LabelFlip(**settings).poisoned(Data(torch.zeros(len(y)), y), classes, Rand(0)).y


def test_turns_labels_round():
    assert flipped(torch.arange(10)).tolist() == list(range(9, -1, -1))
    assert flipped(torch.tensor([0, 1, 0]), 2).tolist() == [1, 0, 1]
    assert flipped(torch.tensor([-1, 1, 1]), 2).tolist() == [1, -1, -1]
    assert flipped(torch.tensor([1.0, 4.5, 5.0])).tolist() == [5.0, 1.5, 1.0]


@pytest.mark.parametrize("y", [torch.arange(10), torch.tensor([1.0, 2.5]), torch.tensor([-1, 1])])
def test_twice_is_not_at_all(y):
    assert torch.equal(flipped(flipped(y)), y)


def test_one_label_becomes_another():
    y = torch.tensor([0, 1, 7, 7, 2])
    assert flipped(y, source=7, target=1).tolist() == [0, 1, 1, 1, 2]
    assert flipped(y, source=7).tolist() == [0, 1, 2, 2, 2]
    assert flipped(y, target=3).tolist() == [3] * 5


def test_says_what_it_has_computed():
    seen = one()
    assert torch.equal(LabelFlip().forge(seen), seen.own)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"source": 1, "target": 1}, "label_flip turns 1 into itself\nhint: target = 2"),
        ({"target": -1}, "label_flip changes labels from 0 on, got None and -1\nhint: target = 0"),
    ],
)
def test_refuses_what_changes_nothing(wrong, says):
    with pytest.raises(RecipeError, match=rf"^{says}$"):
        LabelFlip(**wrong)
