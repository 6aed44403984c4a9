from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.random_k import RandomK, distinct
from quorate.exchange import Exchange
from quorate.rand import At, Rand
from quorate.wire import Wire, size_in_bytes
from tests.codecs.sparse import AT
from tests.tiny import randn, simulate


@given(d=st.integers(0, 2000), part=st.floats(0, 1), seed=st.integers(0, 999))
def test_distinct_numbers_are_drawn_ascending(d, part, seed):
    k = round(part * d)
    drawn = distinct(k, d, Rand(seed))
    assert (len(drawn), drawn.dtype) == (k, torch.int64)
    assert (drawn.diff() > 0).all()
    assert not k or (int(drawn[0]) >= 0 and int(drawn[-1]) < d)


@pytest.mark.parametrize("k", [3, 9])  # by drawing and by shuffling
def test_every_number_and_every_pair_is_drawn_equally_often(k):
    d, rounds = 12, 2000
    drawn = torch.zeros(rounds, d)
    for number in range(rounds):
        drawn[number, distinct(k, d, Rand(number))] = 1
    singles, pairs = drawn.mean(dim=0), drawn.T @ drawn / rounds
    chance = k / d
    torch.testing.assert_close(singles, torch.full((d,), chance), atol=5 * (chance / rounds) ** 0.5, rtol=0)
    both = k * (k - 1) / (d * (d - 1))
    others = pairs[~torch.eye(d, dtype=torch.bool)]
    torch.testing.assert_close(others, torch.full_like(others, both), atol=5 * (both / rounds) ** 0.5, rtol=0)


def test_all_workers_choose_the_same_and_other_entries_in_every_step():
    x, codec = randn(1000), RandomK(0.1)
    said = [codec.encode(x.clone(), {}, At(step, rank, 4, Rand(7)))[0] for step in (0, 1) for rank in (0, 3)]
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[2], said[3])
    assert not torch.equal(said[0], said[2])


def test_nothing_but_k_values_travels_and_they_are_summed_on_their_way():
    exchange, updates = Exchange(RandomK(0.1)), [randn(200, seed=rank) for rank in range(3)]
    assert exchange.sums_in_flight
    assert size_in_bytes(exchange.emits(updates[0])) == 20 * 4

    async def program(node):
        at = At(0, node.rank, node.size, Rand(3))
        return (await exchange(node, updates[node.rank].clone(), {}, at))[0]

    drawn = distinct(20, 200, At(0, 0, 3, Rand(3)).shared.fold("random_k", 200))
    mean = torch.stack(updates).mean(dim=0)
    for total in simulate(program, 3):
        torch.testing.assert_close(total[drawn], mean[drawn])
        assert int((total != 0).sum()) == 20


def test_scaled_the_expectation_is_the_update_and_the_error_is_the_bound():
    x, d = randn(40, dtype=torch.float64), 40
    for scaled in (True, False):
        codec, total, error, rounds = RandomK(0.25, scaled=scaled), torch.zeros_like(x), 0.0, 2000
        for step in range(rounds):
            at = At(step, 0, 1, Rand(0))
            head, side, _ = codec.encode(x.clone(), {}, at)
            decoded = codec.decode(head, side, x, at)
            total += decoded
            error += float((x - decoded).square().sum() / x.square().sum())
        wanted = x if scaled else x * 0.25
        torch.testing.assert_close(total / rounds, wanted, atol=0.25 if scaled else 0.06, rtol=0)
        assert error / rounds == pytest.approx(codec.bound(d), rel=0.05)
        assert codec.unbiased == scaled


def test_scaled_updates_may_be_longer():
    assert RandomK(0.1).wire(Wire(l2_bound=2.0)).l2_bound == 2.0
    assert RandomK(0.1, scaled=True).wire(Wire(l2_bound=2.0)).l2_bound == float("inf")


def test_nothing_is_said_of_nothing():
    head, side, _ = RandomK().encode(torch.empty(0), {}, AT)
    assert len(RandomK().decode(head, side, torch.empty(0), AT)) == 0
    assert RandomK().bound(0) == 0
