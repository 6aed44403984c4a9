from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.aggregators.median import median
from tests.tiny import randn


@given(n=st.integers(1, 20), d=st.integers(1, 5), seed=st.integers(0, 999), decimals=st.sampled_from([0, 1, 9]))
def test_agrees_with_the_definition(n, d, seed, decimals):
    updates = randn(n, d, seed=seed, dtype=torch.float64).round(decimals=decimals)
    right = [statistics.median(column) for column in updates.T.tolist()]
    assert median(updates, f=0).tolist() == pytest.approx(right, abs=1e-15)


@given(n=st.integers(130, 140), seed=st.integers(0, 99))
def test_of_more_updates_than_a_network_is_made_for(n, seed):
    updates = randn(n, 3, seed=seed)
    right = [statistics.median(column) for column in updates.double().T.tolist()]
    assert median(updates, f=4).tolist() == pytest.approx(right, abs=1e-7)


def test_has_torchs_bits():
    updates = randn(45, 1000)
    assert torch.equal(median(updates, f=5), updates.median(dim=0).values)


@given(f=st.integers(0, 4), seed=st.integers(0, 999), lie=st.sampled_from([3e38, -3e38, 1e-45, float("nan"), -1.0]))
def test_lies_between_honest_values(f, seed, lie):
    honest = randn(f + 1, 4, seed=seed)
    found = median(torch.cat([torch.full((f, 4), lie), honest]), f=f)
    assert bool((found >= honest.amin(dim=0)).all())
    assert bool((found <= honest.amax(dim=0)).all())


def test_of_huge_values_is_finite():
    assert median(torch.tensor([[3e38], [3.2e38]]), f=0).item() == pytest.approx(3.1e38)
