from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codecs.count_sketch import CountSketch, _median
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.exchange import Exchange, Meeting
from quorate.rand import At, Rand
from quorate.trees import flatten, nest
from quorate.wire import Incompatible, size_in_bytes
from tests.tiny import randn, simulate

SEED = Rand(3).fold("count_sketch")


def run(codec, updates, weights=None, states=None, first=0, **simulator):
    """Let workers meet once for each update of (steps, n, d); return (what each got in each step, states)."""
    steps, n, _ = updates.shape
    exchange = Exchange(codec)

    async def program(node):
        state = exchange.init(updates[0, 0]) if states is None else nest(flatten(states[node.rank]))
        got = []
        for step in range(steps):
            at = At(first + step, node.rank, n, Rand(3))
            combined, state = await exchange(node, updates[step, node.rank].clone(), state, at, weights)
            got.append(combined.clone())
        return torch.stack(got), state

    ends = simulate(program, n, **simulator)
    return [got for got, _ in ends], [state for _, state in ends]


def slow_sketch(codec, x, shape, rand):
    """Add up entries one at a time, by cells and signs found from tables of single entries."""
    table = torch.zeros(shape, dtype=x.dtype)
    for index in range(len(x)):
        one = torch.zeros_like(x)
        one[index] = 1
        table += x[index] * codec.sketch(None, one, shape, rand)
    return table


@given(d=st.integers(1, 60), seed=st.integers(0, 99), columns=st.sampled_from([2, 8, 32]), rows=st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=20)
def test_a_table_adds_each_entry_to_one_cell_of_each_row(d, seed, columns, rows):
    codec, (x,) = CountSketch(), randn(1, d, seed=seed, dtype=torch.float64)
    one = torch.zeros_like(x)
    one[d - 1] = 1
    single = codec.sketch(None, one, (rows, columns), SEED)
    assert (single.abs().sum(dim=1) == 1).all()
    assert (single.count_nonzero(dim=1) == 1).all()
    torch.testing.assert_close(
        codec.sketch(None, x, (rows, columns), SEED), slow_sketch(codec, x, (rows, columns), SEED)
    )
    chosen = torch.arange(0, d, 3)
    alone = torch.zeros_like(x)
    alone[chosen] = x[chosen]
    torch.testing.assert_close(
        codec.sketch(chosen, x[chosen], (rows, columns), SEED), codec.sketch(None, alone, (rows, columns), SEED)
    )


def test_hashes_do_not_depend_on_how_entries_are_cut_into_chunks():
    d = 200_000
    x = torch.zeros(d, dtype=torch.float64)
    some = torch.tensor([0, 65_535, 65_536, 131_073, 199_999])
    x[some] = torch.arange(1.0, 6.0, dtype=torch.float64)
    whole, few = CountSketch().sketch(None, x, (5, 64), SEED), CountSketch().sketch(some, x[some], (5, 64), SEED)
    assert torch.equal(whole, few)


def test_cells_and_signs_are_spread_evenly_and_pairs_of_entries_are_independent():
    """Over many streams: 2 of 16 entries share a cell in 1 of 16 cases, with equal signs in half of them."""
    streams, columns = 4000, 16
    products = torch.zeros(streams)
    shared = 0
    for stream in range(streams):
        tables = [
            CountSketch().sketch(torch.tensor([i]), torch.ones(1), (1, columns), Rand(stream))[0] for i in (7, 1000)
        ]
        products[stream] = tables[0] @ tables[1]
        shared += int(products[stream] != 0)
    assert abs(shared / streams - 1 / columns) < 4 * (1 / columns / streams) ** 0.5
    assert abs(float(products.sum())) < 4 * (streams / columns) ** 0.5


@given(rows=st.sampled_from([1, 3, 5]), seed=st.integers(0, 999))
def test_the_median_is_the_median(rows, seed):
    x = randn(rows, 50, seed=seed)
    assert torch.equal(_median(list(x)), x.median(dim=0).values)


