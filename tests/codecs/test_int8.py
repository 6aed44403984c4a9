from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.int8 import Int8
from tests.codecs.laws import at, said_of
from tests.tiny import randn


@given(d=st.integers(1, 70), seed=st.integers(0, 999), stochastic=st.booleans())
def test_says_multiples_of_a_127th_of_the_blocks_largest(d, seed, stochastic):
    x, codec = randn(d, seed=seed, dtype=torch.float64), Int8(16, stochastic)
    said = said_of(codec, x, at(0, seed))
    for start in range(0, d, 16):
        block, heard = x[start : start + 16], said[start : start + 16]
        step = block.abs().max() / 127
        levels = heard / step
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
        assert levels.abs().max() <= 127 + 1e-9
        assert ((heard - block).abs() <= step * (1 if stochastic else 0.5) * (1 + 1e-9)).all()


def test_the_worst_block_reaches_the_bound():
    x = torch.full((1024,), 0.5 / 127 * (1 - 1e-6))
    x[0] = 1.0
    lost = float((said_of(Int8(), x, at(0, 0)) - x).square().sum() / x.square().sum())
    assert 0.98 < lost * (1 + 1023 / 4 / 127**2) / Int8().bound(1024) <= 1


def test_stochastic_rounding_goes_up_as_often_as_it_is_near():
    x = torch.tensor([127.0] + [0.25] * 40_000)
    said = said_of(Int8(block=40_008, stochastic=True), x, at(0, 0))[1:]
    assert abs(float((said > 0.5).float().mean()) - 0.25) < 6 * (0.25 * 0.75 / 40_000) ** 0.5
