from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.pre_aggregators.bucketing import bucketing
from quorate.rand import Rand
from tests.tiny import randn


@given(n=st.integers(1, 12), size=st.integers(1, 5), seed=st.integers(0, 999))
def test_every_update_is_in_one_bucket_of_its_size(n, size, seed):
    """Of rows of one 1 each, a bucket's mean says which ones are in it."""
    means = bucketing(torch.eye(n, dtype=torch.float64), size=size, rand=Rand(seed))
    members = [(mean > 0).nonzero().flatten().tolist() for mean in means]
    assert sorted(row for bucket in members for row in bucket) == list(range(n))
    assert [len(bucket) for bucket in members] == [size] * (n // size) + [n % size] * (n % size > 0)
    torch.testing.assert_close(means.sum(dim=1), torch.ones(len(means), dtype=torch.float64))


def test_who_meets_whom_is_drawn_anew_and_evenly():
    n, draws, together = 6, 2000, torch.zeros(6, 6)
    for seed in range(draws):
        means = bucketing(torch.eye(n), size=2, rand=Rand(seed))
        together += (means.T @ means > 0).float()
    apart = together[~torch.eye(n, dtype=torch.bool)] / draws
    assert (apart - 1 / 5).abs().max() < 5 * (0.2 * 0.8 / draws) ** 0.5


@given(f=st.integers(0, 3), seed=st.integers(0, 999), lie=st.sampled_from([torch.nan, torch.inf, 3e38]))
def test_liars_spoil_their_own_buckets_only(f, seed, lie):
    updates, rand = randn(9, 3, seed=seed), Rand(seed)
    right = bucketing(updates, size=2, rand=rand)
    updates[:f] = lie
    found = bucketing(updates, size=2, rand=rand)
    spoilt = (found != right).any(dim=1)
    assert int(spoilt.sum()) <= f
    assert torch.equal(found[~spoilt], right[~spoilt])


def test_means_of_huge_updates_are_finite():
    assert bucketing(torch.full((4, 2), 3e38), size=2, rand=Rand(0)).isfinite().all()


def test_a_bucket_needs_room():
    with pytest.raises(ValueError, match=r"^bucketing needs a size of at least 1, got 0$"):
        bucketing(torch.zeros(4, 2), size=0, rand=Rand(0))
