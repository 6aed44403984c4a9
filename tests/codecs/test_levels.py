from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs._levels import Levels
from tests.codecs.laws import at, said_of
from tests.tiny import randn


@dataclass(frozen=True)
class Stepped(Levels):
    """Whole multiples of a step that is the same for all blocks."""

    top: int
    step: float = 1.0
    random: bool = False
    clipped: bool = False
    block: int = 16

    @property
    def most(self) -> int:
        return self.top

    def bound(self, d):
        return 1.0

    def steps(self, rows, spare):
        return rows.new_full((len(rows), 1), self.top * self.step)


tops = st.sampled_from([1, 2, 3, 7, 8, 100, 127])


@given(top=tops, step=st.sampled_from([1.0, 0.25, 3.0]), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_every_level_of_either_sign_survives_its_bits(top, step, dtype):
    x = step * torch.arange(-top, top + 1, dtype=dtype)
    codec = Stepped(top, step)
    assert 2 ** (codec.bits - 1) > top >= 2 ** (codec.bits - 2)
    torch.testing.assert_close(said_of(codec, x, at(0, 0)), x)


@given(top=tops, d=st.integers(1, 70), seed=st.integers(0, 999), scale=st.floats(0.1, 1))
def test_says_the_nearest_level(top, d, seed, scale):
    x = (scale * top * randn(d, seed=seed, dtype=torch.float64)).clamp(-top, top)
    said = said_of(Stepped(top), x, at(0, seed))
    torch.testing.assert_close(said, said.round(), rtol=0, atol=1e-9)
    assert (said - x).abs().max() <= 0.5 + 1e-9


@given(top=tops, seed=st.integers(0, 999))
def test_what_is_further_out_is_pulled_in(top, seed):
    x = 3 * top * randn(50, seed=seed, dtype=torch.float64)
    said = said_of(Stepped(top, clipped=True), x, at(0, seed))
    torch.testing.assert_close(said, x.clamp(-top, top).round(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.25, -0.75, 5.5, 6.9])
def test_chance_chooses_between_the_two_levels_around_an_entry_and_is_right_on_average(value):
    d = 40_000
    said = said_of(Stepped(7, random=True), torch.full((d,), value), at(0, 0)).double()
    low = torch.tensor(value).floor()
    assert set(said.round(decimals=4).tolist()) == {float(low), float(low + 1)}
    assert abs(float(said.mean()) - value) < 6 * (0.25 / d) ** 0.5
    other = said_of(Stepped(7, random=True), torch.full((d,), value), at(1, 0)).double()
    assert not torch.equal(said, other)
