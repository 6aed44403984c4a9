from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.aggregators import withstands
from quorate.aggregators._screening import BLOCK, check, finite_rows, screened
from quorate.errors import RunError
from tests.tiny import randn

BAD = [torch.nan, torch.inf, -torch.inf]


@withstands(lambda n: (n - 3) // 2)
def rule(updates, weights=None, *, f):
    return updates[0]


@given(
    n=st.integers(1, 6),
    d=st.sampled_from([1, 7, 2 * BLOCK + 3]),
    bad=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**6), st.sampled_from(BAD)), max_size=4),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_finds_the_rows_whose_entries_are_all_finite(n, d, bad, dtype):
    updates = randn(n, d).to(dtype)
    for row, place, value in bad:
        updates[row % n, place % d] = value
    assert finite_rows(updates) == [row for row in range(n) if bool(updates[row].isfinite().all())]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_entries_are_finite_though_their_sum_is_not(dtype):
    updates = torch.full((3, 100), torch.finfo(dtype).max, dtype=dtype)
    assert finite_rows(updates) == [0, 1, 2]
    updates[1, 50] = -torch.inf
    assert finite_rows(updates) == [0, 2]


def test_infinities_of_both_signs_do_not_cancel():
    assert finite_rows(torch.tensor([[torch.inf, -torch.inf], [1e30, -1e30]])) == [1]


def test_each_row_that_is_not_finite_counts_as_one_of_f():
    updates = torch.ones(6, 2)
    assert screened(updates, 2) == ([0, 1, 2, 3, 4, 5], 2)
    updates[4, 1] = torch.nan
    assert screened(updates, 2) == ([0, 1, 2, 3, 5], 1)
    updates[0] = torch.inf
    assert screened(updates, 2) == ([1, 2, 3, 5], 0)
    updates[2, 0] = torch.nan
    with pytest.raises(RunError, match=r"3 of 6 updates are not finite.* f = 2 .*ranks \[0, 2, 4\]") as refused:
        screened(updates, 2)
    assert "set f = 3" in refused.value.hint


@pytest.mark.parametrize(("n", "f", "hint"), [(7, 3, "set f = 2"), (7, -1, "set f = 2"), (2, 0, "at least 3 workers")])
def test_an_f_that_is_not_allowed_is_refused(n, f, hint):
    check(rule, torch.ones(7, 2), None, 2)
    with pytest.raises(RunError, match=r"^rule ") as refused:
        check(rule, torch.ones(n, 2), None, f)
    assert hint in refused.value.hint


@pytest.mark.parametrize("updates", [torch.ones(0, 2), torch.ones(3), torch.ones(3, 2, dtype=torch.int64)])
def test_what_are_no_updates_is_refused(updates):
    with pytest.raises(ValueError, match=r"^rule needs updates of shape"):
        check(rule, updates, None, 0)
