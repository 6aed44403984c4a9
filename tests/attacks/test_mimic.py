from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.attacks import _vectors
from quorate.attacks.mimic import Mimic
from quorate.errors import RecipeError
from tests.attacks.lab import one
from tests.tiny import randn


def slow_choice(known):
    """The row by the covariance's first eigenvector, the textbook way."""
    centred = known - known.mean(dim=0)
    direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    return int((centred @ direction).abs().argmax())


@given(
    n=st.integers(5, 12),
    d=st.integers(2, 8),
    seed=st.integers(0, 10**6),
    size=st.sampled_from([2.0**-70, 1.0, 2.0**70]),
)
@settings(deadline=None)
def test_copies_the_one_furthest_along_the_first_principal_direction(n, d, seed, size):
    known = randn(n - 2, d, seed=seed, dtype=torch.float64) + 30
    assert torch.equal(Mimic().forge(one(n, 2, d, known=size * known)), size * known[slow_choice(known)])


def test_of_two_that_are_equally_far_the_first_is_copied():
    seen = one(4, 2)
    assert torch.equal(Mimic().forge(seen), seen.known[0])


def test_squares_that_overflow_in_float32_do_not_confuse_it():
    known = torch.zeros(5, 3)
    known[3] = 3e38
    assert torch.equal(Mimic().forge(one(known=known, own=known[0])), known[3])


def test_blocks_do_not_change_the_choice(monkeypatch):
    seen = one(20, 5, 100)
    chosen = Mimic().forge(seen)
    monkeypatch.setattr(_vectors, "BLOCK", 40)
    assert torch.equal(Mimic().forge(seen), chosen)


@pytest.mark.parametrize(("rank", "row"), [(0, 0), (4, 4), (5, 0), (6, 0), (9, 2)])
def test_a_rank_is_copied_or_the_next_honest_one(rank, row):
    seen = one(7, 2)  # ranks 5 and 6 lie
    assert torch.equal(Mimic(rank).forge(seen), seen.known[row])


@pytest.mark.parametrize(("rank", "row"), [(6, 1), (5, 0), (2, 0)])
def test_those_that_know_only_each_other_copy_one_of_theirs(rank, row):
    seen = one(7, 2, m=2)
    assert torch.equal(Mimic(rank).forge(seen), seen.known[row])


def test_refuses_ranks_that_are_none():
    with pytest.raises(RecipeError, match=r"^mimic copies a rank from 0 on, got -1\nhint: rank = 0$"):
        Mimic(-1)
