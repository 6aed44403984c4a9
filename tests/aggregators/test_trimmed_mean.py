from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.aggregators.trimmed_mean import trimmed_mean
from quorate.errors import RunError
from tests.tiny import randn

few = st.integers(0, 5).flatmap(lambda f: st.tuples(st.just(f), st.integers(2 * f + 1, 2 * f + 9)))


def slow_trimmed_mean(updates, f):
    """Sort each coordinate, cut f off at both ends."""
    kept = [sorted(column)[f : len(column) - f] for column in updates.T.tolist()]
    return [sum(values) / len(values) for values in kept]


@given(f_n=few, d=st.integers(1, 5), seed=st.integers(0, 999), decimals=st.sampled_from([0, 1, 9]))
def test_agrees_with_the_definition(f_n, d, seed, decimals):
    f, n = f_n
    updates = randn(n, d, seed=seed, dtype=torch.float64).round(decimals=decimals)
    assert trimmed_mean(updates, f=f).tolist() == pytest.approx(slow_trimmed_mean(updates, f), abs=1e-14)


@given(n=st.integers(130, 140), f=st.integers(0, 60), seed=st.integers(0, 99))
def test_of_more_updates_than_a_network_is_made_for(n, f, seed):
    updates = randn(n, 3, seed=seed, dtype=torch.float64)
    assert trimmed_mean(updates, f=f).tolist() == pytest.approx(slow_trimmed_mean(updates, f), abs=1e-13)


@given(f=st.integers(1, 4), silly=st.integers(0, 4), seed=st.integers(0, 999))
def test_each_update_that_is_not_finite_counts_as_one_of_f(f, silly, seed):
    silly, updates = min(silly, f), randn(2 * f + 3, 4, seed=seed, dtype=torch.float64)
    updates[:silly, seed % 4] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan]).double()[:silly]
    right = slow_trimmed_mean(updates[silly:], f - silly)
    assert trimmed_mean(updates, f=f).tolist() == pytest.approx(right, abs=1e-14)


def test_lies_at_both_ends_are_cut_off():
    updates = torch.tensor([[1.0], [2.0], [3.0], [-1e38], [3e38]])
    assert trimmed_mean(updates, f=1).item() == pytest.approx(2.0)
    with pytest.raises(RunError, match=r"trimmed_mean withstands f = 0 \.\. 2 arbitrary updates of 5, not f = 3"):
        trimmed_mean(updates, f=3)


def test_of_huge_values_is_finite():
    assert trimmed_mean(torch.full((9, 2), 3e38), f=1).tolist() == pytest.approx([3e38] * 2)
