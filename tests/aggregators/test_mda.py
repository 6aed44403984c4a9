from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.mda import covers, least_diameter, mda
from tests.tiny import randn

sizes = st.integers(0, 6).flatmap(lambda f: st.tuples(st.just(f), st.integers(max(1, 2 * f + 1), 13)))


def slow_best(updates, f):
    """Look at all sets of n - f: the least diameter, then the least sum of squared distances."""
    squares = (updates[:, None] - updates).square().sum(dim=2).tolist()

    def size(chosen):
        pairs = [squares[i][j] for i, j in combinations(chosen, 2)] or [0.0]
        return max(pairs), sum(pairs)

    return min(combinations(range(len(updates)), len(updates) - f), key=size)


@given(f_n=sizes, d=st.integers(1, 6), seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=60)
def test_equals_enumeration(f_n, d, seed):
    f, n = f_n
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    right = updates[list(slow_best(updates, f))].mean(dim=0)
    torch.testing.assert_close(mda(updates, f=f), right, rtol=1e-9, atol=1e-9)


@given(f_n=sizes, seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=60)
def test_has_the_least_diameter_where_distances_are_equal(f_n, seed):
    """On a small grid many distances are the same."""
    f, n = f_n
    updates = randn(n, 2, seed=seed, dtype=torch.float64).round()
    squares = (updates[:, None] - updates).square().sum(dim=2)
    chosen, right = least_diameter(squares, f), list(slow_best(updates, f))
    assert len(set(chosen)) == n - f
    assert squares[chosen][:, chosen].max() == squares[right][:, right].max()


@given(n=st.integers(1, 8), edges=st.sets(st.integers(0, 63)), size=st.integers(0, 7))
@settings(deadline=None)
def test_finds_covers_and_all_of_the_smallest(n, edges, size):
    pairs = [(a, b) for a, b in combinations(range(n), 2) if 8 * a + b in edges]
    graph = [sum(1 << b for a, b in [*pairs, *[(b, a) for a, b in pairs]] if a == row) for row in range(n)]
    sets = [sum(1 << i for i in each) for k in range(size + 1) for each in combinations(range(n), k)]
    right = {each for each in sets if all(each >> a & 1 or each >> b & 1 for a, b in pairs)}
    found = set(covers(graph, size))
    assert found <= right
    assert bool(found) == bool(right)
    least = min((each.bit_count() for each in right), default=0)
    assert {each for each in right if each.bit_count() == least} <= found


@pytest.mark.parametrize("f", [5, 22])
def test_is_quick_for_45_updates_that_are_about_equally_far(f):
    updates = randn(45, 400)
    chosen = least_diameter(torch.cdist(updates, updates).square().double(), f)
    assert len(chosen) == 45 - f


def test_colluders_are_left_out():
    updates = randn(11, 20)
    updates[[1, 4, 8]] = 9.0
    right = updates[[0, 2, 3, 5, 6, 7, 9, 10]].mean(dim=0)
    torch.testing.assert_close(mda(updates, f=3), right)
