from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import RecipeError
from quorate.wire import Incompatible, Opens, Wire, require, size_in_bytes


def test_before_any_codec_everything_can_be_seen_and_summed():
    assert Wire() == Wire("real", True, True, Opens.EACH, float("inf"), False)


def test_who_sees_each_update_sees_their_total():
    assert Opens.EACH > Opens.TOTAL


def test_what_is_required_and_missing_is_said_with_a_hint():
    require(True, "never said")
    with pytest.raises(Incompatible) as error:
        require(False, "masks need integers", "put fixed_point before it")
    assert str(error.value) == "masks need integers\nhint: put fixed_point before it"
    assert isinstance(error.value, RecipeError)


dtypes = st.sampled_from([(torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 2), (torch.uint8, 1)])


@given(parts=st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=3), dtypes), max_size=4))
@settings(deadline=None)
def test_a_message_is_as_long_as_its_tensors(parts):
    message = tuple(torch.zeros(shape, dtype=dtype) for shape, (dtype, _) in parts)
    slow = sum(len(tensor.flatten().tolist()) * size for tensor, (_, (_, size)) in zip(message, parts, strict=True))
    assert size_in_bytes(message) == slow


def test_a_view_is_as_long_as_what_it_shows():
    assert size_in_bytes((torch.zeros(100)[:3],)) == 12
