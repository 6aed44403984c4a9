from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.qsgd import Qsgd
from quorate.errors import RecipeError
from tests.codecs.laws import at, said_of
from tests.tiny import randn


@given(d=st.integers(1, 70), levels=st.integers(1, 127), seed=st.integers(0, 999))
def test_says_one_of_the_two_levels_of_the_norm_that_an_entry_lies_between(d, levels, seed):
    x = randn(d, seed=seed, dtype=torch.float64)
    said = said_of(Qsgd(levels, block=16), x, at(0, seed))
    for start in range(0, d, 16):
        block, heard = x[start : start + 16], said[start : start + 16]
        found = heard / block.norm() * levels
        torch.testing.assert_close(found, found.round(), rtol=0, atol=1e-9)
        assert ((found - block / block.norm() * levels).abs() <= 1 + 1e-9).all()
        assert found.abs().max() <= levels + 1e-9


@pytest.mark.parametrize(("levels", "bits"), [(1, 2), (2, 3), (3, 3), (7, 4), (15, 5), (31, 6), (63, 7), (127, 8)])
def test_uses_the_bits_that_its_levels_need(levels, bits):
    assert Qsgd(levels).bits == bits


@pytest.mark.parametrize("levels", [0, 128])
def test_has_1_to_127_levels(levels):
    with pytest.raises(RecipeError, match=f"qsgd has 1 to 127 levels, got {levels}\nhint: levels = 7"):
        Qsgd(levels)


def test_the_bound_is_the_smaller_of_the_two():
    assert Qsgd(levels=127, block=512).bound(10**6) == 512 / (4 * 127**2)
    assert Qsgd(levels=1, block=512).bound(10**6) == 512**0.5
    assert Qsgd(levels=1).bound(4) == 1.0
