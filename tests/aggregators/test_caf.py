from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators.caf import caf
from tests.tiny import randn


def slow_caf(updates, f):
    """Filter by the covariance itself, a matrix of the updates' length."""
    n = len(updates)
    held, best, least = torch.ones(n, dtype=torch.float64), updates.mean(dim=0), torch.inf
    while True:
        mean = held @ updates / held.sum()
        less = updates - mean
        values, vectors = torch.linalg.eigh(less.T * held @ less / held.sum())
        if values[-1] < least:
            best, least = mean, values[-1]
        strays = (less @ vectors[:, -1]).square() * (held > 0)
        held = held * (1 - strays / strays.max())
        if held.sum() <= n - 2 * f:
            return best


def test_one_that_is_left_out_does_not_hold_up_the_filter():
    updates = randn(9, 3, dtype=torch.float64)
    updates[0] *= 1e6
    torch.testing.assert_close(caf(updates, f=4), slow_caf(updates, 4), rtol=1e-5, atol=1e-5)


@given(n=st.integers(3, 12), most=st.integers(0, 4), d=st.integers(2, 6), seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=50)
def test_agrees_with_the_definition(n, most, d, seed):
    """In as many steps as rounding allows: each divides by what is left of differences."""
    f = min(most, (n - 1) // 2)
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(caf(updates, f=f), slow_caf(updates, f), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lie", [3.0, 100.0, 1e10, 1e38])
def test_colluders_lose_their_weight(lie):
    updates = randn(15, 400)
    updates[:4] = lie * randn(1, 400, seed=9)
    honest = updates[4:].mean(dim=0)
    assert (caf(updates, f=4) - honest).norm() < 0.3 * updates[4:].norm(dim=1).mean()


def test_without_liars_nothing_is_filtered():
    updates = randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(caf(updates, f=0), updates.mean(dim=0))
    assert caf(updates[:1], f=0).tolist() == updates[0].tolist()
    assert torch.equal(caf(torch.ones(5, 3), f=2), torch.ones(3))
