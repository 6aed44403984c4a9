from __future__ import annotations

import pytest
import torch

from quorate.aggregators.mean import mean
from quorate.attacks.huge import Huge
from quorate.errors import RecipeError
from tests.attacks.lab import meeting, one


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float16, 65504.0), (torch.bfloat16, 1e38), (torch.float32, 1e38), (torch.float64, 1e38)],
)
def test_is_finite_and_its_square_is_not_but_in_float64(dtype, value):
    said = Huge().forge(one(dtype=dtype))
    assert said.tolist() == pytest.approx([value] * 5, rel=0.01)
    assert bool(said.square().isfinite().all()) == (dtype == torch.float64)


def test_opposed_colluders_cancel_but_for_the_overflow():
    said = torch.stack([Huge(opposed=True).forge(seen) for seen in meeting(9, 4, dtype=torch.float32)])
    assert said[:, 0].tolist() == pytest.approx([1e38, -1e38, 1e38, -1e38])
    assert mean(said).tolist() == [0.0] * 5
    assert (said * 4).sum(dim=0).isnan().all()


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_values_that_are_not_positive_or_not_finite(value):
    with pytest.raises(RecipeError, match=r"^huge says a positive number that is finite, got .*\nhint: value = 1e38$"):
        Huge(value)
