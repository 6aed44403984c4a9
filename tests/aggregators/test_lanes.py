from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quorate.aggregators._blocks import BLOCK
from quorate.aggregators._lanes import LANES, average, by_rank, network, planned
from tests.threads import on_threads
from tests.tiny import randn


@pytest.mark.parametrize("n", range(1, 13))
def test_the_network_sorts(n):
    """By the 0-1 principle (Knuth, volume 3, section 5.3.4, theorem Z), zeros and ones are all that need be tried."""
    for values in map(list, itertools.product((0, 1), repeat=n)):
        before = sum(values)
        for low, high in network(range(n)):
            values[low], values[high] = min(values[low], values[high]), max(values[low], values[high])
        assert values == [0] * (n - before) + [1] * before


@given(data=st.data(), n=st.integers(1, 40), seed=st.integers(0, 999))
@settings(max_examples=60)
def test_wanted_ranks_are_those_of_sorting(data, n, seed):
    alone = frozenset(data.draw(st.sets(st.integers(0, n - 1)), "alone"))
    together = frozenset(data.draw(st.sets(st.integers(0, n - 1)), "together")) - alone
    wanted, kept, given_updates = alone | together, [], randn(n + 1, 6, seed=seed).round(decimals=1)
    rows = [row for row in range(n + 1) if row != seed % (n + 1)]

    def combine(values, out):
        kept.append({rank: values[rank].clone() for rank in wanted})
        out.zero_()

    updates = given_updates.clone()
    by_rank(updates, rows, alone, together, combine)
    assert torch.equal(updates, given_updates)
    right = updates[rows].sort(dim=0).values
    assert all(torch.equal(kept[0][rank], right[rank]) for rank in alone)
    if together:
        ranks = sorted(together)
        assert torch.equal(torch.stack([kept[0][rank] for rank in ranks]).sort(dim=0).values, right[ranks])


@given(n=st.integers(1, LANES))
@example(n=LANES)
@settings(max_examples=20)
def test_one_row_more_than_there_are_lanes_is_room_enough(n):
    plan = planned(n, frozenset(), frozenset((n // 2,)))
    assert plan.spare <= n + 1
    assert all(step.to >= n for step in plan.steps)


def test_no_more_is_done_than_needed():
    """Sorting 45 takes 684 steps; the best known median network of 9, Paeth's, takes 19 comparators."""
    assert len(planned(9, frozenset(), frozenset((4,))).steps) <= 36
    assert len(planned(45, frozenset(), frozenset((22,))).steps) <= 452
    assert len(planned(45, frozenset(), frozenset(range(5, 40))).steps) <= 530
    assert planned(45, frozenset(), frozenset(range(45))).steps == ()


@pytest.mark.parametrize("n", [5, LANES, LANES + 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_same_bits_on_any_number_of_threads_and_in_any_company(n, dtype):
    d = 2 * BLOCK + 5 if n == 5 else 700
    updates, middle, found = randn(n, d, dtype=torch.float64).to(dtype), frozenset(range(1, n - 1)), []

    def combined(updates):
        return by_rank(updates, range(n), frozenset(), middle, lambda values, out: average(values[1 : n - 1], out))

    for threads in (1, 2, 3):
        with on_threads(threads):
            found.append(combined(updates))
    assert found[0].dtype == dtype
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert torch.equal(combined(updates[:, d // 3 :]), found[0][d // 3 :])
    right = updates.double().sort(dim=0).values[1 : n - 1].mean(dim=0)
    torch.testing.assert_close(found[0].double(), right, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_average_does_not_overflow():
    out = torch.empty(1)
    average([torch.tensor([3e38])] * 7, out)
    torch.testing.assert_close(out, torch.tensor([3e38]))


def test_rows_that_stand_apart_in_memory():
    updates = randn(40, 6).T[:, ::2]
    found = by_rank(updates, range(6), frozenset((0,)), frozenset(), lambda values, out: out.copy_(values[0]))
    assert torch.equal(found, updates.amin(dim=0))


def test_of_no_coordinates():
    assert by_rank(torch.zeros(3, 0), range(3), frozenset((1,)), frozenset(), average).shape == (0,)
