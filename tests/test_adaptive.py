from __future__ import annotations

import json
from dataclasses import replace
from math import inf, isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.adaptive import Choice, Cost, Link, choose
from quorate.errors import RunError

seconds = st.floats(1e-6, 10)
sizes = st.lists(st.floats(1, 1e9), min_size=1, max_size=2).map(tuple)
costs = st.builds(Cost, sizes, seconds, seconds, st.booleans())
links = st.builds(Link, st.integers(2, 64), st.floats(1e4, 1e11), seconds, seconds)
ladders = st.lists(costs, min_size=1, max_size=6).map(
    lambda found: {str(place): each for place, each in enumerate(found)}
)


def place(choice: Choice) -> int:
    return int(choice.name)


@given(ladders, links, seconds)
def test_a_step_is_never_more_than_the_fraction_longer_than_with_the_fastest(candidates, link, compute):
    choice = choose(candidates, link, compute)
    taken = {row.name: row.seconds for row in choice.rows}
    assert compute + taken[choice.name] <= 1.05 * (compute + min(taken.values())) * (1 + 1e-9)


@given(ladders, links, seconds)
def test_no_less_lossy_candidate_would_do(candidates, link, compute):
    choice = choose(candidates, link, compute)
    best = min(row.seconds for row in choice.rows)
    for row in choice.rows[: place(choice)]:
        assert row.seconds > 0.05 * compute + 1.05 * best
        assert "times the fastest's time" in row.verdict
    assert choice.rows[place(choice)].verdict == "chosen"


@given(ladders, links, seconds, st.floats(1, 1e3))
def test_more_computing_is_never_lossier(candidates, link, compute, more):
    assert place(choose(candidates, link, compute * more)) <= place(choose(candidates, link, compute))


@given(ladders, links, seconds, st.floats(1, 1e3), st.floats(1e-3, 1), st.floats(1e-3, 1))
def test_where_messages_hide_no_faster_link_is_lossier(candidates, link, compute, rate, all_reduce, all_gather):
    """Where none hides, what is fastest counts, which need not: a way with fewer latencies may take more bytes."""
    slow = choose(candidates, link, compute)
    if slow.rows[place(slow)].seconds > 0.05 * compute:
        return
    faster = Link(link.size, link.rate * rate, link.all_reduce * all_reduce, link.all_gather * all_gather)
    assert place(choose(candidates, faster, compute)) <= place(slow)


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=6), links, seconds, st.floats(1, 1e3))
def test_of_gathered_candidates_with_ever_fewer_bytes_no_faster_link_is_lossier(found, link, compute, faster):
    ladder = {str(rank): Cost((size,), 0.0, 0.0, False) for rank, size in enumerate(sorted(found, reverse=True))}
    slow = choose(ladder, link, compute)
    assert place(choose(ladder, replace(link, rate=link.rate * faster), compute)) <= place(slow)


@given(ladders, links)
def test_what_hides_is_the_least_lossy(candidates, link):
    assert place(choose(candidates, link, 1e9)) == 0


@given(ladders, seconds)
def test_one_worker_alone_sends_nothing(candidates, compute):
    free = {name: replace(cost, encode=0.0, decode=0.0) for name, cost in candidates.items()}
    choice = choose(free, Link(1, inf, 0.0, 0.0), compute)
    assert (place(choice), choice.because) == (0, "one worker alone sends nothing")


@given(ladders, links, seconds)
def test_a_choice_survives_its_folder(candidates, link, compute):
    choice = (
        choose({**candidates, "none": "it can't"}, replace(link, all_gather=inf), compute)
        if any(cost.summed for cost in candidates.values())
        else choose(candidates, link, compute)
    )
    assert Choice.of(json.loads(json.dumps(choice.facts()))) == choice


def test_a_damaged_folder_is_refused():
    with pytest.raises(RunError, match="the run's folder does not say which codec was chosen"):
        Choice.of({"name": "dense"})


@given(links, st.floats(1, 1e9))
def test_a_sum_goes_by_the_faster_way(link, size):
    taken, way = link.summed(size)
    ring = link.all_reduce + 2 * (link.size - 1) / link.size * size / link.rate
    assert taken == pytest.approx(min(ring, link.gathered(size)))
    assert (way == "direct") == (link.gathered(size) < ring)


def test_what_can_not_be_gathered_is_not_chosen():
    link = Link(4, 1e3, 0.1, inf)
    sparse, dense = Cost((10.0,), 0.0, 0.0, False), Cost((1e6,), 0.0, 0.0, True)
    choice = choose({"dense": dense, "top_k": sparse}, link, 1.0)
    assert (choice.name, choice.way) == ("dense", "backend")
    assert choice.rows[1].verdict == "can't be used: there are no connections of two"
    with pytest.raises(RunError) as error:
        choose({"top_k": sparse, "krum": "it is refused"}, link, 1.0)
    assert str(error.value).endswith("krum: it is refused)\nhint: name others in `candidates`")


SLOW = Link.described(2, 10e-3, 1.25e6, "gloo")
LADDER = {
    "dense": Cost((4e6,), 0.0, 0.0, True),
    "bf16": Cost((2e6,), 1e-3, 1e-3, True),
    "top_k 0.001": Cost((5.5e3,), 2e-3, 1e-3, False),
}


def test_says_why():
    """A million parameters, 2.4 ms of computing, 10 Mbit/s and 10 ms."""
    choice = choose(LADDER, SLOW, 2.4e-3)
    assert str(choice) == (
        "adaptive: top_k 0.001, because a meeting takes 17.9 ms beside 2.40 ms of computing, and a step is at most 5%"
        " longer than with the fastest candidate, unlike with any less lossy one\n"
        "  candidate    a message  coding   meeting  by      verdict\n"
        "  dense        4.00 MB    0 s      3.21 s   direct  a step takes 158 times the fastest's time\n"
        "  bf16         2.00 MB    2.00 ms  1.61 s   direct  a step takes 79.6 times the fastest's time\n"
        "  top_k 0.001  5.50 kB    3.00 ms  17.9 ms  gather  chosen"
    )
    assert choose(LADDER, SLOW, 100.0).because == (
        "it is the least lossy, and a meeting takes 3.21 s beside 100 s of computing, at most 5% of it"
    )
    fast = Link.described(2, 50e-6, 1e10)
    assert choose(LADDER, fast, 2.4e-3).name == "dense"


def test_a_described_link_is_what_was_measured():
    """gloo between two and four workers of 10 Mbit/s, 10 ms apart, 10 kB: 50 and 131 ms; 1 MB: 0.97 and 1.40 s."""
    for size, few, many in ((2, 50e-3, 0.974), (4, 131e-3, 1.403)):
        link = Link.described(size, 10e-3, 1.25e6, "gloo")
        assert link.all_reduce + link.occupied(10e3, "backend") == pytest.approx(few, rel=0.2)
        assert link.all_reduce + link.occupied(1e6, "backend") == pytest.approx(many, rel=0.2)
    assert isfinite(link.all_gather)
