from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate import parts
from quorate.collectives import cost_of
from quorate.collectives.auto import auto, chosen, on_gloo, overlapping
from quorate.collectives.backend import backend
from quorate.collectives.direct import direct
from quorate.collectives.ring import ring
from quorate.errors import RecipeError
from quorate.node import FEW
from tests.tiny import randn, simulate

OTHERS = sorted(parts.names("collective").keys() - {"auto"})


@pytest.mark.parametrize(
    ("n", "bytes", "latency", "rate", "wanted"),
    [
        (1, 1e6, 1e-3, 1e6, "backend"),
        (4, 4, 10e-3, 1.25e6, "direct"),
        (4, 10e3, 10e-3, 1.25e6, "direct"),
        (64, 10e3, 10e-3, 1.25e6, "halving_doubling"),
        (63, 1e3, 10e-3, 1e9, "naive"),
        (9, 4e3, 1e-3, 4e6, "direct"),
        (2, 100e3, 10e-3, 1.25e6, "direct"),
        (32, 100, 10e-3, 1e9, "direct"),
        (33, 100, 10e-3, 1e9, "naive"),
        (4, 100e3, 10e-3, 1.25e6, "halving_doubling"),
        (5, 1e6, 10e-3, 12.5e6, "ring"),
        (4, 1e9, 1e-3, 1.25e6, "backend"),
    ],
)
def test_few_bytes_on_slow_links_go_the_way_of_few_latencies(n, bytes, latency, rate, wanted):
    assert chosen(n, bytes, latency, rate) == wanted


@given(
    n=st.integers(1, 200),
    bytes=st.integers(0, 10**9),
    latency=st.floats(0, 1),
    rate=st.floats(1e3, 1e12),
)
def test_nothing_is_predicted_to_be_more_than_a_fifth_faster_than_the_choice(n, bytes, latency, rate):
    taken = {name: on_gloo(name, n, bytes, latency, rate) for name in OTHERS if name != "direct" or n <= FEW}
    assert 0.8 * taken[chosen(n, bytes, latency, rate)] <= min(taken.values()) * (1 + 1e-12)
    choice = parts.find("collective", chosen(n, bytes, latency, rate))
    assert cost_of(auto)(n, bytes, latency, rate) == cost_of(choice)(n, bytes, latency, rate)


@pytest.mark.parametrize("choice", OTHERS)
def test_sends_what_its_choice_sends(choice, monkeypatch):
    monkeypatch.setattr("quorate.collectives.auto.chosen", lambda *_: choice)

    async def program(node, collective):
        return await collective(node, torch.rand(5, generator=torch.Generator().manual_seed(node.rank))), node.now()

    own = parts.find("collective", choice)
    one, other = (simulate(lambda node, each=each: program(node, each), 5) for each in (auto, own))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))
    assert [seconds for _, seconds in one] == [seconds for _, seconds in other]


@given(n=st.integers(1, 200), bytes=st.integers(0, 10**9), latency=st.floats(0, 1), rate=st.floats(1e3, 1e12))
def test_where_sums_overlap_only_those_that_can_are_chosen(n, bytes, latency, rate):
    choice = chosen(n, bytes, latency, rate, overlapping=True)
    assert choice in ({"backend", "direct"} if n <= FEW else {"backend"})
    if choice == "backend" and n <= FEW:
        taken = on_gloo("direct", n, bytes, latency, rate)
        assert 0.8 * on_gloo("backend", n, bytes, latency, rate) <= taken * (1 + 1e-12)


def test_a_collective_is_restricted_to_what_may_overlap():
    made = parts.build("collective", {"name": "auto", "latency": "10 ms"})
    restricted = overlapping(made)
    assert restricted.keywords == {"latency": 10e-3, "rate": 125e6, "overlapping": True}
    assert overlapping(auto).keywords == {"overlapping": True}
    assert overlapping(backend) is backend
    assert overlapping(direct) is direct
    assert overlapping(ring) is None

    async def program(node):
        sums = [node.spawn(restricted(node, torch.full((3,), 10.0**count))) for count in range(3)]
        return [float((await each)[0]) for each in sums]

    assert simulate(program, 4) == [[4.0, 40.0, 400.0]] * 4


def test_without_connections_of_two_another_one_adds_in_the_same_order():
    async def program(node, talks_alone):
        node.talks_alone = talks_alone
        return await auto(node, randn(5, seed=node.rank), latency=10.0)

    one, other = (simulate(lambda node, each=each: program(node, each), 5) for each in (True, False))
    assert chosen(5, 20, 10.0) == "direct"
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_settings_have_units():
    made = parts.build("collective", {"name": "auto", "latency": "10 ms", "rate": "10 Mbit/s"})
    assert made.keywords == {"latency": 10e-3, "rate": 1.25e6, "overlapping": False}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"latency": "1 h 5"}, "[collective] `latency`: write a number with one of the units s, ms, us, ns, min, h,"),
        ({"latency": -1}, "[collective] `latency`: input should be greater than or equal to 0, got -1"),
        ({"rate": 0}, "[collective] `rate`: input should be greater than 0, got 0"),
        ({"speed": 1}, "unknown setting of `auto` `speed`\nhint: known: `latency`, `overlapping`, `rate`"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(table, says):
    with pytest.raises(RecipeError) as error:
        parts.build("collective", {"name": "auto", **table})
    assert str(error.value).startswith(says)
    assert str(error.value).count("1 h 5") <= 1
