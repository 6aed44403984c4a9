from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.monna import distances_to, monna
from quorate.errors import RunError
from tests.tiny import randn


@given(n=st.integers(1, 11), most=st.integers(0, 4), own=st.integers(0, 10), seed=st.integers(0, 9999))
@settings(deadline=None)
def test_agrees_with_the_definition(n, most, own, seed):
    f, own = min(most, (n - 1) // 2), own % n
    updates = randn(n, 4, seed=seed, dtype=torch.float64)
    order = sorted(range(n), key=lambda row: sum((updates[row] - updates[own]).square().tolist()))
    torch.testing.assert_close(monna(updates, f=f, own=own), updates[order[: n - f]].mean(dim=0))


@pytest.mark.parametrize("huge", [1e19, 3.4e38, torch.inf, torch.nan])
def test_what_is_far_or_not_finite_is_nobodys_neighbour(huge):
    updates = randn(7, 4)
    updates[2], updates[3] = huge, -huge
    torch.testing.assert_close(monna(updates, f=2, own=1), updates[[0, 1, 4, 5, 6]].mean(dim=0))


def test_a_trusted_update_that_is_not_finite_or_not_there_is_refused():
    updates = randn(7, 4)
    updates[2, 1] = torch.nan
    with pytest.raises(RunError, match="the update of rank 2, which monna trusts, is not finite"):
        monna(updates, f=2, own=2)
    for own in (-1, 7):
        with pytest.raises(ValueError, match=rf"monna needs own = 0 .. 6, the row of 7 that is trusted; got {own}"):
            monna(updates, f=2, own=own)


def test_distances_of_any_size():
    updates = torch.tensor([[0.0, 0.0], [3e-30, 4e-30], [3.0, 4.0], [3e30, 4e30]])
    assert distances_to(updates, 0) == pytest.approx([0.0, 5e-30, 5.0, 5e30])
