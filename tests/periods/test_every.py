from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RecipeError
from quorate.periods.every import every


@given(tau=st.integers(1, 50), start=st.integers(1, 10**6))
def test_once_in_any_tau_steps_in_a_row(tau, start):
    assert sum(every(step, tau=tau) for step in range(start, start + tau)) == 1


def test_meets_after_steps_tau_2_tau_and_so_on():
    assert [step for step in range(1, 13) if every(step, tau=4)] == [4, 8, 12]
    assert all(every(step) for step in range(1, 5))


@pytest.mark.parametrize("tau", [0, -3])
def test_refuses_a_period_of_nothing(tau):
    with pytest.raises(RecipeError) as error:
        every(1, tau=tau)
    assert str(error.value) == (
        f"`tau` is the number of steps between two meetings, at least 1; got {tau}\nhint: tau = 8"
    )
