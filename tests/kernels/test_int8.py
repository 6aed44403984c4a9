from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codecs.int8 import Int8
from tests.codecs.laws import at
from tests.kernels.devices import drawn, frame_of, framed, kernel, lengths

int8 = kernel("int8")

blocks = st.sampled_from([8, 24, 1024, 4096, 9_000])


def said(x: torch.Tensor, block: int, *, take: bool):
    """Return codes and numbers."""
    codes, numbers = (framed(each.flatten()).view(each.shape) for each in Int8(block).emits(x))
    int8.say(x, codes, numbers, block, take=take)
    assert (frame_of(codes) == 77).all()
    assert (frame_of(numbers.flatten()) == 77).all()
    return codes, numbers


@given(d=lengths, seed=st.integers(0, 99), block=blocks, exponent=st.integers(-130, 120), take=st.booleans())
@settings(max_examples=30)
def test_says_what_the_codec_says_to_the_bit(d, seed, block, exponent, take):
    x, codec = drawn(d, seed).ldexp_(torch.tensor(exponent)), Int8(block)
    plain, left = x.cpu(), framed(x)
    wanted, (steps,), _ = (codec.take if take else codec.encode)(plain, {}, at(0, 0))
    codes, numbers = said(left, block, take=take)
    assert torch.equal(codes.cpu(), wanted)
    assert torch.equal(numbers.cpu(), steps)
    assert torch.equal(left.cpu(), plain)
    assert (frame_of(left) == 77).all()


@given(d=lengths, seed=st.integers(0, 99), block=blocks, share=st.sampled_from([None, 1.0, 0.25, 1 / 3]))
@settings(max_examples=30)
def test_hears_what_the_codec_hears(d, seed, block, share):
    x, total, codec = drawn(d, seed), drawn(d, seed + 1), Int8(block)
    codes, numbers = said(x, block, take=False)
    heard = codec.decode(codes.cpu(), (numbers.cpu(),), x.cpu(), at(0, 0))
    if share is None:
        total.fill_(torch.nan)
        int8.hear(total, codes, numbers, block, None)
        assert torch.equal(total.cpu(), heard)
    else:
        wanted = total.cpu() + share * heard
        int8.hear(total, codes, numbers, block, share)
        torch.testing.assert_close(total.cpu(), wanted)
    assert (frame_of(total) == 77).all()


@pytest.mark.parametrize("value", [torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny, 1e-45, 0.0])
def test_extremes_are_said_by_finite_numbers(value):
    x = torch.tensor([value, -value, 0.0, value / 2]).to(drawn(1, 0).device)
    codes, numbers = said(x.clone(), 8, take=False)
    wanted, (steps,), _ = Int8(8).encode(x.cpu(), {}, at(0, 0))
    assert torch.isfinite(numbers).all()
    assert torch.equal(codes.cpu(), wanted)
    assert torch.equal(numbers.cpu(), steps)


def test_halves_are_rounded_to_even():
    x = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -125.5]).to(drawn(1, 0).device)
    codes, _ = said(x.clone(), 8, take=False)
    assert torch.equal(codes.cpu(), Int8(8).encode(x.cpu(), {}, at(0, 0))[0])
