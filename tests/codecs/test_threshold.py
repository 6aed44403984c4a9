from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.threshold import Threshold
from tests.codecs.sparse import AT, are_the_largest
from tests.tiny import randn


@given(d=st.integers(0, 2000), seed=st.integers(0, 99), value=st.sampled_from([0.0, 0.5, 2.0, 1e30]))
def test_what_exceeds_the_threshold_is_said_up_to_the_limit(d, seed, value):
    x, codec = randn(d, seed=seed), Threshold(value, most_ratio=0.1)
    chosen, exceed = codec.select(x, AT), int((x.abs() > value).sum())
    assert len(chosen) == min(exceed, codec.at_most(d))
    assert are_the_largest(x, chosen)
    assert (x[chosen].abs() > value).all()


def test_an_update_of_nothing_but_nan_is_not_said():
    assert len(Threshold(1.0).select(torch.full((50,), torch.nan), AT)) == 0
