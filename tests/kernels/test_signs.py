from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codecs.one_bit import OneBit
from quorate.codecs.sign import Sign
from tests.codecs.laws import at
from tests.kernels.devices import DEVICE, drawn, frame_of, framed, kernel, lengths

signs = kernel("signs")

codecs = st.sampled_from([part(block) for part in (Sign, OneBit) for block in (8, 24, 1024, 4096, 9_000)])


def said(codec, x: torch.Tensor, *, take: bool):
    """Return codes and numbers."""
    codes, numbers = (framed(each.flatten()).view(each.shape) for each in codec.emits(x))
    signs.say(x, codes, numbers, codec.block, take=take)
    assert (frame_of(codes) == 77).all()
    assert (frame_of(numbers.flatten()) == 77).all()
    return codes, numbers


@given(codec=codecs, d=lengths, seed=st.integers(0, 99), exponent=st.integers(-100, 100), take=st.booleans())
@settings(max_examples=40)
def test_says_what_the_codec_says(codec, d, seed, exponent, take):
    x = drawn(d, seed).ldexp_(torch.tensor(exponent))
    plain, left = x.cpu().clone(), framed(x)
    wanted, (means,), _ = codec.encode(plain.clone(), {}, at(0, 0))
    codes, numbers = said(codec, left, take=take)
    assert torch.equal(codes.cpu(), wanted)
    torch.testing.assert_close(numbers.cpu(), means, rtol=1e-5, atol=0)
    if take:
        plain = plain - codec.decode(codes.cpu(), (numbers.cpu(),), plain, at(0, 0))
    assert torch.equal(left.cpu(), plain)
    assert (frame_of(left) == 77).all()


@given(codec=codecs, d=lengths, seed=st.integers(0, 99), share=st.sampled_from([None, 1.0, 0.25, 1 / 3]))
@settings(max_examples=40)
def test_hears_what_the_codec_hears(codec, d, seed, share):
    x, total = drawn(d, seed), drawn(d, seed + 1)
    codes, numbers = said(codec, x, take=False)
    heard = codec.decode(codes.cpu(), (numbers.cpu(),), x.cpu(), at(0, 0))
    if share is None:
        total.fill_(torch.nan)
        signs.hear(total, codes, numbers, codec.block, None)
        assert torch.equal(total.cpu(), heard)
    else:
        wanted = total.cpu() + share * heard
        signs.hear(total, codes, numbers, codec.block, share)
        torch.testing.assert_close(total.cpu(), wanted)
    assert (frame_of(total) == 77).all()


@pytest.mark.filterwarnings("ignore:overflow encountered in reduce:RuntimeWarning")  # by the interpreter
@pytest.mark.parametrize("codec", [Sign(8), OneBit(8)], ids=str)
def test_extremes_are_said_by_finite_numbers(codec):
    most = torch.finfo(torch.float32).max
    for value in (most, -most, torch.finfo(torch.float32).tiny, 0.0, -0.0):
        x = torch.full((11,), value, device=DEVICE)
        codes, numbers = said(codec, x.clone(), take=False)
        wanted, (means,), _ = codec.encode(x.cpu(), {}, at(0, 0))
        assert torch.isfinite(numbers).all()
        assert torch.equal(codes.cpu(), wanted)
        torch.testing.assert_close(numbers.cpu(), means, rtol=1e-5, atol=0)
