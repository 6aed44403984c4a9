from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quorate import parts
from quorate.aggregators.mean import mean
from quorate.cluster import Cluster
from quorate.codecs import Plain, Side, State
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.top_k import TopK
from quorate.engines.simulated_node import SimulatedNode
from quorate.errors import RecipeError, RunError
from quorate.exchange import Exchange
from quorate.node import FEW
from quorate.rand import At, Rand
from quorate.sparse_collectives import cost_of, has_left_out
from quorate.wire import Opens, Wire
from tests.codecs.test_laws import NAMES, of_name
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
        "largest needs each worker's update, but Sealed lets only their total be opened"
        "\nhint: use the aggregator `mean`"
    )
    Exchange(Sealed(), mean)


def test_gives_the_same_bits_when_watched():
    updates = list(randn(5, 7))
    for exchange in (Exchange(), Exchange(Shifted()), Exchange(aggregator=largest)):
        plain, watched = (meet(exchange, updates, paranoid=paranoid) for paranoid in (False, True))
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(plain, watched, strict=True))


def summed_by(codec):
    """Return the exchanges of a codec that may form its sum, by every sparse collective that it can be used with."""
    for name in parts.names("sparse_collective"):
        sparse = parts.build("sparse_collective", {"name": name})
        if name == "gather" or (
            Exchange(codec).combines_entries and (Exchange(codec).remembers or not has_left_out(sparse))
        ):
            yield name, Exchange(codec, sparse_collective=sparse)


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_that_is_not_summable_is_never_summed(name, monkeypatch):
    """What is summed on its way, if anything, is an update of full length that was decoded before."""
    given = []
    plain = SimulatedNode.all_reduce
    monkeypatch.setattr(SimulatedNode, "all_reduce", lambda *args: given.append(args[1].clone()) or plain(*args))
    updates = list(randn(3, 40))
    for codec in of_name(name):
        facts = codec.wire(Wire())
        if facts.summable and facts.aligned:
            continue
        for way, exchange in summed_by(codec):
            given.clear()
            meet(exchange, updates)
            assert bool(given) is (way == "dense")
            for rank, decoded in enumerate(given):
                at = At(3, rank, 3, Rand(0))
                message, _ = exchange.say(updates[rank].clone(), exchange.init(updates[rank]), at)
                torch.testing.assert_close(decoded, exchange.hear(message, updates[rank], at))


@dataclass(frozen=True)
class Counting(Shifted):
    """Note whose message is decoded."""

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        DECODED.append(at.rank)
        return super().decode(head, side, like, at)


DECODED: list[int] = []


@pytest.mark.parametrize("aggregator", [mean, largest])
@pytest.mark.parametrize("size", [4, FEW + 1])
def test_simulated_workers_decode_a_message_once_for_all(aggregator, size):
    DECODED.clear()
    meet(Exchange(Counting(), aggregator), list(randn(size, 3)))
    assert list(range(size)) == DECODED
    DECODED.clear()
    meet(Exchange(Counting(), aggregator), list(randn(4, 3)), paranoid=True)
    assert [*range(4)] * 4 == DECODED


@dataclass(frozen=True)
class Swelling(Plain):
    """Say more on higher ranks than is declared."""

    def wire(self, before: Wire) -> Wire:
        return replace(before, summable=False)

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        return torch.cat([x, x[: at.rank]]), (), state

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        return head[: len(like)]


def test_messages_of_other_lengths_than_declared_are_refused():
    with pytest.raises(RunError, match=r"rank 1 said float32\[6\], but Swelling says float32\[5\]"):
        meet(Exchange(Swelling()), list(randn(2, 5)))


@pytest.mark.parametrize("size", [2, 5, FEW, FEW + 1])
def test_few_workers_gather_directly(size):
    links = Cluster(seconds_per_sample=0.0, uplink=1e3, downlink=1e3, latency=0.5)
    hops = 1 if size <= FEW else size - 1

    async def program(node):
        exchange, mine = Exchange(Shifted()), torch.zeros(9)
        await exchange(node, mine, exchange.init(mine), At(0, node.rank, size, Rand(0)))
        return node.now()

    assert simulate(program, size, links) == pytest.approx([hops * 1.0 + (size - 1) * 40 / 1e3] * size)


@dataclass(frozen=True)
class Together(Plain):
    """Sum by meetings of its own."""

    encode, decode = Identity.encode, Identity.decode

    async def meet(self, node, update, state, at, share, collective):
        return await collective(node, update, share), state


def test_a_codec_of_several_meetings_says_nothing_to_a_single_worker():
    exchange = Exchange(Together())
    assert [each.tolist() for each, _ in meet(exchange, [torch.ones(2), 3 * torch.ones(2)])] == [[2.0, 2.0]] * 2
    with pytest.raises(RunError) as error:
        exchange.say(torch.ones(2), {}, At(0, 0, 2, Rand(0)))
    assert str(error.value) == (
        "Together needs meetings of all workers, but here a worker talks to single ones"
        '\nhint: a program in which all meet, e.g. name = "local_sgd" in [program], or another codec'
    )


def sparse(name):
    return parts.build("sparse_collective", {"name": name})


@pytest.mark.parametrize(
    ("codec", "aggregator", "name", "says"),
    [
        (
            Identity(),
            mean,
            "ring",
            "combines chosen entries, but identity begins with no sparsifier\nhint: leave out",
        ),
        (Chain((Identity(), TopK(0.1))), mean, "auto", "begins with no sparsifier"),
        (TopK(0.1), largest, "ring", "makes a sum, but largest needs each worker's update\nhint: leave out"),
        (TopK(0.1), mean, "tree", 'nobody would remember\nhint: put [[codec]] name = "error_feedback" first'),
    ],
)
def test_sparse_collectives_are_refused_where_they_can_not_be(codec, aggregator, name, says):
    with pytest.raises(RecipeError) as error:
        Exchange(codec, aggregator, sparse_collective=sparse(name))
    assert f"the sparse collective `{name}`" in str(error.value)
    assert says in str(error.value)
    Exchange(ErrorFeedback(TopK(0.1)), sparse_collective=sparse(name))


def test_one_s_own_sparse_collective_has_no_cost():
    async def mine(node, said):
        return await sparse("gather")(node, said)

    exchange = Exchange(TopK(0.5), sparse_collective=mine)
    assert cost_of(mine) is None
    got = [each.tolist() for each, _ in meet(exchange, [torch.tensor([2.0, 1.0]), torch.tensor([0.0, 4.0])])]
    assert got == [[1.0, 2.0]] * 2
