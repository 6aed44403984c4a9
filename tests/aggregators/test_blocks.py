from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quorate.aggregators import _blocks
from quorate.aggregators._blocks import BLOCK, in_blocks, length, lengths, times
from tests.threads import on_threads
from tests.tiny import randn


@given(d=st.integers(0, 40), block=st.integers(1, 12), threads=st.integers(1, 5))
@settings(max_examples=50)
def test_every_coordinate_is_worked_at_once(d, block, threads):
    seen = torch.zeros(d)

    def work(blocks):
        for each in blocks:
            assert each.stop - each.start <= block
            seen[each] += 1

    with on_threads(threads):
        in_blocks(torch.zeros(2, d), work, block)
    assert torch.equal(seen, torch.ones(d))


@pytest.mark.parametrize("threads", [1, 3])
def test_what_goes_wrong_on_a_thread_is_raised(threads):
    def work(blocks):
        if any(each.start == 0 for each in blocks):
            raise ArithmeticError("first block")

    with on_threads(threads), pytest.raises(ArithmeticError, match="first block"):
        in_blocks(torch.zeros(2, 30), work, 4)


def test_threads_write_to_tensors_of_inference_mode():
    with on_threads(3), torch.inference_mode():
        x = torch.zeros(1, 30)
        in_blocks(x, lambda blocks: [x[0, each].add_(1) for each in blocks], 4)
    assert torch.equal(x, torch.ones(1, 30))


@given(
    scale=st.sampled_from([1.0, 1e-45, 1e-40, 1e-25, 1e20, 3e38]), d=st.integers(1, 20), dtype=st.sampled_from([32, 64])
)
@example(scale=1.7e308, d=1, dtype=64)
@example(scale=5e-324, d=1, dtype=64)
def test_length_of_entries_of_any_size(scale, d, dtype):
    x = torch.full((d,), scale, dtype=getattr(torch, f"float{dtype}"))
    assert length(x) == pytest.approx(math.hypot(*x.tolist()), rel=1e-6)


def test_length_of_what_is_not_finite_and_of_nothing():
    assert length(torch.tensor([1.0, -math.inf])) == math.inf
    assert math.isnan(length(torch.tensor([1.0, math.nan])))
    assert length(torch.zeros(3)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_lengths_are_those_of_the_rows_asked_for_on_any_number_of_threads(dtype):
    x = (100 * randn(4, 2 * BLOCK + 5, dtype=torch.float64)).to(dtype)
    found = []
    for threads in (1, 2, 3):
        with on_threads(threads):
            found.append(lengths(x, [3, 1]))
    assert (
        found[0] == found[1] == found[2] == pytest.approx([float(x[row].double().norm()) for row in (3, 1)], rel=1e-5)
    )


@given(size=st.sampled_from([1.0, 1e10, 3e38]), target=st.floats(1e-6, 1.0))
def test_times_a_factor_too_small_for_float32(size, target):
    x = torch.full((3,), size)
    times(x, target / size, x)
    torch.testing.assert_close(x, torch.full((3,), target), rtol=1e-5, atol=0)


def test_no_block_is_long_enough_for_torch_to_split_it():
    assert _blocks.BLOCK < 1 << 15
