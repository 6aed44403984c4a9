from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import RunError
from quorate.pre_aggregators.nearest_neighbor_mixing import nearest_neighbor_mixing
from tests.tiny import randn


def slow_mixing(updates, f):
    """Sort the others by their distance, for each."""
    return torch.stack(
        [updates[(updates - own).norm(dim=1).argsort()[: len(updates) - f]].mean(dim=0) for own in updates]
    )


@given(n=st.integers(1, 11), most=st.integers(0, 4), d=st.sampled_from([2, 5, 20_000]), seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=40)
def test_agrees_with_the_definition(n, most, d, seed):
    f = min(most, (n - 1) // 2)
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(nearest_neighbor_mixing(updates, f=f), slow_mixing(updates, f))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_that_are_not_finite_stay_and_are_mixed_into_none(dtype):
    updates = randn(7, 9).to(dtype)
    updates[3], updates[5, 2] = torch.nan, torch.inf
    finite = [0, 1, 2, 4, 6]
    found = nearest_neighbor_mixing(updates, f=3)
    assert found.dtype == dtype
    assert torch.equal(found[[3, 5]].isfinite(), updates[[3, 5]].isfinite())
    right = slow_mixing(updates[finite].double(), 1).to(dtype)
    torch.testing.assert_close(found[finite], right, rtol=0.01, atol=0.01)
    with pytest.raises(RunError, match=r"ranks \[3, 5\]"):
        nearest_neighbor_mixing(updates, f=1)


def test_liars_that_are_far_are_mixed_into_no_honest_update():
    updates = randn(9, 30)
    updates[:3] = 1e38
    honest = updates[3:].mean(dim=0)
    torch.testing.assert_close(nearest_neighbor_mixing(updates, f=3)[3:], honest.repeat(6, 1))


def test_brings_honest_updates_closer():
    updates = randn(20, 50)
    mixed = nearest_neighbor_mixing(updates, f=4)
    assert torch.cdist(mixed, mixed).max() < 0.5 * torch.cdist(updates, updates).max()


def test_an_f_of_half_the_updates_is_refused():
    with pytest.raises(
        RunError, match=r"^nearest_neighbor_mixing withstands f = 0 .. 2 arbitrary updates of 6"
    ) as refused:
        nearest_neighbor_mixing(randn(6, 3), f=3)
    assert refused.value.hint == "set f = 2"
