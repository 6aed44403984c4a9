from __future__ import annotations

import time
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.cluster import Cluster
from quorate.engines.batching import Batching
from quorate.engines.simulator import Simulator
from quorate.exchange import Exchange
from quorate.optimizer import Optimizer
from quorate.programs.gossip import gossip
from quorate.rand import Rand
from quorate.topologies.ring import ring
from quorate.trace import Trace
from tests.tiny import FREE, randn, simulate, training

SLOW = Cluster(seconds_per_sample=0.5, uplink=100.0, downlink=50.0, latency=0.25)
BYTES = torch.zeros(25)  # 100 bytes


def no_work():
    return None


async def clock_after(node, *calls):
    for call in calls:
        await call
    return node.now()


@pytest.mark.parametrize("floats", [0, 1, 25, 1_000])
@pytest.mark.parametrize(("up", "down"), [(100.0, 50.0), (8.0, 64.0), (float("inf"), 16.0)])
def test_a_message_costs_latency_and_bytes_over_bandwidth(floats, up, down):
    cluster = Cluster(uplink=up, downlink=down, latency=0.25)
    payload = torch.zeros(floats)

    async def program(node):
        if node.rank == 0:
            await node.send(1, (payload, payload))
            return node.now()
        await node.recv(0, (payload, payload))
        return node.now()

    through = 2 * 4 * floats / min(up, down)
    assert simulate(program, 2, cluster) == [through, through + 0.5]


def test_latencies_and_bandwidths_of_single_nodes():
    cluster = SLOW.model_copy(update={"node": Cluster(node=[{"ranks": [1], "latency": 1.0, "downlink": 20.0}]).node})

    async def program(node):
        if node.rank == 0:
            node_1, node_2 = node.send(1, (BYTES,)), node.send(2, (BYTES,))
            await node_1
            await node_2
        else:
            await node.recv(0, (BYTES,))
        return node.now()

    # two messages share 100 bytes/s: rank 1 gets its downlink's 20, rank 2 its downlink's 50
    assert simulate(program, 3, cluster) == [5.0, 5.0 + 1.25, 2.0 + 0.5]


def test_two_into_one_downlink_take_twice_as_long():
    async def program(node):
        if node.rank:
            await node.send(0, (BYTES,))
        else:
            for _ in range(node.size - 1):
                await node.recv(None, (BYTES,))
        return node.now()

    assert simulate(program, 2, SLOW) == [2.0 + 0.5, 2.0]
    assert simulate(program, 3, SLOW) == [4.0 + 0.5, 4.0, 4.0]


def test_a_computation_costs_samples_and_nothing_without():
    async def program(node):
        await node.compute(no_work, samples=3)
        await node.compute(no_work)
        return node.now()

    assert simulate(program, 2, SLOW) == [1.5, 1.5]


def test_a_node_computes_one_thing_at_a_time_in_the_order_of_the_calls():
    async def program(node):
        calls = [node.compute(no_work, samples=samples) for samples in (1, 4, 0, 2)]
        times = []
        for call in calls:
            await call
            times.append(node.now())
        return times

    assert simulate(program, 1, SLOW) == [[0.5, 2.5, 2.5, 3.5]]


def test_computing_and_sending_overlap():
    async def program(node):
        if node.rank:
            return (await node.recv(0, (BYTES,)))[0]
        computed, sent = node.compute(no_work, samples=3), node.send(1, (BYTES,))
        return await clock_after(node, computed, sent)

    assert simulate(program, 2, SLOW)[0] == 2.0


def test_slow_nodes_take_longer_for_themselves():
    cluster = Cluster(seconds_per_sample=1.0, node=[{"ranks": [1], "seconds_per_sample": 3.0}])

    async def program(node):
        return await clock_after(node, node.compute(no_work, samples=2))

    assert simulate(program, 3, cluster) == [2.0, 6.0, 2.0]


def test_speeds_that_are_drawn_differ_between_nodes_or_steps_and_not_between_runs():
    async def program(node):
        times = [0.0]
        for _ in range(3):
            times.append(await clock_after(node, node.compute(no_work, samples=1)))
        return [after - before for before, after in pairwise(times)]

    for drawn in ("node", "step"):
        cluster = Cluster(seconds_per_sample={"name": "lognormal", "median": 1.0, "drawn": drawn})
        first, second = (simulate(program, 3, cluster, rand=Rand(5)) for _ in range(2))
        assert first == second
        assert first != simulate(program, 3, cluster, rand=Rand(6))
        assert len({round(node[0], 9) for node in first}) == 3
        assert len({round(seconds, 9) for seconds in first[0]}) == (1 if drawn == "node" else 3)


def test_measured_speeds_are_the_time_that_the_machine_takes_times_a_factor():
    async def program(node):
        await node.compute(time.sleep, 0.01 * (1 + node.rank), samples=1)
        return node.now()

    cluster = Cluster(seconds_per_sample="measured", measured_factor=100.0)
    first, second = simulate(program, 2, cluster)
    assert 1.0 <= first < 10.0
    assert 2.0 <= second < 20.0


