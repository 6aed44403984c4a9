from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.terngrad import Terngrad
from tests.codecs.laws import at, said_of
from tests.tiny import randn


@given(d=st.integers(1, 70), seed=st.integers(0, 999))
def test_says_minus_zero_or_plus_the_blocks_largest_with_the_entrys_sign(d, seed):
    x = randn(d, seed=seed, dtype=torch.float64)
    said = said_of(Terngrad(block=16), x, at(0, seed))
    for start in range(0, d, 16):
        block, heard = x[start : start + 16], said[start : start + 16]
        largest = block.abs().max()
        torch.testing.assert_close(heard[heard != 0].abs(), largest.expand(int((heard != 0).sum())))
        assert (heard * block >= 0).all()
        assert heard[block.abs().argmax()] != 0


def test_the_bound_is_reached_by_one_large_entry_among_equal_ones():
    b = 64
    x = torch.full((b,), 1 / (b**0.5 + 1), dtype=torch.float64)
    x[0] = 1.0
    expected = float((x.abs().max() * x.abs().sum() - x.square().sum()) / x.square().sum())
    assert abs(expected - Terngrad(block=b).bound(b)) < 1e-12
    lost = [float((said_of(Terngrad(block=b), x, at(0, 0, step)) - x).square().sum()) for step in range(2000)]
    mean = torch.tensor(lost)
    assert abs(float(mean.mean() / x.square().sum()) - expected) < 6 * float(mean.std() / x.square().sum()) / 2000**0.5


def test_clipping_narrows_the_scale_and_biases():
    x = torch.cat([torch.ones(99), torch.tensor([100.0])])
    codec, root = Terngrad(block=104, clip=2.5), float(x.square().mean().sqrt())
    said = said_of(codec, x, at(0, 0))
    assert abs(float(said.max()) - 2.5 * root) < 1e-3
    assert (codec.unbiased, Terngrad().unbiased) == (False, True)
    assert torch.equal(said_of(Terngrad(clip=50.0), x, at(0, 0)), said_of(Terngrad(), x, at(0, 0)))
    assert codec.bound(4) == 1.0 > Terngrad().bound(4)
