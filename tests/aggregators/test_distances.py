from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators import withstands
from quorate.aggregators._distances import LENGTH, around, combined, geometry, linked, products
from quorate.aggregators.caf import caf
from quorate.aggregators.geometric_median import geometric_median
from tests.threads import on_threads
from tests.tiny import randn


@withstands(lambda n: (n - 1) // 2)
def anything(updates, weights=None, *, f):
    return updates[0]


def lie(updates, f=0):
    return geometry(anything, updates, None, f)


def slow_squares(updates):
    """Differences first, in float64."""
    wide = updates.double()
    return (wide[:, None] - wide).square().sum(dim=2)


def agree(found, right, rtol):
    """Compare up to a relative error, whatever the size; what is 0 must be 0."""
    torch.testing.assert_close(found, right, rtol=rtol, atol=0)


@given(
    n=st.integers(1, 9),
    d=st.sampled_from([1, 3, 50, LENGTH + 5]),
    seed=st.integers(0, 999),
    size=st.sampled_from([1e-30, 1e-12, 1.0, 1e15, 1e30]),
)
@settings(deadline=None, max_examples=40)
def test_are_those_of_the_definition_at_any_size(n, d, seed, size):
    updates = (size * randn(n, d, seed=seed, dtype=torch.float64)).float()
    found = lie(updates)
    agree(found.squares, slow_squares(updates) * found.unit**2, 1e-4)
    relative = updates.double() - updates[found.centre].double()
    scale = found.squares.max() + 1e-300
    right = relative @ relative.T * found.unit**2
    torch.testing.assert_close(found.gram / scale, right / scale, rtol=0, atol=1e-5)


@given(
    sizes=st.lists(st.sampled_from([1e-6, 1e-4, 1e-2, 1.0, 1e4]), min_size=2, max_size=8),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=60)
def test_of_rows_that_nearly_coincide_are_as_exact(sizes, offset, seed):
    """Groups of rows ever closer to one another, far from 0; of equal rows the distance is 0."""
    rows = offset * randn(1, 30, seed=seed, dtype=torch.float64).repeat(len(sizes), 1)
    for place, size in enumerate(sizes):
        rows[place:] += size * randn(1, 30, seed=seed + place + 1, dtype=torch.float64)
    for updates in (rows.float(), rows):
        twice = torch.cat([updates, updates[::2]])
        found = lie(twice)
        right = slow_squares(twice) * found.unit**2
        agree(found.squares, right, 1e-4 if updates.dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("huge", [1e19, 1e30, 3.4e38])
def test_rows_without_a_square_are_far_and_hide_nothing(huge):
    updates = randn(9, 40)
    updates[2], updates[5] = huge, -huge
    found = lie(updates, 2)
    agree(found.squares, slow_squares(updates) * found.unit**2, 1e-4)


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e290])
def test_rows_out_of_all_proportion_are_farther_than_any_other(size):
    updates = size * randn(7, 5, dtype=torch.float64)
    updates[3] = 1e308 if size < 1e200 else 1e-300
    honest = [0, 1, 2, 4, 5, 6]
    found = lie(updates, 1)
    assert found.squares.isfinite().all()
    others = found.squares[honest][:, honest]
    agree(others, slow_squares(updates[honest] / size) * (size * found.unit) ** 2, 1e-9)
    if size < 1e200:
        assert found.squares[3, honest].min() > 1e200 * others.max()


def test_rows_that_are_not_finite_are_left_out_wherever_they_are():
    updates = randn(7, 100_000)
    right = lie(updates[1:6]).squares
    updates[0, 77_777], updates[6, 99_999] = torch.nan, -torch.inf
    found = lie(updates, 3)
    assert (found.rows, found.f) == ([1, 2, 3, 4, 5], 1)
    agree(found.squares, right, 1e-5)


def test_inner_products_around_any_row():
    updates = randn(6, 20, dtype=torch.float64)
    for row in range(6):
        relative = updates - updates[row]
        torch.testing.assert_close(around(updates, lie(updates), row).gram, relative @ relative.T)


@pytest.mark.parametrize("n", [7, 20, 45])
@pytest.mark.parametrize("rule", [geometric_median, caf])
def test_the_same_bits_on_any_number_of_threads_which_stays_as_it_is(n, rule):
    updates, found = randn(n, 5 * LENGTH + 77), []
    for threads in (1, 2, 3):
        with on_threads(threads):
            found.append((products(updates, range(n), 3, torch.float32), rule(updates, f=3)))
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == threads
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_any_layout_will_do():
    updates = randn(11, 5 * LENGTH + 77)
    right = products(updates, range(11), 3, torch.float32)
    torch.testing.assert_close(products(updates.T.contiguous().T, range(11), 3, torch.float32), right)
    sums = combined(updates, range(11), [0.1] * 11)
    torch.testing.assert_close(combined(updates.T.contiguous().T, range(11), [0.1] * 11), sums)


@given(n=st.integers(1, 8), seed=st.integers(0, 999))
def test_joins_what_is_linked(n, seed):
    close = randn(n, n, seed=seed) > 1
    close |= close.T.clone()
    reach = torch.linalg.matrix_power((close | torch.eye(n, dtype=torch.bool)).double(), n) > 0
    groups = {tuple(row.nonzero()[:, 0].tolist()) for row in reach}
    assert {tuple(group) for group in linked(close.tolist())} == {group for group in groups if len(group) > 1}


@given(
    n=st.integers(1, 9),
    d=st.sampled_from([0, 1, 60_000]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=30)
def test_sums_are_weighted(n, d, seed, dtype):
    updates, weights = randn(n, d, seed=seed).to(dtype), randn(n, seed=seed + 1, dtype=torch.float64).abs()
    weights[seed % n] = 0
    right = (weights[:, None] / 9 * updates.double()).sum(dim=0)
    exact = 5 * torch.finfo(dtype).eps
    for rows in (list(range(n)), list(range(1, n))):
        found = combined(updates, rows, (weights[rows] / 9).tolist())
        less = right if len(rows) == n else right - weights[0] / 9 * updates[0].double()
        torch.testing.assert_close(found.double(), less, rtol=exact, atol=exact)
        assert found.dtype == dtype


def test_weights_that_float32_has_no_digits_for():
    updates = torch.tensor([[1.0, 2.0], [3e38, -3e38]])
    assert combined(updates, [0, 1], [1.0, 1.23456789e-38]).tolist() == pytest.approx([1 + 3.70370367, 2 - 3.70370367])
    updates[1] = torch.nan
    assert combined(updates, [0], [1.0]).tolist() == [1.0, 2.0]
