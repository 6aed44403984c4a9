from __future__ import annotations

import pytest
import torch

from quorate.attacks.equivocate import Equivocate
from quorate.errors import RecipeError
from tests.attacks.lab import one


def test_even_and_odd_peers_are_pulled_apart_by_twice_the_strength():
    seen = one(9, 3, 50)
    even, odd = (Equivocate(2.0).forge_for(seen, peer) for peer in (4, 1))
    torch.testing.assert_close((even + odd) / 2, seen.known.mean(dim=0))
    torch.testing.assert_close((even - odd).abs(), 4 * seen.known.std(dim=0))


def test_peers_of_a_camp_and_a_server_hear_the_same():
    seen = one(9, 3, 50)
    said = [Equivocate().forge_for(seen, peer) for peer in range(6)]
    assert all(torch.equal(said[peer], said[peer % 2]) for peer in range(6))
    assert torch.equal(Equivocate().forge(seen), said[0])


def test_the_direction_stays():
    def direction(step):
        seen = one(9, 3, 50, step=step)
        return (Equivocate().forge(seen) - seen.known.mean(dim=0)).sign()

    assert torch.equal(direction(0), direction(8))


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_strengths_that_are_not_positive(strength):
    with pytest.raises(RecipeError, match=r"^equivocate needs a positive strength, got .*\nhint: strength = 1.5$"):
        Equivocate(strength)
