from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.engines.packing import signature

DTYPES = [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16]
messages = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), min_size=1, max_size=3
).map(lambda parts: tuple(torch.zeros(shape, dtype=dtype) for dtype, shape in parts))


@given(one=messages, other=messages)
def test_messages_of_other_shapes_or_dtypes_have_other_signatures(one, other):
    same = [(each.dtype, each.shape) for each in one] == [(each.dtype, each.shape) for each in other]
    assert torch.equal(signature(one), signature(other)) == same
