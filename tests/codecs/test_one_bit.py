from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.one_bit import OneBit
from quorate.codecs.sign import Sign
from tests.codecs.laws import at, said_of
from tests.tiny import randn


@given(d=st.integers(1, 70), seed=st.integers(0, 999), shift=st.floats(-2, 2))
def test_says_the_mean_of_the_entries_of_the_same_sign(d, seed, shift):
    x = randn(d, seed=seed, dtype=torch.float64) + shift
    wanted = torch.empty_like(x)
    for block, out in zip(x.split(16), wanted.split(16), strict=True):
        for chosen in (block < 0, block >= 0):
            out[chosen] = block[chosen].mean() if chosen.any() else 0.0
    torch.testing.assert_close(said_of(OneBit(16), x, at(0, 0)), wanted)


@given(d=st.integers(1, 70), seed=st.integers(0, 999), shift=st.floats(-2, 2))
def test_loses_no_more_than_one_scale_for_both_signs(d, seed, shift):
    x = randn(d, seed=seed, dtype=torch.float64) + shift
    two, one = ((said_of(codec, x, at(0, 0)) - x).norm() for codec in (OneBit(), Sign()))
    assert two <= one + 1e-9


def test_the_sum_of_all_entries_is_said_exactly():
    x = randn(1000, dtype=torch.float64)
    torch.testing.assert_close(said_of(OneBit(1000), x, at(0, 0)).sum(), x.sum())
