from __future__ import annotations

import pytest
import torch

from quorate.attacks.crash import Crash
from quorate.errors import RecipeError
from tests.attacks.lab import meeting, one


def test_is_silent_from_its_step_on():
    for step in range(10):
        said = Crash(step=4).forge(one(step=step))
        assert (said is None) == (step >= 4)
        assert said is None or torch.equal(said, one().own)


def test_is_silent_as_often_as_the_probability_says():
    silent = [[Crash(probability=0.3).forge(seen) is None for seen in meeting(step=step)] for step in range(600)]
    shares = torch.tensor(silent).double().mean(dim=0)
    assert shares.tolist() == pytest.approx([0.3, 0.3], abs=0.06)
    together = sum(all(both) for both in silent) / len(silent)
    assert together == pytest.approx(0.09, abs=0.05)


def test_says_nothing_to_any_peer_when_it_is_silent():
    for step in range(20):
        seen = one(step=step)
        attack = Crash(probability=0.5)
        assert {attack.forge_for(seen, peer) is None for peer in range(5)} == {attack.forge(seen) is None}


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"step": -1}, "step = 0"),
        ({"probability": 0.0}, "probability = 1.0"),
        ({"probability": 1.1}, "probability = 1.0"),
    ],
)
def test_refuses_what_can_not_be(wrong, hint):
    with pytest.raises(RecipeError, match=rf"^crash .*\nhint: {hint}$"):
        Crash(**wrong)
