from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate import index_coding, parts
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.int8 import Int8
from quorate.codecs.sampled_k import SampledK
from quorate.codecs.top_k import TopK
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.rand import At, Rand
from quorate.sparse_collectives import Load, cost_of, density, has_left_out
from quorate.sparse_collectives.auto import auto, chosen, on_gloo
from quorate.wire import size_in_bytes
from tests.tiny import randn, simulate

WAYS = ("gather", "ring", "tree", "dense")


def load(d: int, k: int) -> Load:
    return Load(d, 4, k, 4 * k + index_coding.size(k, d))


loads = st.integers(1, 10**8).flatmap(lambda d: st.builds(load, st.just(d), st.integers(1, d)))


@pytest.mark.parametrize(
    ("n", "k", "latency", "rate", "tree_too", "wanted"),
    [
        (1, 1000, 1e-3, 1.25e6, True, "gather"),
        (2, 1000, 10e-3, 1.25e6, True, "gather"),
        (8, 1000, 10e-3, 1.25e6, True, "gather"),
        (256, 1000, 1e-4, 1.25e6, True, "tree"),
        (256, 1000, 1e-4, 1.25e6, False, "gather"),
        (256, 20_000, 1e-4, 1.25e6, False, "ring"),
        (8, 500_000, 1e-6, 1.25e9, False, "dense"),
    ],
)
def test_the_choice_follows_workers_density_and_links(n, k, latency, rate, tree_too, wanted):
    assert chosen(n, load(10**6, k), latency, rate, tree_too=tree_too) == wanted


@given(n=st.integers(1, 500), load=loads, latency=st.floats(0, 1), rate=st.floats(1e3, 1e12), tree_too=st.booleans())
def test_nothing_is_predicted_to_be_more_than_a_fifth_faster_than_the_choice(n, load, latency, rate, tree_too):
    taken = {name: on_gloo(name, n, load, latency, rate) for name in WAYS if tree_too or name != "tree"}
    choice = chosen(n, load, latency, rate, tree_too=tree_too)
    assert 0.8 * taken[choice] <= min(taken.values()) * (1 + 1e-12)
    if not tree_too:
        part = parts.find("sparse_collective", choice)
        assert cost_of(auto)(n, load, latency, rate) == cost_of(part)(n, load, latency, rate)


@given(share=st.floats(0, 1), few=st.integers(1, 50), more=st.integers(0, 50))
def test_a_sum_fills_with_workers_but_never_over(share, few, more):
    assert density(share, few) <= density(share, few + more) <= min(1.0, share * (few + more) + 1e-12)
    assert density(share, 1) == pytest.approx(share)


def test_the_density_of_a_sum_is_what_independent_choices_come_to():
    chosen_by = torch.rand(20, 100_000, generator=torch.Generator().manual_seed(0)) < 0.03
    assert float(chosen_by.any(dim=0).float().mean()) == pytest.approx(density(0.03, 20), rel=0.01)


@pytest.mark.parametrize(
    "codec",
    [
        TopK(0.01),
        ErrorFeedback(TopK(0.1)),
        SampledK(0.01),
        Chain((TopK(0.02), Int8())),
        Chain((SampledK(0.02), Int8())),
    ],
)
def test_the_load_is_what_a_message_comes_to(codec):
    x = randn(100_000)
    head, side, _ = codec.encode(x.clone(), codec.init(x), At(0, 0, 4, Rand(0)))
    said = Exchange(codec).load(x)
    assert said.said == pytest.approx(size_in_bytes((head, *side)), rel=0.1)
    assert (said.d, said.width) == (100_000, 4)


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("choice", WAYS)
def test_sends_what_its_choice_sends(choice, remembers, monkeypatch):
    asked = []
    monkeypatch.setattr("quorate.sparse_collectives.auto.chosen", lambda *_, tree_too: asked.append(tree_too) or choice)
    codec = ErrorFeedback(TopK(0.2)) if remembers else TopK(0.2)
    part = parts.find("sparse_collective", choice)
    if has_left_out(part) and not remembers:
        return

    def ends(way):
        exchange = Exchange(codec, sparse_collective=way)

        async def program(node):
            mine = randn(30, seed=node.rank)
            total, _ = await exchange(node, mine, exchange.init(mine), At(0, node.rank, 5, Rand(0)))
            return total, node.now()

        return simulate(program, 5)

    one, other = ends(auto), ends(part)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))
    assert [seconds for _, seconds in one] == [seconds for _, seconds in other]
    assert asked == [remembers] * 5


def test_settings_have_units():
    made = parts.build("sparse_collective", {"name": "auto", "latency": "10 ms", "rate": "10 Mbit/s"})
    assert made.keywords == {"latency": 10e-3, "rate": 1.25e6}
    with pytest.raises(RecipeError, match="unknown setting of `auto` `speed`\nhint: known: `latency`, `rate`"):
        parts.build("sparse_collective", {"name": "auto", "speed": 1})
