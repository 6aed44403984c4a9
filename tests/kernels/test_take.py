from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.devices import drawn, dtypes, frame_of, framed, kernel, lengths

take = kernel("take")


@given(d=lengths, seed=st.integers(0, 99), dtype=dtypes, offset=st.integers(0, 9), every=st.sampled_from([1, 3, 99]))
@settings(max_examples=20)
def test_what_is_taken_and_what_is_left_make_up_the_vector(d, seed, dtype, offset, every):
    x = drawn(d, seed, dtype, offset)
    places = torch.arange(min(offset, d - 1), d, every, device=x.device)
    left = framed(x, offset)
    values = take.take(left, places)
    assert torch.equal(values, x[places])
    assert not left[places].any()
    assert (frame_of(left) == 77).all()
    assert torch.equal(left.index_add(0, places, values), x)
