from __future__ import annotations

from functools import partial
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators import smea as module
from quorate.aggregators.smea import least_eigenvalue, sets, smea
from quorate.errors import RunError
from tests.tiny import randn

sizes = st.integers(0, 4).flatmap(lambda f: st.tuples(st.just(f), st.integers(2 * f + 1, 9)))


def eigenvalue(updates):
    """Return the greatest eigenvalue of the covariance, a matrix of the updates' length."""
    return torch.linalg.eigvalsh(torch.cov(updates.T, correction=0).reshape(updates.shape[1], -1))[-1]


def slow_smea(updates, f):
    """Look at all sets of n - f."""
    chosen = combinations(range(len(updates)), len(updates) - f)
    return min(map(list, chosen), key=lambda rows: float(eigenvalue(updates[rows])))


@given(f_n=sizes, d=st.integers(1, 6), seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=30)
def test_equals_enumeration(f_n, d, seed):
    f, n = f_n
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    right = updates[slow_smea(updates, f)].mean(dim=0)
    torch.testing.assert_close(smea(updates, f=f), right, rtol=1e-9, atol=1e-9)


@given(f_n=sizes, seed=st.integers(0, 9999), tolerance=st.sampled_from([0.0, 0.05, 1.0]))
@settings(deadline=None, max_examples=30)
def test_of_many_sets_one_within_the_tolerance_is_found(f_n, seed, tolerance):
    f, n = f_n
    updates = randn(n, 4, seed=seed, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EXACT", 0)
        patch.setattr(module, "AT_ONCE", 2)
        found = updates[least_eigenvalue(updates @ updates.T, f, tolerance)]
    assert len(found) == n - f
    assert eigenvalue(found) <= eigenvalue(updates[slow_smea(updates, f)]) * (1 + tolerance) * (1 + 1e-9) + 1e-12


@given(m=st.integers(1, 9), f=st.integers(0, 5))
def test_sets_are_all(m, f):
    f = min(f, m - 1)
    assert [tuple(each) for each in sets(m, f).T.tolist()] == list(combinations(range(m), f))


def test_colluders_along_one_direction_are_left_out_among_many_sets():
    updates = randn(24, 300)
    updates[[3, 7, 11, 15]] += 1.5 * randn(1, 300, seed=5)
    honest = [row for row in range(24) if row not in (3, 7, 11, 15)]
    torch.testing.assert_close(partial(smea, f=4)(updates), updates[honest].mean(dim=0))


def test_too_many_sets_are_refused_before_anything_is_computed():
    with pytest.raises(RunError, match=r"smea with f = 10 would compare 3,190,187,286 sets of 35 of 45") as refused:
        smea(torch.full((45, 2), torch.nan), f=10)
    assert 'name = "caf"' in refused.value.hint
