from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.selections import Known
from quorate.selections.by_speed import by_speed
from quorate.selections.power_of_choice import power_of_choice
from quorate.selections.uniform import uniform
from quorate.selections.weighted import weighted

EVERY = [uniform, weighted, partial(power_of_choice, d=5), partial(by_speed, within=2.0)]
clients = st.sets(st.integers(0, 30), min_size=1).map(sorted)
numbers = st.dictionaries(st.integers(0, 30), st.floats(0, 10))


def often(selection, candidates, count, known, draws=400):
    """Return how often each candidate is chosen."""
    chosen = [client for seed in range(draws) for client in selection(candidates, count, Rand(seed), known)]
    return {client: chosen.count(client) / draws for client in candidates}


@pytest.mark.parametrize("selection", EVERY, ids=["uniform", "weighted", "power_of_choice", "by_speed"])
@given(clients, st.integers(1, 40), st.integers(0, 99), numbers, numbers, numbers)
def test_law_different_candidates_in_order_as_many_as_wanted(
    selection, candidates, count, seed, samples, losses, times
):
    known = Known(samples=samples, losses=losses, seconds=times)
    chosen = selection(candidates, count, Rand(seed), known)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(candidates)
    assert len(chosen) == min(count, len(candidates))
    assert selection(candidates, count, Rand(seed), known) == chosen


def test_uniform_chooses_all_alike():
    assert all(abs(share - 0.4) < 0.1 for share in often(uniform, [1, 3, 5, 7, 9], 2, Known()).values())


def test_weighted_draws_by_samples_without_replacement():
    known = Known(samples={1: 10.0, 2: 30.0, 3: 60.0})
    first = often(weighted, [1, 2, 3], 1, known)
    assert [round(first[client], 1) for client in (1, 2, 3)] == [0.1, 0.3, 0.6]
    both = often(weighted, [1, 2, 3], 2, known)
    assert abs(both[1] - (0.1 + 0.3 * 0.1 / 0.7 + 0.6 * 0.1 / 0.4)) < 0.07


def test_weighted_takes_those_without_samples_last():
    assert often(weighted, [1, 2, 3], 2, Known(samples={1: 0.0, 2: 1.0, 3: 2.0}))[1] == 0


def test_power_of_choice_takes_the_highest_losses_and_those_never_seen_first():
    known = Known(losses={0: 1.0, 1: 5.0, 2: 3.0})
    assert power_of_choice([0, 1, 2, 3], 2, Rand(0), known, d=4) == [1, 3]
    assert power_of_choice([0, 1, 2], 2, Rand(0), known, d=3) == [1, 2]


def test_power_of_choice_of_one_candidate_each_draws_by_samples():
    known = Known(samples={1: 10.0, 2: 30.0, 3: 60.0}, losses={1: 9.0, 2: 1.0, 3: 1.0})
    assert round(often(partial(power_of_choice, d=1), [1, 2, 3], 1, known)[3], 1) == 0.6


def test_power_of_choice_needs_somebody_to_choose_from():
    with pytest.raises(RecipeError, match="at least 1; got 0"):
        power_of_choice([1], 1, Rand(0), Known(), d=0)


def test_by_speed_takes_slow_ones_only_if_there_are_no_others():
    known = Known(seconds={1: 1.0, 2: 9.0, 3: 5.0})
    shares = often(partial(by_speed, within=2.0), [1, 2, 3, 4], 1, known)
    assert shares[2] == shares[3] == 0
    assert shares[4] > 0.3  # of which nothing is known
    assert by_speed([1, 2, 3, 4], 3, Rand(0), known, within=2.0) == [1, 3, 4]
