"""Half precision and bfloat16."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.bf16 import Bf16
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.fp16 import Fp16
from quorate.codecs.int8 import Int8
from quorate.exchange import Exchange
from quorate.rand import At, Rand
from quorate.wire import Incompatible, Wire
from tests.codecs.laws import at, said_of
from tests.tiny import randn, simulate

CASTS = [Fp16(), Bf16()]
every = pytest.mark.parametrize("codec", CASTS, ids=str)


@every
@given(seed=st.integers(0, 999), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_rounds_to_the_nearest(codec, seed, dtype):
    x = randn(50, seed=seed, dtype=dtype)
    said = said_of(codec, x, at(0, 0))
    assert torch.equal(said, x.to(codec.dtype).to(dtype))
    assert ((said - x).abs() <= x.abs() * torch.finfo(codec.dtype).eps / 2 + 1e-7).all()


@every
@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("value", [1e5, -3e38, 1e300])
def test_no_sum_overflows(codec, size, value):
    async def program(node):
        update = torch.full((5,), value, dtype=torch.float64)
        combined, _ = await exchange(node, update, {}, At(0, node.rank, size, Rand(0)))
        return combined

    exchange = Exchange(codec)
    assert exchange.sums_in_flight
    for combined in simulate(program, size):
        assert torch.isfinite(combined).all()
        assert (combined.sign() == math.copysign(1, value)).all()
        assert combined.abs().max() <= torch.finfo(codec.dtype).max


def test_half_precision_reaches_up_to_its_largest_number_over_the_workers():
    assert Fp16().most(1) == pytest.approx(65504, rel=1e-3)
    assert Fp16().most(16) == pytest.approx(65504 / 16, rel=1e-2)


@every
def test_what_is_cut_off_is_said_later(codec):
    feedback, x = ErrorFeedback(codec), torch.tensor([1e5, -1.0, 0.0])
    state, said = feedback.init(x), torch.zeros(3)
    for step in range(12):
        head, side, state = feedback.encode((x if step == 0 else torch.zeros(3)).clone(), state, at(0, 0, step))
        said += feedback.decode(head, side, x, at(0, 0, step))
    torch.testing.assert_close(said, x)


@every
def test_takes_half_the_bytes_and_is_summed(codec):
    facts = codec.wire(Wire(l2_bound=1.0))
    assert facts.summable
    assert facts.l2_bound == pytest.approx(1.0, rel=0.01)
    assert facts.l2_bound > 1
    assert Exchange(codec).bytes_said(torch.zeros(10)) == 20
    with pytest.raises(Incompatible, match="rounds real numbers, but is given something else\nhint: put it first"):
        codec.wire(Int8().wire(Wire()))


@every
def test_the_mean_of_all_updates_is_within_the_roundings_of_their_sum(codec):
    updates = [randn(100, seed=seed) for seed in range(4)]

    async def program(node):
        return await Exchange(codec)(node, updates[node.rank].clone(), {}, At(0, node.rank, 4, Rand(0)))

    wanted, largest = sum(updates) / 4, max(float(update.abs().max()) for update in updates)
    for combined, _ in simulate(program, 4):
        assert (combined - wanted).abs().max() <= 4 * torch.finfo(codec.dtype).eps * largest
