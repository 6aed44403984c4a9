from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codecs._sparsifier import count
from quorate.codecs.redsync import Redsync
from tests.codecs.sparse import AT, are_the_largest
from tests.tiny import randn


def plain(x, ratio: float, tolerance: float):
    """Bisect by counting all entries again; without the limit."""
    magnitudes, k = x.abs(), count(ratio, len(x))
    mean, top = float(magnitudes.mean()), float(magnitudes.max())
    low, high, threshold = 0.0, 1.0, mean
    while high - low > tolerance:
        middle = low + (high - low) / 2
        threshold = mean + middle * (top - mean)
        exceed = int((magnitudes > threshold).sum())
        if k < exceed < 2 * k:
            break
        if exceed <= k:
            high = middle
        else:
            low = middle
    return (magnitudes > threshold).nonzero()[:, 0]


@given(
    d=st.integers(1, 5_000),
    seed=st.integers(0, 99),
    ratio=st.sampled_from([0.001, 0.02, 0.3, 0.7]),
    tolerance=st.sampled_from([0.2, 0.001]),
    power=st.sampled_from([1, 5]),
)
@settings(max_examples=100)
def test_counting_the_largest_2k_gives_what_counting_all_gives(d, seed, ratio, tolerance, power):
    x = randn(d, seed=seed, dtype=torch.float64) ** power
    codec, wanted = Redsync(ratio, tolerance=tolerance), plain(x, ratio, tolerance)
    got = codec.select(x, AT)
    if len(wanted) > codec.at_most(d):
        assert len(got) == codec.at_most(d)
        assert are_the_largest(x, got)
    else:
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bisection_ends_between_k_and_2k_and_trimming_at_k(seed):
    x = randn(100_000, seed=seed)
    assert 100 < len(Redsync(0.001).select(x, AT)) < 200
    trimmed = Redsync(0.001, trim=True).select(x, AT)
    assert len(trimmed) == Redsync(0.001, trim=True).at_most(100_000) == 100
    assert are_the_largest(x, trimmed)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), float("inf")])
def test_hostile_updates_stay_within_the_limit(value):
    assert len(Redsync(0.01).select(torch.full((500,), value), AT)) <= 10
    assert len(Redsync(0.01).select(torch.empty(0), AT)) == 0
