from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import selection
from tests.kernels.devices import DEVICE, drawn, dtypes, kernel, lengths

above = kernel("above")


def check(x: torch.Tensor, threshold: float) -> int:
    indices, magnitudes = above.above(x, threshold)
    wanted = selection.plain_above(x, threshold)
    assert (indices.dtype, magnitudes.dtype) == (torch.int64, torch.float32)
    assert torch.equal(indices, wanted.indices)
    assert torch.equal(magnitudes, wanted.magnitudes)
    return len(indices)


@given(
    d=lengths,
    seed=st.integers(0, 99),
    dtype=dtypes,
    offset=st.integers(0, 9),
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, math.inf]),
)
@settings(max_examples=30)
def test_finds_what_its_definition_finds(d, seed, dtype, offset, threshold):
    check(drawn(d, seed, dtype, offset), threshold)


@pytest.mark.parametrize("crowd", [above._ROOM - 1, above._ROOM, above._ROOM + 1, above._TILE])
def test_tiles_may_hold_few_or_many(crowd):
    """Few in the first tile, a crowd in the second, none in the third, one in the last, which is short."""
    x = torch.zeros(3 * above._TILE + 5)
    x[[0, 100, above._TILE - 1]] = -2.0
    x[above._TILE : 2 * above._TILE][torch.arange(crowd) * (above._TILE // crowd)] = 3.0
    x[-1] = 4.0
    assert check(x.to(DEVICE), 1.0) == 4 + crowd


def test_what_is_not_finite_is_compared_as_such():
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -math.nan], device=DEVICE)
    assert above.above(x, 0.0)[0].tolist() == [1, 2, 5]
    assert above.above(x, math.inf)[0].tolist() == []
    assert above.above(x, math.nan)[0].tolist() == []
