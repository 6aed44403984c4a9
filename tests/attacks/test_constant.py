from __future__ import annotations

import pytest
import torch

from quorate.attacks.constant import Constant
from quorate.errors import RecipeError
from tests.attacks.lab import one


def test_says_the_same_whatever_it_sees():
    assert Constant().forge(one(seed=1)).tolist() == Constant().forge(one(seed=2, step=9)).tolist() == [-100.0] * 5
    assert Constant(3.5).forge(one(d=2)).tolist() == [3.5, 3.5]


def test_a_number_that_does_not_fit_becomes_the_largest():
    assert Constant(-1e9).forge(one(d=1, dtype=torch.float16)).tolist() == [-65504.0]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_refuses_numbers_that_are_not_finite(value):
    with pytest.raises(RecipeError, match=r'^constant says a finite number, got .*\nhint: name = "not_finite"$'):
        Constant(value)
