from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.devices import DEVICE, drawn, dtypes, kernel, lengths

blocks = kernel("blocks")


@given(
    d=lengths,
    seed=st.integers(0, 99),
    dtype=dtypes,
    offset=st.integers(0, 9),
    block=st.sampled_from([1, 2, 7, 256, 1_000, 9_000]),
)
@settings(max_examples=30)
def test_each_block_gives_the_first_of_its_largest(d, seed, dtype, offset, block):
    x = drawn(d, seed, dtype, offset)
    wanted = [block * n + int((each.abs() == each.abs().max()).nonzero()[0]) for n, each in enumerate(x.split(block))]
    assert blocks.largest_of_blocks(x, block).tolist() == wanted


@pytest.mark.parametrize("value", [0.0, -0.0, math.nan, math.inf, -3.0])
def test_equal_entries_give_the_first(value):
    assert blocks.largest_of_blocks(torch.full((20,), value, device=DEVICE), 8).tolist() == [0, 8, 16]


def test_nan_is_larger_than_infinity():
    x = torch.tensor([1.0, math.inf, -math.nan, 2.0], device=DEVICE)
    assert blocks.largest_of_blocks(x, 4).tolist() == [2]
