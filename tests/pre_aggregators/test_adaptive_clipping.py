from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.pre_aggregators.adaptive_clipping import adaptive_clipping
from tests.aggregators.test_trimmed_mean import few
from tests.tiny import randn


def slow_adaptive_clipping(updates, f):
    """Definition by the book."""
    n = len(updates)
    longest_first = sorted(range(n), key=lambda row: -float(updates[row].norm()))
    clipped, many = updates.clone(), int(2 * f * (n - f) / n)
    radius = float(updates[longest_first[many]].norm())
    for row in longest_first[:many]:
        clipped[row] *= radius / float(updates[row].norm())
    return clipped


@given(f_n=few, seed=st.integers(0, 999))
def test_agrees_with_the_definition(f_n, seed):
    f, n = f_n
    updates = randn(n, 3, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(adaptive_clipping(updates, f=f), slow_adaptive_clipping(updates, f))


@given(f_n=few, seed=st.integers(0, 999), lie=st.sampled_from([1e19, 3e38, -3e38]))
def test_no_row_is_longer_than_the_longest_honest_one(f_n, seed, lie):
    f, n = f_n
    updates = randn(n, 3, seed=seed)
    updates[:f] = lie
    longest = updates[f:].double().norm(dim=1).max()
    assert adaptive_clipping(updates, f=f).double().norm(dim=1).max() <= longest * (1 + 1e-5)


def test_what_is_not_finite_counts_as_one_of_f_and_stays():
    updates = randn(7, 3)
    updates[2] = torch.nan
    found = adaptive_clipping(updates, f=3)
    assert found[2].isnan().all()
    others = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(found[others], slow_adaptive_clipping(updates[others], 2))


def test_of_updates_of_one_length_nothing_is_copied():
    updates = torch.eye(5)
    assert adaptive_clipping(updates, f=2) is updates
    assert adaptive_clipping(torch.zeros(5, 2), f=2).eq(0).all()
