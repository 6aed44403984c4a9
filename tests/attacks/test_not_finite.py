from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.mean import mean
from quorate.attacks.not_finite import NotFinite
from quorate.errors import RecipeError
from tests.attacks.lab import meeting, one


@given(value=st.sampled_from(["nan", "inf", "-inf"]), share=st.floats(0.001, 1.0), d=st.integers(1, 50))
@settings(deadline=None)
def test_a_share_of_the_entries_at_least_one_is_replaced(value, share, d):
    seen = one(d=d)
    said = NotFinite(value, share).forge(seen)
    broken = ~said.isfinite()
    assert max(1, share * d) <= int(broken.sum()) < share * d + 1
    assert torch.equal(said[~broken], seen.own[~broken])
    assert torch.equal(
        said[broken].nan_to_num(7.0, 8.0, 9.0),
        torch.full((int(broken.sum()),), float(value)).double().nan_to_num(7.0, 8.0, 9.0),
    )


def test_colluders_choose_the_same_places_and_others_in_the_next_step():
    first, second = (NotFinite(share=0.1).forge(seen).isnan() for seen in meeting(d=200))
    later = NotFinite(share=0.1).forge(one(d=200, step=1)).isnan()
    assert torch.equal(first, second)
    assert not torch.equal(first, later)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_one_entry_of_one_worker_spoils_the_mean(value):
    seen = one(100, 1)
    assert not mean(torch.cat([seen.known, NotFinite(value, 0.01).forge(seen)[None]])).isfinite().all()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_refuses_shares_outside_0_to_1(share):
    with pytest.raises(RecipeError, match=r"^not_finite needs a share of the entries in .*\nhint: share = 1.0$"):
        NotFinite(share=share)


def test_refuses_values_that_are_finite():
    with pytest.raises(RecipeError, match=r"^not_finite says .* got '3'\nhint: value = .nan.$"):
        NotFinite("3")
