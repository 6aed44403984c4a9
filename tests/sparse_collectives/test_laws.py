"""Laws of every sparse collective; a new file in `quorate/sparse_collectives` is tested unasked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from quorate import parts
from quorate.cluster import Cluster
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.engines.simulator import Simulator
from quorate.errors import RunError
from quorate.rand import At, Rand
from quorate.sparse_collectives import AT_ONCE, cost_of, has_left_out
from quorate.trace import Trace
from tests.forked import ranks
from tests.sparse_collectives import workers
from tests.sparse_collectives.workers import all_sums, gathered, given, made
from tests.tiny import FREE, randn, simulate

NAMES = sorted(parts.names("sparse_collective"))
WHOLE = [name for name in NAMES if not has_left_out(parts.find("sparse_collective", name))]
every_one = pytest.mark.parametrize("name", NAMES)
sizes = pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9])


def meet(exchange, updates, weights=None, cluster=FREE, **simulator):
    """Return (total, state, seconds) of every worker."""

    async def program(node):
        mine = updates[node.rank].clone()
        total, state = await exchange(node, mine, exchange.init(mine), At(0, node.rank, node.size, Rand(0)), weights)
        return total, state, node.now()

    return simulate(program, len(updates), cluster, **simulator)


def test_the_folder_is_found():
    assert {"auto", "dense", "gather", "ring", "tree"} <= set(NAMES)
    assert set(NAMES) - set(WHOLE) == {"tree"}


@every_one
@settings(deadline=None, max_examples=40)
@drawn(
    n=st.integers(1, 9),
    d=st.integers(0, 40),
    kept=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    step=st.integers(0, 999),
    weighted=st.booleans(),
    paranoid=st.booleans(),
)
def test_what_is_summed_and_what_is_left_make_up_what_was_said(name, n, d, kept, step, weighted, paranoid):
    """All workers get the same bits, and nothing is lost; what leaves nothing out gives the sum itself."""
    updates = [given(rank, d, step, kept, torch.float64) for rank in range(n)]
    weights = [(rank + 1) / (n * (n + 1) / 2) for rank in range(n)] if weighted else None
    shares = weights or [1 / n] * n
    ends = meet(made(name), updates, weights, paranoid=paranoid)
    assert all(torch.equal(total, ends[0][0]) for total, _, _ in ends)
    left = sum(share * state["residual"] for share, (_, state, _) in zip(shares, ends, strict=True))
    wanted = sum(share * update for share, update in zip(shares, updates, strict=True))
    torch.testing.assert_close(ends[0][0] + left, wanted, rtol=1e-12, atol=1e-12)
    if name in WHOLE:
        assert not left.any()


@every_one
@sizes
def test_chains_that_begin_with_a_sparsifier_are_combined_as_they_are_decoded(name, n):
    updates = [given(rank, 200) for rank in range(n)]
    codec = ErrorFeedback(Chain((TopK(0.1), Halved())))
    if name in WHOLE:
        (total, *_), *_ = meet(made(name, codec), updates)
        wanted, *_ = meet(made("gather", codec), updates)
        torch.testing.assert_close(total, wanted[0])


class Halved(TopK):
    """A chain's second part, which changes what is said."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def encode(self, x, state, at):
        head, side, state = super().encode(x, state, at)
        return head / 2, side, state


@every_one
@pytest.mark.parametrize("late", [(0, 0, 0, 0, 0), (3, 0, 1, 0, 2), (0, 1, 2, 3, 4)])
def test_who_comes_late_changes_nothing(name, late):
    exchange, n = made(name), len(late)

    def program(late):
        async def meets(node):
            state = exchange.init(given(0, 50))
            for step in range(2):
                await node.compute(int, samples=late[node.rank])
                at = At(step, node.rank, n, Rand(0))
                total, state = await exchange(node, given(node.rank, 50, step), state, at)
            return total

        return meets

    slow = Cluster(seconds_per_sample=1.0, uplink=50.0, downlink=50.0, latency=0.25)
    ends = simulate(program(late), n, slow) + simulate(program((0,) * n), n, FREE)
    assert all(torch.equal(each, ends[0]) for each in ends)


@pytest.mark.parametrize("name", ["gather", "ring", "tree", "dense"])
@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize(("ratio", "latency", "rate"), [(0.01, 1e-6, 1e6), (0.01, 1.0, 1e9), (0.2, 0.01, 1e6)])
def test_takes_the_time_that_its_closed_form_says(name, n, ratio, latency, rate):
    d = 20_000
    updates = randn(n, d)
    exchange = made(name, ErrorFeedback(TopK(ratio)))
    links = Cluster(seconds_per_sample=0.0, uplink=rate, downlink=rate, latency=latency / 2)
    took = max(seconds for _, _, seconds in meet(exchange, updates, cluster=links))
    said = cost_of(exchange.sparse_collective)(n, exchange.load(updates[0]), latency, rate)
    longest = 1.15 if name == "ring" else 1.0  # ranges are not equally full, and all wait for the fullest
    assert 0.97 * said <= took <= longest * said * 1.001


@pytest.mark.parametrize("name", ["ring", "tree"])
def test_messages_are_never_longer_than_dense_ones(name):
    n, d, trace = 4, 1000, Trace(4)
    exchange = made(name)

    async def program(node):
        await exchange(node, randn(d, seed=node.rank), exchange.init(torch.zeros(d)), At(0, node.rank, n, Rand(0)))

    Simulator(n, FREE, trace=trace).run(program)
    assert max(trace.sent_bytes) <= {"ring": 2 * (n - 1) * 4 * d // n, "tree": 2 * 4 * d}[name]


def test_at_most_so_many_meetings_are_under_way_at_once():
    async def program(node, count):
        exchange = made("ring")
        meetings = [
            node.spawn(exchange(node, given(node.rank, 8, step), exchange.init(given(0, 8)), At(0, 0, 1, Rand(0))))
            for step in range(count)
        ]
        return [(await each)[0] for each in meetings]

    ends = simulate(lambda node: program(node, AT_ONCE), 3)
    for step, totals in enumerate(zip(*ends, strict=True)):
        wanted = sum(given(rank, 8, step) for rank in range(3)) / 3
        assert all(torch.equal(total, totals[0]) for total in totals)
        torch.testing.assert_close(totals[0], wanted)
    with pytest.raises(RunError, match=f"begins a sparse meeting while {AT_ONCE} are under way"):
        simulate(lambda node: program(node, AT_ONCE + 1), 3)


@pytest.mark.processes
def test_real_workers_get_the_bits_of_simulated_ones(tmp_path):
    size = 3
    ranks(workers.__name__, [(rank, size, tmp_path) for rank in range(size)])
    trace = Trace(size)

    async def program(node):
        sums = await all_sums(node, NAMES)
        return sums | {"gathered": await gathered(node, 3000)}

    simulated = Simulator(size, FREE, trace=trace).run(program)
    sent = [worker["sent_bytes"] for worker in trace.summary()["workers"]]
    for rank in range(size):
        real = load_file(tmp_path / f"{rank}.safetensors")
        assert int(real.pop("bytes")[rank]) == pytest.approx(sent[rank], abs=len(real))  # a ring's bytes are rounded
        assert real.keys() == simulated[rank].keys()
        assert [key for key in real if not torch.equal(real[key], simulated[rank][key])] == []
