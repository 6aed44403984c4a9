from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codecs._sparsifier import count
from quorate.codecs.dgc_sample import DgcSample
from quorate.rand import At, Rand
from tests.codecs.sparse import AT, are_the_largest, energy, left
from tests.tiny import randn


@given(
    d=st.integers(1, 30_000),
    seed=st.integers(0, 99),
    ratio=st.sampled_from([0.001, 0.02, 0.5]),
    power=st.sampled_from([0, 1, 9]),
)
@settings(max_examples=60)
def test_the_largest_are_chosen_and_exactly_k_if_they_would_be_too_many(d, seed, ratio, power):
    x, codec, k = randn(d, seed=seed) ** power, DgcSample(ratio), count(ratio, d)
    chosen = codec.select(x, At(0, 0, 1, Rand(seed)))
    assert 1 <= len(chosen) <= codec.at_most(d)
    assert are_the_largest(x, chosen)
    assert left(codec, x) <= codec.bound(d) + 1e-6
    if power == 0:
        assert len(chosen) == k  # all exceed the threshold


def test_a_sample_of_all_gives_about_all_of_the_energy():
    """The larger the sample, the nearer to k; 64 % of the entries are drawn at least once."""
    x = randn(200_000)
    assert energy(DgcSample(0.01, sample=1.0), x) == pytest.approx(1, abs=0.1)
    assert len(DgcSample(0.01, sample=1.0).select(x, AT)) == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_hostile_updates_stay_within_the_limit(value):
    codec = DgcSample(0.01)
    assert len(codec.select(torch.full((5000,), value), AT)) <= codec.at_most(5000)
    assert len(codec.select(torch.empty(0), AT)) == 0
