from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quorate.aggregators.mean import mean
from quorate.codecs import Plain, Side, State
from quorate.codecs.chain import Chain
from quorate.codecs.identity import Identity
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.rand import At, Rand
from quorate.wire import Opens, Wire
from tests.tiny import randn, simulate


@dataclass(frozen=True)
class Shifted(Plain):
    """Add noise that the receiver takes off again: it must know who made the message, and counts its calls."""

    summable: bool = False

    def wire(self, before: Wire) -> Wire:
        return replace(before, summable=self.summable)

    def init(self, like: Tensor) -> State:
        return {"calls": torch.zeros(())}

    def emits(self, like: Tensor) -> tuple[Tensor, ...]:
        return (like, like.new_empty(1))

    def noise(self, like: Tensor, at: At) -> Tensor:
        return torch.randn(like.shape, generator=at.own.generator(), dtype=like.dtype)

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        return x + self.noise(x, at), (x.new_zeros(1),), {"calls": state["calls"] + 1}

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        return head - self.noise(like, at)


@dataclass(frozen=True)
class Sealed(Plain):
    """Let only the total be opened."""

    def wire(self, before: Wire) -> Wire:
        return replace(before, opens=Opens.TOTAL)

    encode, decode = Identity.encode, Identity.decode


def largest(updates: Tensor, weights: Tensor | None = None) -> Tensor:
    return updates.max(dim=0).values


def meet(exchange: Exchange, updates: list[Tensor], weights: tuple[float, ...] | None = None, **simulator):
    """Let every worker say one update; return what each gets, and its codec's state."""
    size = len(updates)

    async def program(node):
        mine = updates[node.rank].clone()
        return await exchange(node, mine, exchange.init(mine), At(3, node.rank, size, Rand(0)), weights)

    return simulate(program, size, **simulator)


@given(n=st.integers(1, 6), d=st.integers(1, 9), seed=st.integers(0, 999), weighted=st.booleans())
@settings(deadline=None)
def test_both_routes_give_the_weighted_mean_to_everybody(n, d, seed, weighted):
    updates = list(randn(n, d, seed=seed, dtype=torch.float64))
    raw = [1.0 + rank for rank in range(n)]
    weights = tuple(each / sum(raw) for each in raw) if weighted else None
    wanted = sum(update * (weights[rank] if weights else 1 / n) for rank, update in enumerate(updates))
    for codec in (Identity(), Chain((Identity(), Identity())), Shifted(), Chain((Identity(), Shifted()))):
        got = [each for each, _ in meet(Exchange(codec), updates, weights)]
        assert all(torch.equal(each, got[0]) for each in got)
        torch.testing.assert_close(got[0], wanted, rtol=1e-12, atol=1e-12)


def test_an_aggregator_that_must_see_each_update_sees_each():
    updates = [torch.tensor([1.0, 9.0]), torch.tensor([5.0, 2.0])]
    assert [each.tolist() for each, _ in meet(Exchange(aggregator=largest), updates)] == [[5.0, 9.0]] * 2


@pytest.mark.parametrize(
    ("exchange", "in_flight"),
    [
        (Exchange(), True),
        (Exchange(Sealed()), True),
        (Exchange(Shifted()), False),
        (Exchange(Shifted(summable=True)), True),
        (Exchange(aggregator=largest), False),
    ],
)
def test_the_route_follows_from_the_parts(exchange, in_flight):
    assert exchange.sums_in_flight is in_flight


def test_a_message_is_decoded_as_of_the_worker_that_made_it():
    updates = list(randn(4, 5, dtype=torch.float64))
    for combined, state in meet(Exchange(Shifted(), largest), updates):
        torch.testing.assert_close(combined, torch.stack(updates).max(dim=0).values)
        assert float(state["calls"]) == 1


def test_what_travels_is_what_the_codec_emits():
    assert Exchange().bytes_said(torch.zeros(10)) == 40
    assert Exchange(Shifted()).bytes_said(torch.zeros(10, dtype=torch.float64)) == 88


def test_refuses_an_aggregator_that_must_see_what_the_codec_hides():
    with pytest.raises(RecipeError) as error:
        Exchange(Sealed(), largest)
    assert str(error.value) == (
        "largest needs each worker's update, but Sealed() lets only their total be opened"
        "\nhint: use the aggregator `mean`"
    )
    Exchange(Sealed(), mean)


def test_gives_the_same_bits_when_watched():
    updates = list(randn(5, 7))
    for exchange in (Exchange(), Exchange(Shifted()), Exchange(aggregator=largest)):
        plain, watched = (meet(exchange, updates, paranoid=paranoid) for paranoid in (False, True))
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(plain, watched, strict=True))