def test_heavy_hitters_of_the_sum_are_recovered_even_where_no_worker_has_one():
    n, d = 4, 100_000
    updates = 0.01 * randn(1, n, d).clone()
    heavy = torch.randperm(d, generator=torch.Generator().manual_seed(1))[:50].sort().values
    updates[0, :, heavy] += torch.where(torch.arange(50) % 2 == 0, 1.0, -1.0)
    lone = int(heavy[0]) + 1
    updates[0, 0, lone], updates[0, 1, lone] = 50.0, -50.0  # large on two workers, nothing in the sum
    got, _ = run(CountSketch(0.0005, cells=150), updates)
    found = got[0][0].nonzero()[:, 0]
    assert len(found) == 50
    assert torch.equal(found, heavy)
    torch.testing.assert_close(got[0][0][heavy], updates[0].mean(dim=0)[heavy], rtol=0.1, atol=0.05)


@given(n=st.integers(1, 4), seed=st.integers(0, 99), weighted=st.booleans(), rows=st.sampled_from([1, 3, 5]))
@settings(deadline=None, max_examples=20)
def test_all_workers_get_the_same_bits_and_sketches_hold_what_is_left(n, seed, weighted, rows):
    d, codec = 600, CountSketch(0.02, rows=rows, cells=4)
    updates = randn(3, n, d, seed=seed, dtype=torch.float64)
    raw = [1.0 + rank for rank in range(n)]
    weights = tuple(each / sum(raw) for each in raw) if weighted else None
    got, states = run(codec, updates, weights)
    assert all(torch.equal(each, got[0]) for each in got)
    assert all(int(step.count_nonzero()) <= 12 for step in got[0])
    share = torch.tensor(weights or [1 / n] * n, dtype=torch.float64)
    everything = (share[:, None] * updates.sum(dim=0)).sum(dim=0)
    left = sum(state["sketch"] for state in states)
    rand = Rand(3).fold("count_sketch")
    wanted = codec.sketch(None, everything - got[0].sum(dim=0), codec.shape(d), rand)
    torch.testing.assert_close(left, wanted)


def test_what_is_left_is_said_in_time():
    update = torch.zeros(1, 2, 5000)
    update[:, :, :200] = 1.0
    codec = CountSketch(0.01, cells=20)
    got, _ = run(codec, update.expand(40, -1, -1).clone())
    said = got[0].sum(dim=0)[:200] / 40
    assert float((said - 1).abs().mean()) < 0.2


def test_it_goes_on_from_a_checkpoint_and_nobody_writes_where_he_may_not():
    codec, updates = CountSketch(0.02, cells=4), randn(4, 3, 700)
    straight, _ = run(codec, updates)
    before, states = run(codec, updates[:2])
    after, _ = run(codec, updates[2:], states=states, first=2, paranoid=True)
    assert torch.equal(torch.cat([before[1], after[1]]), straight[1])


def test_short_updates_are_sent_as_they_are():
    updates = randn(1, 3, 50, dtype=torch.float64)
    got, states = run(CountSketch(), updates)
    torch.testing.assert_close(got[0][0], updates[0].mean(dim=0))
    assert states[0] == {}
    assert CountSketch().emits(updates[0, 0])[0].shape == (50,)


def test_says_a_small_part_of_an_update():
    x = torch.empty(1 << 20, device="meta")
    assert CountSketch().shape(1 << 20) == (5, 1 << 15)
    assert size_in_bytes(CountSketch().emits(x)) < size_in_bytes((x,)) / 6


def test_is_a_meeting_of_all_and_stands_alone():
    assert isinstance(CountSketch(), Meeting)
    codec = ErrorFeedback(CountSketch())
    with pytest.raises(Incompatible, match='such as "synchronous_sgd"'):
        codec.encode(torch.ones(9), codec.init(torch.ones(9)), At(0, 0, 2, Rand(0)))
