from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.adaptive import Cost, Link
from quorate.bucket_plan import Pass, lossiness, plan, uniform

seconds = st.floats(1e-6, 1)
links = st.builds(Link, st.integers(2, 16), st.floats(1e5, 1e11), seconds, seconds)
costs = st.builds(
    Cost,
    st.lists(st.floats(1, 1e8), min_size=1, max_size=2).map(tuple),
    st.floats(0, 0.01),
    st.floats(0, 0.01),
    st.booleans(),
)


@st.composite
def passes(draw):
    """Up to four buckets, which become ready one after another, and up to four candidates."""
    buckets, candidates = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    ready = sorted(draw(st.lists(seconds, min_size=buckets, max_size=buckets)))
    table = tuple(tuple(draw(costs) for _ in range(candidates)) for _ in range(buckets))
    return Pass(tuple(ready), ready[-1] + draw(seconds), draw(seconds), table)


@given(passes(), links)
def test_no_single_candidate_is_quicker_by_more_than_the_fraction(given_pass, link):
    taken = given_pass.step(plan(given_pass, link), link)
    best = min(given_pass.step(each, link) for each in uniform(given_pass))
    assert taken <= 1.05 * max(given_pass.compute, best) * (1 + 1e-9)


@given(passes(), links)
def test_no_bucket_is_lossier_than_needed(given_pass, link):
    found = plan(given_pass, link)
    for bucket, place in enumerate(found):
        for other in range(place):
            changed = (*found[:bucket], other, *found[bucket + 1 :])
            assert given_pass.step(changed, link) > 1.05 * given_pass.compute


@given(passes(), links)
def test_what_hides_stays_as_it_is(given_pass, link):
    patient = replace(given_pass, rest=1e6)
    assert plan(patient, link) == (0,) * len(given_pass.ready)


@given(passes(), links, st.floats(1, 100))
def test_a_faster_link_makes_no_plan_slower(given_pass, link, faster):
    better = Link(link.size, link.rate * faster, link.all_reduce / faster, link.all_gather / faster)
    for each in uniform(given_pass):
        if all(cost.travel(link)[1] == cost.travel(better)[1] for costs in given_pass.costs for cost in costs):
            assert given_pass.step(each, better) <= given_pass.step(each, link) * (1 + 1e-9)


LINK = Link(2, 1e6, 1e-3, 1e-3)
DENSE, SPARSE = Cost((1e6,), 0.0, 0.0, True), Cost((1e3,), 10e-3, 10e-3, False)


def test_messages_wait_for_one_another_and_for_their_gradients():
    """Two messages of a second each, the second one ready when the first has been sent for half a second."""
    given_pass = Pass((0.5, 1.0), 1.0, 0.25, ((DENSE, SPARSE), (DENSE, SPARSE)))
    assert given_pass.step((0, 0), LINK) == pytest.approx(0.25 + 0.5 + 1 + 1 + 1e-3)
    assert given_pass.step((0, 1), LINK) == pytest.approx(0.25 + 0.5 + 1 + 1e-3 + 1e-3 + 10e-3)
    assert given_pass.step((1, 1), LINK) == pytest.approx(0.25 + 1 + 20e-3 + 1e-3 + 1e-3 + 20e-3)


def test_only_the_bucket_that_comes_last_is_made_lossier():
    """The first one's message of a second hides behind the rest of a pass of ten."""
    given_pass = Pass((0.1, 10.0), 10.0, 0.0, ((DENSE, SPARSE), (DENSE, SPARSE)))
    assert plan(given_pass, LINK) == (0, 1)
    assert lossiness((0, 1), given_pass) == 0.5


def test_what_a_bucket_can_not_be_said_by_is_left_out():
    given_pass = Pass((0.1,), 0.2, 0.0, ((DENSE, None, SPARSE),))
    assert given_pass.step((1,), LINK) == inf
    assert plan(given_pass, LINK) == (2,)
