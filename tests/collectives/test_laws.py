"""Laws of every collective; a new file in `quorate/collectives` is tested unasked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from quorate import parts
from quorate.cluster import Cluster
from quorate.collectives import cost_of
from quorate.collectives.auto import chosen
from tests.collectives import real_workers
from tests.collectives.real_workers import DTYPES, LENGTHS, all_sums, given, scale
from tests.forked import ranks
from tests.tiny import FREE, randn, simulate

NAMES = sorted(parts.names("collective"))
SIZES = range(1, 10)
DIVISIBLE = 2520  # entries, by all of SIZES
# If n is no power of two: what a message-level program takes at least, as a share of its closed form, and at most,
# beyond it, in units of bytes / rate. What does not stand here takes exactly what its closed form says.
BOUNDS = {"tree": (0.5, 0.0), "halving_doubling": (1.0, 1.0)}
every_collective = pytest.mark.parametrize("name", NAMES)


def made(name, **settings_of_links):
    part = parts.find("collective", name)
    return parts.build("collective", {"name": name, **settings_of_links} if parts.settings(part) else {"name": name})


def test_the_folder_is_found():
    assert {"auto", "backend", "halving_doubling", "naive", "ring", "tree"} <= set(NAMES)


@every_collective
@pytest.mark.parametrize("n", SIZES)
def test_all_workers_get_the_same_bits_of_the_scaled_sum(name, n):
    ends = simulate(lambda node: all_sums(node, [name]), n)
    for length in LENGTHS:
        for dtype in DTYPES:
            got = [end[f"{name} {length} {str(dtype).removeprefix('torch.')}"] for end in ends]
            assert all(torch.equal(each, got[0]) for each in got)
            wanted = sum(scale(rank, dtype) * given(rank, length, dtype).double() for rank in range(n))
            assert (got[0].shape, got[0].dtype) == ((length,), dtype)
            tolerance = {} if dtype.is_floating_point else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(got[0], wanted.to(dtype), **tolerance)


@every_collective
@settings(deadline=None, max_examples=40)
@drawn(
    n=st.integers(1, 9),
    shape=st.lists(st.integers(0, 5), max_size=3),
    late=st.lists(st.integers(0, 3), min_size=9, max_size=9),
    scales=st.lists(st.floats(-2, 2), min_size=9, max_size=9),
    again=st.booleans(),
)
def test_who_comes_late_changes_nothing_and_the_next_meeting_may_follow_at_once(name, n, shape, late, scales, again):
    collective, tensors = made(name), randn(9, *shape, dtype=torch.float64)

    def program(late):
        async def meet(node):
            await node.compute(int, samples=late[node.rank])
            total = await collective(node, tensors[node.rank].clone(), scales[node.rank])
            return await collective(node, total.clone()) if again else total

        return meet

    slow = Cluster(seconds_per_sample=1.0, uplink=50.0, downlink=50.0, latency=0.25)
    ends = simulate(program(late), n, slow)
    punctual = simulate(program([0] * 9), n, FREE)
    assert all(torch.equal(each, punctual[0]) for each in ends + punctual)
    wanted = sum(scales[rank] * tensors[rank] for rank in range(n)) * (n if again else 1)
    torch.testing.assert_close(ends[0], wanted, rtol=1e-12, atol=1e-12)


@every_collective
@pytest.mark.parametrize("n", SIZES)
def test_nobody_writes_where_he_may_not(name, n):
    checked = simulate(lambda node: all_sums(node, [name]), n, paranoid=True)
    for one, other in zip(checked, simulate(lambda node: all_sums(node, [name]), n), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@every_collective
@pytest.mark.parametrize("n", [*SIZES, 11, 15])
@pytest.mark.parametrize(("latency", "rate"), [(1.0, 1e9), (1e-6, 1e3), (1.0, 5e3), (0.5, 5e4)])
def test_takes_the_time_that_its_closed_form_says(name, n, latency, rate):
    collective = made(name, latency=latency, rate=rate)

    async def program(node):
        await collective(node, torch.zeros(DIVISIBLE))
        return node.now()

    links = Cluster(seconds_per_sample=0.0, uplink=rate, downlink=rate, latency=latency / 2)
    took = max(simulate(program, n, links))
    said = cost_of(collective)(n, 4 * DIVISIBLE, latency, rate)
    used = chosen(n, 4 * DIVISIBLE, latency, rate) if name == "auto" else name
    least, more = (1.0, 0.0) if n & (n - 1) == 0 else BOUNDS.get(used, (1.0, 0.0))
    uneven = 0 if DIVISIBLE % n == 0 else 2 * (n - 1) * 4 / rate  # an entry a hop
    assert said * least * (1 - 1e-6) <= took <= (said + more * 4 * DIVISIBLE / rate) * (1 + 1e-6) + uneven


@pytest.mark.processes
def test_real_workers_get_the_bits_of_simulated_ones(tmp_path):
    size = 6
    ranks(real_workers.__name__, [(rank, size, tmp_path) for rank in range(size)])
    for n in range(1, size + 1):
        simulated = simulate(lambda node: all_sums(node, NAMES), n)
        for rank in range(n):
            real = load_file(tmp_path / f"{n}-{rank}.safetensors")
            assert real.keys() == simulated[rank].keys()
            assert [key for key in real if not torch.equal(real[key], simulated[rank][key])] == []
