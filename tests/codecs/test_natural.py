from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.natural import Natural
from tests.codecs.laws import at, said_of
from tests.tiny import randn


@given(d=st.integers(1, 70), seed=st.integers(0, 999), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_says_one_of_the_two_powers_of_two_around_an_entry(d, seed, dtype):
    x = randn(d, seed=seed, dtype=dtype) ** 5
    said = said_of(Natural(16), x, at(0, seed))
    mantissas, _ = torch.frexp(said)
    assert (mantissas.abs() == 0.5).all()
    assert torch.equal(said.sign(), x.sign())
    assert ((said.abs() <= 2 * x.abs()) & (said.abs() > x.abs() / 2)).all()


def test_goes_up_as_often_as_the_entry_is_near():
    x = torch.full((40_000,), 5.0)
    up = float((said_of(Natural(), x, at(0, 0)) == 8).float().mean())
    assert abs(up - 0.25) < 6 * (0.25 * 0.75 / 40_000) ** 0.5


def test_powers_of_two_are_said_as_they_are():
    for dtype, least in ((torch.float32, -126), (torch.float64, -1022)):
        for base in (least, -60, 0, 1):
            x = torch.tensor([2.0 ** (base + i) for i in range(126)], dtype=torch.float64).to(dtype)
            assert torch.equal(said_of(Natural(), x, at(0, 0)), x)


def test_what_is_far_below_the_largest_vanishes():
    x = torch.tensor([2.0**100, 2.0**-25, -(2.0**-27)])
    assert said_of(Natural(), x, at(0, 0)).tolist() == [2.0**100, 2.0**-25, 0.0]


def test_subnormal_numbers_are_right_in_expectation():
    x = torch.full((40_000,), 2.0**-128)
    said = said_of(Natural(), x, at(0, 0)).double()
    assert set(said.tolist()) == {0.0, 2.0**-126}
    assert abs(float(said.mean() / 2.0**-128) - 1) < 6 * (3 / 40_000) ** 0.5
