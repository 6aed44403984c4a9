from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs._quantiser import widened
from quorate.codecs.fp8 import Fp8
from tests.codecs.laws import at, said_of
from tests.tiny import randn


@given(d=st.integers(1, 70), seed=st.integers(0, 999), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_says_what_torch_rounds_to(d, seed, dtype):
    x = randn(d, seed=seed, dtype=dtype) ** 5
    said = said_of(Fp8(16), x, at(0, 0))
    for block, heard in zip(x.split(16), said.split(16), strict=True):
        scale = block.abs().max() / 448
        nearest = (block * scale.reciprocal()).to(torch.float8_e4m3fn).to(dtype) * scale
        torch.testing.assert_close(heard, nearest)


def test_every_code_is_read_as_torch_reads_it():
    codes = torch.arange(256, dtype=torch.uint8)
    wanted = codes.view(torch.float8_e4m3fn)
    numbers = ~wanted.float().isnan()
    for dtype in (torch.float32, torch.float64):
        found = torch.empty(256, dtype=dtype)
        widened(codes, 3, 7, found)
        assert torch.equal(found[numbers], wanted.to(dtype)[numbers])
        assert found.isfinite().all()


def test_small_entries_beside_large_ones_keep_their_digits():
    x = torch.tensor([1.0] + [1e-3] * 7)
    assert ((said_of(Fp8(), x, at(0, 0)) - x).abs() <= x / 17 + 1e-6).all()
