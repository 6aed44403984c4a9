from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.aggregators.majority_vote import majority_vote
from quorate.codecs.sign import Sign
from quorate.exchange import Exchange
from quorate.rand import At, Rand
from tests.tiny import randn, simulate


@given(n=st.integers(1, 9), seed=st.integers(0, 999))
def test_counts_votes(n, seed):
    updates = randn(n, 5, seed=seed).round()
    for column, found in zip(updates.T.tolist(), majority_vote(updates).tolist(), strict=True):
        votes = Counter((value > 0) - (value < 0) for value in column)
        assert found == (votes[1] > votes[-1]) - (votes[1] < votes[-1])


@given(f=st.integers(0, 5), seed=st.integers(0, 999), size=st.floats(1e-3, 1e30))
def test_a_minority_of_liars_turns_no_sign_on_which_the_others_agree(f, seed, size):
    truth = randn(5, seed=seed)
    honest, liars = truth.repeat(f + 1, 1) * (0.1 + randn(f + 1, 1, seed=1).abs()), -size * truth.repeat(f, 1)
    assert torch.equal(majority_vote(torch.cat([liars, honest])), truth.sign())


def test_weights_count_votes():
    updates = torch.tensor([[1.0, 2.0], [-3.0, 4.0], [-1.0, 0.0]])
    assert majority_vote(updates, torch.tensor([5.0, 1.0, 2.0])).tolist() == [1.0, 1.0]
    assert majority_vote(updates, torch.tensor([2.0, 1.0, 1.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("updates", "weights"),
    [(torch.ones(0, 2), None), (torch.ones(2), None), (torch.ones(2, 2), torch.ones(3)), (torch.ones(1, 2), [-1.0])],
)
def test_says_what_it_needs(updates, weights):
    with pytest.raises(ValueError, match="majority_vote needs"):
        majority_vote(updates, weights)


def test_signs_travel_and_the_majority_is_followed():
    updates = [torch.tensor([1.0, -2.0, 0.1]), torch.tensor([-5.0, -1.0, 0.1]), torch.tensor([0.5, 7.0, 0.1])]

    async def program(node):
        combined, _ = await exchange(node, updates[node.rank].clone(), {}, At(0, node.rank, 3, Rand(0)))
        return combined.tolist()

    exchange = Exchange(Sign(), majority_vote)
    assert exchange.bytes_said(updates[0]) == 1 + 4
    assert simulate(program, 3) == [[1.0, -1.0, 1.0]] * 3
