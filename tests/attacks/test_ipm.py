from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.mean import mean
from quorate.attacks.ipm import Ipm
from quorate.errors import RecipeError
from tests.attacks.lab import one


@given(epsilon=st.floats(0.01, 20), f=st.integers(1, 9))
@settings(deadline=None)
def test_averaging_goes_uphill_from_the_epsilon_of_the_source_on(epsilon, f):
    seen = one(10, f)
    updates = torch.cat([seen.known, Ipm(epsilon).forge(seen).expand(f, -1)])
    inner = float(mean(updates) @ seen.known.mean(dim=0))
    if abs(epsilon - (10 - f) / f) > 1e-6:
        assert (inner < 0) == (epsilon > (10 - f) / f)


def test_a_small_epsilon_is_closer_to_the_honest_than_they_are_to_each_other():
    seen = one(12, 2, 200, known=torch.randn(10, 200, generator=torch.Generator().manual_seed(0)))
    forged = Ipm(0.1).forge(seen)
    away = (seen.known - forged).norm(dim=1)
    others = torch.cdist(seen.known, seen.known).fill_diagonal_(torch.inf)
    assert bool((away < others.min(dim=1).values).all())


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_epsilons_that_are_not_positive(epsilon):
    with pytest.raises(RecipeError, match=r"^ipm needs a positive epsilon, got .*\nhint: epsilon = 0.1$"):
        Ipm(epsilon)
