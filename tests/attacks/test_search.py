from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from quorate.aggregators import given
from quorate.aggregators.mean import mean
from quorate.attacks.alie import Alie
from quorate.attacks.best_alie import BestAlie
from quorate.attacks.best_ipm import BestIpm
from quorate.attacks.ipm import Ipm
from quorate.errors import RecipeError, RunError
from tests.attacks.lab import one

searched = pytest.mark.parametrize(("Best", "Fixed"), [(BestAlie, Alie), (BestIpm, Ipm)])
"""A search, and the attack of whose sizes it finds the most harmful one."""


def gate(updates, weights=None, *, radius):
    """Average the rows that are within a radius of the first: all honest ones are, and the nearer liars."""
    near = (updates - updates[0]).norm(dim=1) <= radius
    return updates[near].mean(dim=0)


def harm(aggregator, seen, message):
    """How far f copies of a message move the result from the honest mean."""
    rows = torch.cat([seen.known, message.expand(seen.f, -1)])
    return float((aggregator(rows) - seen.known.mean(dim=0)).norm())


@searched
@drawn(radius=st.floats(8, 60), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_does_more_harm_than_any_fixed_size_that_the_search_could_meet(Best, Fixed, radius, seed):
    aggregator = partial(gate, radius=radius)
    seen = one(9, 3, 20, seed=seed, aggregator=aggregator)
    found = harm(aggregator, seen, Best(evaluations=40).forge(seen))
    sizes = [10.0 * 1.02**-k for k in range(300)]
    assert found >= 0.9 * max(harm(aggregator, seen, Fixed(size).forge(seen)) for size in sizes)


@searched
def test_goes_to_the_end_where_nothing_holds_it(Best, Fixed):
    seen = one(aggregator=mean)
    torch.testing.assert_close(Best(most=7.0).forge(seen), Fixed(7.0).forge(seen))


@searched
def test_calls_the_aggregator_no_more_often_than_it_may(Best, Fixed):
    for evaluations in (2, 3, 9, 16):
        calls = []

        def counting(updates, weights=None, calls=calls):
            calls.append(updates.shape)
            return mean(updates)

        Best(evaluations=evaluations).forge(one(9, 3, 4, m=2, aggregator=counting))
        assert 2 <= len(calls) <= evaluations
        assert set(calls) == {(9, 4)}


@searched
def test_rehearses_with_as_many_updates_as_will_be_combined(Best, Fixed):
    calls = []

    def counting(updates, weights=None):
        calls.append(updates.shape)
        return mean(updates)

    Best().forge(one(20, 1, 4, m=3, among=6, aggregator=counting))
    assert set(calls) == {(6, 4)}


@searched
def test_a_rule_that_refuses_or_breaks_does_not_stop_it(Best, Fixed):
    def refusing(updates, weights=None):
        raise RunError("too many")

    def broken(updates, weights=None):
        return updates[0] * float("nan")

    for aggregator in (refusing, broken):
        torch.testing.assert_close(Best().forge(one(aggregator=aggregator)), Fixed(10.0).forge(one()))


@searched
def test_the_rule_is_given_what_it_is_given_at_a_meeting(Best, Fixed):
    heard = []

    @given("last", "rand")
    def remembering(updates, weights=None, *, last=None, rand=None):
        heard.append((last, rand))
        return mean(updates)

    seen = one(aggregator=remembering, last=torch.zeros(5))
    Best(evaluations=2).forge(seen)
    assert heard[0][0] is seen.last
    assert heard[0][1] == seen.at.shared.fold("aggregation")
    Best(evaluations=2).forge(one(aggregator=partial(remembering, rand="mine")))
    assert heard[-1] == (None, "mine")


@searched
@pytest.mark.parametrize(("wrong", "hint"), [({"most": 0.0}, "most = 10.0"), ({"evaluations": 1}, "evaluations = 16")])
def test_refuses_searches_that_can_not_be_made(Best, Fixed, wrong, hint):
    with pytest.raises(RecipeError, match=rf"^{Best.__module__.rpartition('.')[2]} needs .*\nhint: {hint}$"):
        Best(**wrong)
