from __future__ import annotations

import pytest
import torch

from quorate.aggregators.mean import mean
from quorate.attacks.reversed_gradient import ReversedGradient
from quorate.errors import RecipeError
from tests.attacks.lab import one


@pytest.mark.parametrize("magnitude", [100.0, 2.5])
def test_says_its_own_times_minus_the_magnitude(magnitude):
    seen = one()
    assert torch.equal(ReversedGradient(magnitude).forge(seen), -magnitude * seen.own)


def test_one_of_a_hundred_turns_averaging_uphill():
    seen = one(100, 1)
    updates = torch.cat([seen.known, ReversedGradient().forge(seen)[None]])
    assert float(mean(updates) @ seen.known.mean(dim=0)) < 0


def test_what_overflows_ends_at_the_largest_number():
    seen = one(dtype=torch.float16, own=torch.tensor([1e4, -1e4, 1.0], dtype=torch.float16))
    assert ReversedGradient().forge(seen).tolist() == [-65504.0, 65504.0, -100.0]


@pytest.mark.parametrize("magnitude", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_magnitudes_that_do_not_reverse(magnitude):
    with pytest.raises(
        RecipeError, match=r"^reversed_gradient needs a positive magnitude, got .*\nhint: magnitude = 100$"
    ):
        ReversedGradient(magnitude)