def test_measured_speeds_give_the_results_of_any_other():
    settings_of_run = {"optimizer": Optimizer("sgd"), "topology": ring, "steps": 3, "batch": 4}
    program = partial(gossip, training=training(), exchange=Exchange(), **settings_of_run)
    measured, free = (
        simulate(program, 4, Cluster(seconds_per_sample=speed)) for speed in ("measured", Cluster().seconds_per_sample)
    )
    assert all(torch.equal(a, b) for a, b in zip(measured, free, strict=True))


@pytest.mark.parametrize("size", [2, 3, 4, 7])
@pytest.mark.parametrize("floats", [1, 25, 1_000])
def test_an_all_reduce_costs_a_ring(size, floats):
    async def program(node):
        await node.all_reduce(torch.zeros(floats))
        return node.now()

    wanted = 2 * (size - 1) / size * 4 * floats / 50 + 2 * (size - 1) * 2 * 0.25
    assert simulate(program, size, SLOW) == pytest.approx([wanted] * size, rel=1e-12)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_an_all_gather_passes_everything_on_round_a_ring(size):
    async def program(node):
        await node.all_gather((BYTES, BYTES))
        return node.now()

    wanted = (size - 1) * 200 / 50 + (size - 1) * 2 * 0.25
    assert simulate(program, size, SLOW) == pytest.approx([wanted] * size, rel=1e-12)


def test_a_meeting_of_one_is_free():
    async def program(node):
        total, (gathered,) = await node.all_reduce(BYTES + 3), await node.all_gather((BYTES,))
        return total.tolist(), gathered[0].tolist(), node.now()

    assert simulate(program, 1, SLOW) == [([3.0] * 25, [0.0] * 25, 0.0)]


def test_a_meeting_starts_with_the_last_to_come_and_goes_at_the_slowest_node_s_pace():
    cluster = Cluster(
        seconds_per_sample=1.0, uplink=50.0, downlink=50.0, latency=0.0, node=[{"ranks": [1], "uplink": 10.0}]
    )

    async def program(node):
        await node.compute(no_work, samples=node.rank)
        await node.all_reduce(BYTES)
        return node.now()

    assert simulate(program, 2, cluster) == [11.0, 11.0]


@given(n=st.integers(1, 9), d=st.integers(1, 9), seed=st.integers(0, 999))
@settings(deadline=None)
def test_an_all_reduce_gives_the_sum_to_everybody_to_the_bit(n, d, seed):
    updates = randn(n, d, seed=seed)

    async def program(node):
        return await node.all_reduce(updates[node.rank].clone())

    results = simulate(program, n)
    assert all(torch.equal(result, results[0]) for result in results)
    torch.testing.assert_close(results[0], updates.sum(dim=0))


def test_an_all_gather_gives_the_messages_in_the_order_of_ranks():
    async def program(node):
        await node.compute(no_work, samples=node.size - node.rank)
        return [tensor.item() for (tensor,) in await node.all_gather((torch.tensor(node.rank),))]

    assert simulate(program, 4, SLOW) == [[0, 1, 2, 3]] * 4


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8), latency=st.sampled_from([0.0, 0.5]))
@settings(deadline=None)
def test_messages_between_two_workers_arrive_in_order(lengths, latency):
    async def program(node):
        if node.rank == 0:
            for sent in [node.send(1, (torch.full((length,), float(k)),)) for k, length in enumerate(lengths)]:
                await sent
            return None
        return [(await node.recv(0, (torch.zeros(length),)))[1][0].tolist() for length in lengths]

    _, got = simulate(program, 2, Cluster(uplink=10.0, downlink=10.0, latency=latency))
    assert got == [[float(k)] * length for k, length in enumerate(lengths)]


def test_whoever_comes_first_is_heard_first():
    cluster = Cluster(seconds_per_sample=1.0, node=[{"ranks": [3], "seconds_per_sample": 0.1}])

    async def program(node):
        if node.rank:
            await node.compute(no_work, samples=node.rank)
            await node.send(0, (torch.tensor(node.rank),))
            return None
        heard = [await node.recv(None, (torch.tensor(0),)) for _ in range(3)]
        assert all(src == message[0].item() for src, message in heard)
        return [src for src, _ in heard]

    assert simulate(program, 4, cluster)[0] == [3, 1, 2]


def test_what_has_arrived_is_kept_until_it_is_asked_for():
    async def program(node):
        if node.rank:
            await node.compute(no_work, samples=node.rank)
            await node.send(0, (torch.tensor(node.rank),))
            return None
        await node.compute(no_work, samples=10)
        sources = [2, None, None]
        return [(await node.recv(src, (torch.tensor(0),)))[0] for src in sources]

    assert simulate(program, 4, SLOW)[0] == [2, 1, 3]


