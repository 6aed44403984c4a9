from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.bulyan import bulyan, middle
from tests.aggregators.test_krum import slow_scores
from tests.tiny import randn

sizes = st.integers(0, 3).flatmap(lambda f: st.tuples(st.just(f), st.integers(4 * f + 3, 4 * f + 5)))


def slow_middle(updates, kept):
    """Sort each coordinate by the distance from its median."""
    found = []
    for column in updates.T.tolist():
        median = statistics.median(column)
        found.append(sum(sorted(column, key=lambda value: (abs(value - median), value))[:kept]) / kept)
    return found


def slow_bulyan(updates, f):
    """Choose by Krum, again and again; of those whose sums are the same, the one with the least to one more."""
    left, chosen = list(range(len(updates))), []
    while len(chosen) < len(updates) - 2 * f:
        numbers = range(max(1, len(left) - f - 2), max(2, len(left)))
        keys = list(zip(*(slow_scores(updates[left], number) for number in numbers), strict=True))
        chosen.append(left.pop(keys.index(min(keys))))
    return slow_middle(updates[chosen], len(updates) - 4 * f)


@given(f_n=sizes, d=st.integers(2, 5), seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=50)
def test_follows_the_definition(f_n, d, seed):
    f, n = f_n
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    assert bulyan(updates, f=f).tolist() == pytest.approx(slow_bulyan(updates, f), abs=1e-12)


@given(n=st.integers(1, 14), drop=st.integers(0, 12), seed=st.integers(0, 999), scale=st.sampled_from([1, 3, 1000]))
@settings(deadline=None)
def test_of_a_coordinate_the_values_closest_to_the_median_are_kept(n, drop, seed, scale):
    """However many are dropped; few different values, whole numbers so that distances are exact, make for ties."""
    drop = min(drop, n - 1)
    updates = (scale * randn(n, 3, seed=seed, dtype=torch.float64)).round()
    assert middle(updates, range(n), drop).tolist() == pytest.approx(slow_middle(updates, n - drop), abs=1e-10)


def test_a_value_that_is_hidden_among_many_coordinates_is_left_out():
    """Krum's choice includes an update that is as close as any, but far off in one coordinate."""
    updates = randn(11, 1000)
    updates[0] = updates[1:].mean(dim=0)
    updates[0, 7] += 15
    assert bulyan(updates, f=2)[7].abs() < 2
