from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.sign import Sign
from tests.codecs.laws import at, said_of
from tests.tiny import randn


@given(d=st.integers(1, 70), seed=st.integers(0, 999))
def test_says_the_sign_times_the_blocks_mean_absolute_value(d, seed):
    x = randn(d, seed=seed, dtype=torch.float64)
    blocks = [block.sign() * block.abs().mean() for block in x.split(16)]
    torch.testing.assert_close(said_of(Sign(16), x, at(0, 0)), torch.cat(blocks))


@given(d=st.integers(1, 70), seed=st.integers(0, 999))
def test_loses_what_the_source_says_to_the_last_digit(d, seed):
    x = randn(d, seed=seed, dtype=torch.float64)
    lost = (said_of(Sign(), x, at(0, 0)) - x).square().sum() / x.square().sum()
    torch.testing.assert_close(lost, 1 - x.abs().sum().square() / (d * x.square().sum()), rtol=1e-9, atol=1e-12)


def test_the_worst_update_reaches_the_bound():
    x = torch.zeros(50, dtype=torch.float64)
    x[3] = -7.0
    assert abs(float((said_of(Sign(), x, at(0, 0)) - x).square().sum() / 49) - Sign().bound(50)) < 1e-12
