from __future__ import annotations

import pytest
import torch

from quorate.attacks.gaussian import Gaussian
from quorate.errors import RecipeError
from tests.attacks.lab import meeting, one


def test_is_normal_noise_of_the_deviation():
    said = Gaussian(3.0).forge(one(d=40_000))
    assert abs(float(said.mean())) < 0.06
    assert float(said.std()) == pytest.approx(3.0, rel=0.02)
    assert float((said.abs() < 3.0).double().mean()) == pytest.approx(0.6827, abs=0.01)


def test_every_colluder_and_every_step_draws_anew():
    first, second = (Gaussian().forge(seen) for seen in meeting(d=2000))
    later = Gaussian().forge(one(d=2000, step=1))
    for other in (second, later):
        assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.1


def test_tells_nothing_of_what_was_computed():
    assert torch.equal(Gaussian().forge(one()), Gaussian().forge(one(own=torch.zeros(5, dtype=torch.float64))))


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_deviations_that_are_none(deviation):
    with pytest.raises(RecipeError, match=r"^gaussian needs a positive deviation, got .*\nhint: deviation = 200.0$"):
        Gaussian(deviation)
