from __future__ import annotations

import pytest
import torch

from quorate.attacks.slow_drip import SlowDrip
from quorate.errors import RecipeError
from tests.attacks.lab import one


def shift(step, seed=0, d=400, strength=0.3):
    """The forged message's distance from the mean, in standard deviations."""
    seen = one(9, 3, d, step=step, seed=seed)
    said = SlowDrip(strength).forge(seen)
    return (said - seen.known.mean(dim=0)) / seen.known.std(dim=0)


@pytest.mark.parametrize("strength", [0.1, 0.3, 2.0])
def test_every_coordinate_is_shifted_by_the_strength(strength):
    moved = shift(0, strength=strength)
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, strength))


def test_the_direction_is_that_of_the_run_in_every_step_and_another_in_another_run():
    first = shift(0).sign()
    assert all(torch.equal(shift(step).sign(), first) for step in (1, 7))
    assert abs(float((shift(0, seed=1).sign() * first).mean())) < 0.2
    assert abs(float(first.mean())) < 0.2


def test_lies_deeper_among_the_honest_than_they_do():
    seen = one(9, 3, 400)
    centre = seen.known.mean(dim=0)
    assert float((SlowDrip().forge(seen) - centre).norm()) < 0.5 * float((seen.known - centre).norm(dim=1).min())


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_strengths_that_are_not_positive(strength):
    with pytest.raises(RecipeError, match=r"^slow_drip needs a positive strength, got .*\nhint: strength = 0.3$"):
        SlowDrip(strength)