def test_a_message_to_oneself_is_free():
    async def program(node):
        await node.send(node.rank, (BYTES + node.rank,))
        src, (got,) = await node.recv(node.rank, (BYTES,))
        return src, got[0].item(), node.now()

    for paranoid in (False, True):
        assert simulate(program, 2, SLOW, paranoid=paranoid) == [(0, 0.0, 0.0), (1, 1.0, 0.0)]


def test_two_meetings_that_are_spawned_overlap():
    async def meeting(node, seconds):
        await node.compute(no_work, samples=2 * seconds)
        return await node.all_reduce(torch.tensor([float(seconds)]))

    async def one_after_the_other(node):
        totals = [await meeting(node, 0), await meeting(node, 0)]
        return node.now(), totals

    async def at_once(node):
        started = [node.spawn(meeting(node, 0)) for _ in range(2)]
        totals = [await each for each in started]
        return node.now(), totals

    latency_only = SLOW.model_copy(update={"uplink": float("inf"), "downlink": float("inf")})
    ((slow, totals), _), ((fast, same), _) = (
        simulate(each, 2, latency_only) for each in (one_after_the_other, at_once)
    )
    assert (slow, fast) == (2.0, 1.0)
    assert totals == same


def test_bandwidth_is_shared_by_meetings_at_once():
    async def program(node):
        async def meeting():
            await node.all_reduce(BYTES.clone())
            return node.now()

        started = [node.spawn(meeting()) for _ in range(2)]
        return [await each for each in started]

    assert simulate(program, 2, Cluster(uplink=50.0, downlink=50.0, latency=0.0)) == [[4.0, 4.0]] * 2


def test_what_is_spawned_may_outlive_its_parent_and_spawn_again():
    log = []

    async def child(node, depth):
        await node.compute(no_work, samples=1)
        log.append((node.rank, depth, node.now()))
        if depth:
            return 1 + await node.spawn(child(node, depth - 1))
        return 1

    async def program(node):
        return await node.spawn(child(node, 2))

    assert simulate(program, 2, SLOW) == [3, 3]
    assert log == [(rank, depth, 0.5 * (3 - depth)) for depth in (2, 1, 0) for rank in (0, 1)]


def test_results_are_in_the_order_of_ranks_and_ends_are_recorded():
    trace = Trace(3, transfers=True)

    async def program(node):
        await node.compute(no_work, samples=node.size - node.rank)
        if node.rank == 2:
            await node.send(0, (BYTES,))
        if node.rank == 0:
            await node.recv(2, (BYTES,))
        return node.rank

    assert simulate(program, 3, SLOW, trace=trace) == [0, 1, 2]
    assert trace.ended == [3.0, 1.0, 2.5]
    assert (trace.seconds, trace.bytes, trace.links) == (3.0, 100, {(2, 0): [100, 1]})
    assert trace.computing_seconds == [1.5, 1.0, 0.5]
    assert trace.sending_seconds == [0.0, 0.0, 2.0]
    (sent,) = trace.seen_by(2)
    assert (sent.start, sent.end) == (0.5, 3.0)


@given(
    n=st.integers(1, 6),
    rate=st.floats(10.0, 1e6),
    latency=st.floats(0.0, 1e-2),
    speed=st.floats(0.0, 1e-2),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=15)
def test_two_runs_are_equal_to_the_bit_with_their_clocks(n, rate, latency, speed, seed):
    cluster = Cluster(
        seconds_per_sample={"name": "lognormal", "median": speed, "drawn": "step"},
        uplink=rate,
        downlink=2 * rate,
        latency=latency,
        node=[{"ranks": [0], "uplink": rate / 3}],
    )
    outcomes = []
    for _ in range(2):
        trace, made = Trace(n, transfers=True), training(size=n, seed=seed, unequal=True)
        settings_of_run = {"optimizer": Optimizer("adam"), "topology": ring, "steps": 3, "batch": 4}
        program = partial(gossip, training=made, exchange=Exchange(), **settings_of_run)
        results = Simulator(n, cluster, rand=Rand(seed), batching=Batching(exact=False), trace=trace).run(program)
        outcomes.append((trace.summary(), trace.transfers, torch.stack(results)))
    (one, sent, parameters), (other, sent_again, again) = outcomes
    assert one == other
    assert sent == sent_again
    assert torch.equal(parameters, again)


def test_a_run_that_goes_on_starts_at_the_clock_of_its_trace():
    trace = Trace(2)
    trace.ended = [4.0, 6.0]

    async def program(node):
        began = node.now()
        await node.all_reduce(BYTES)
        return began, node.now()

    (first, end), (second, same) = simulate(program, 2, FREE, trace=trace)
    assert (first, second, end, same) == (4.0, 6.0, 6.0, 6.0)
