from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.aggregators import name_of, needs, what_it_needs
from quorate.aggregators.mean import mean
from quorate.wire import Opens
from tests.tiny import randn


def slow_mean(updates, weights):
    """Sum over samples, of which each worker has as many as its weight says."""
    samples = [row for row, weight in zip(updates.tolist(), weights, strict=True) for _ in range(weight)]
    assert len(samples) == sum(weights)
    return [sum(row[i] for row in samples) / len(samples) for i in range(updates.shape[1])]


@given(weights=st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(any), d=st.integers(1, 5))
@settings(deadline=None)
def test_agrees_with_the_definition(weights, d):
    updates = randn(len(weights), d, seed=sum(weights), dtype=torch.float64)
    assert mean(updates, torch.tensor(weights)).tolist() == pytest.approx(slow_mean(updates, weights), abs=1e-12)


@given(n=st.integers(1, 40), d=st.integers(1, 70), seed=st.integers(0, 999))
@settings(deadline=None)
def test_the_bits_of_a_coordinate_do_not_depend_on_the_others(n, d, seed):
    updates = randn(n, d, seed=seed)
    assert torch.equal(mean(updates)[d // 2 :], mean(updates[:, d // 2 :]))


def test_one_liar_moves_it_arbitrarily_far():
    assert mean(torch.tensor([[0.0], [0.0], [3e9]])).item() == pytest.approx(1e9)


def test_works_on_the_total():
    assert what_it_needs(mean) == what_it_needs(partial(partial(mean))) == Opens.TOTAL
    assert name_of(partial(mean)) == "mean"
    assert what_it_needs(lambda updates, weights=None: updates[0]) == Opens.EACH
    assert what_it_needs(needs(Opens.EACH)(slow_mean)) == Opens.EACH


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 3, 4)])
def test_refuses_what_are_no_updates(shape):
    says = f"mean needs updates of shape (n, d) with n >= 1, got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        mean(torch.zeros(shape))


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0], [1.0, float("inf")], [1.0, 1.0, 1.0]]
)
def test_refuses_weights_that_do_not_fit(weights):
    says = f"mean needs 2 weights that are not negative, of positive sum; got {weights}"
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        mean(torch.zeros(2, 3), torch.tensor(weights, dtype=torch.float64))
