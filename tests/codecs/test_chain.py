from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quorate.codecs import Plain, Side, State
from quorate.codecs.chain import Chain
from quorate.codecs.fp16 import Fp16
from quorate.codecs.identity import Identity
from quorate.codecs.int8 import Int8
from quorate.codecs.natural import Natural
from quorate.codecs.sign import Sign
from quorate.codecs.terngrad import Terngrad
from quorate.codecs.top_k import TopK
from quorate.rand import At, Rand
from quorate.trees import flatten, leaf
from quorate.wire import Incompatible, Message, Wire, require
from tests.tiny import randn


@dataclass(frozen=True)
class Cut(Plain):
    """Split off the last entries as a side, and count the calls: heads shrink, sides differ in length."""

    entries: int
    pieces: int

    def wire(self, before: Wire) -> Wire:
        require(before.number == "real", "cut needs reals", "put it first")
        return replace(before, l2_bound=before.l2_bound / 2)

    def init(self, like: Tensor) -> State:
        return {"calls": torch.zeros(like.numel())}

    def emits(self, like: Tensor) -> Message:
        return (like[: -self.entries], *like[-self.entries :].tensor_split(self.pieces))

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        return (
            x[: -self.entries],
            x[-self.entries :].tensor_split(self.pieces),
            {"calls": leaf(state, "calls") + x.numel()},
        )

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        assert head.numel() == like.numel() - self.entries
        assert len(side) == self.pieces
        return torch.cat([head, *side])


@dataclass(frozen=True)
class Integers(Plain):
    """Declare what travels to be integers."""

    def wire(self, before: Wire) -> Wire:
        return replace(before, number="integer")

    encode, decode = Identity.encode, Identity.decode


AT = At(0, 0, 1, Rand(0))
cuts = st.lists(st.builds(Cut, st.integers(1, 3), st.integers(1, 4)) | st.just(Identity()), max_size=4)


@given(codecs=cuts, seed=st.integers(0, 999))
@settings(deadline=None)
def test_everybody_gets_its_own_side_back(codecs, seed):
    chain, x = Chain(tuple(codecs)), randn(15, seed=seed)
    head, side, _ = chain.encode(x, chain.init(x), AT)
    assert [each.shape for each in chain.emits(x)] == [each.shape for each in (head, *side)]
    assert torch.equal(chain.decode(head, side, torch.zeros(15), AT), x)


@given(codecs=cuts)
@settings(deadline=None)
def test_a_chain_of_chains_is_one_chain(codecs):
    x, flat = randn(15), Chain(tuple(codecs))
    nested = Chain((Chain(tuple(codecs[:2])), Chain(tuple(codecs[2:]))))
    assert flat.wire(Wire()) == nested.wire(Wire())
    one, other = (chain.encode(x, chain.init(x), AT)[:2] for chain in (flat, nested))
    assert all(torch.equal(a, b) for a, b in zip((one[0], *one[1]), (other[0], *other[1]), strict=True))


def test_state_is_held_by_position_and_fits_what_each_part_sees():
    chain, x = Chain((Cut(2, 1), Identity(), Cut(1, 1))), torch.zeros(9)
    state = chain.init(x)
    assert {name: len(tensor) for name, tensor in flatten(state).items()} == {"0.calls": 9, "2.calls": 7}
    _, _, state = chain.encode(x, state, AT)
    assert flatten(state)["2.calls"].tolist() == [7.0] * 7


def test_facts_are_folded_in_order():
    assert Chain((Cut(1, 1), Cut(1, 1))).wire(Wire(l2_bound=8.0)).l2_bound == 2.0
    Chain((Cut(1, 1), Integers())).wire(Wire())
    with pytest.raises(Incompatible, match="cut needs reals\nhint: put it first"):
        Chain((Integers(), Cut(1, 1))).wire(Wire())


@given(d=st.integers(1, 80), seed=st.integers(0, 999), ratio=st.floats(0.02, 1))
def test_what_a_sparsifier_leaves_out_and_what_is_lost_of_the_rest_are_orthogonal(d, seed, ratio):
    x, chain = randn(d, seed=seed, dtype=torch.float64), Chain((TopK(ratio), Int8(8)))
    head, side, _ = chain.encode(x.clone(), chain.init(x), AT)
    lost = chain.decode(head, side, x, AT) - x
    k = TopK(ratio).at_most(d)
    chosen = x.abs().topk(k).indices
    left_out = x.clone().index_fill_(0, chosen, 0)
    torch.testing.assert_close(lost.square().sum(), left_out.square().sum() + lost[chosen].square().sum())
    outer, inner = 1 - k / d, Int8(8).bound(k)
    assert lost.square().sum() <= (chain.bound(d) + 1e-12) * x.square().sum()
    assert chain.bound(d) == pytest.approx(outer + inner * (1 - outer))
    assert chain.bound(d) <= outer + inner + 1e-12


def test_the_bound_of_a_chain():
    wide = Terngrad(block=1024)
    assert wide.bound(1024) == 15.5
    assert Chain((TopK(1.0), wide)).bound(1024) == 15.5
    assert Chain((TopK(0.5), wide)).bound(2048) == 15.5
    assert Chain((Identity(), TopK(0.1), Identity())).bound(100) == pytest.approx(0.9)
    assert Chain((Identity(), Int8())).bound(100) == Int8().bound(100)
    assert Chain((Fp16(), TopK(0.1))).bound(100) == inf
    assert Chain((TopK(0.1), Fp16(), Int8())).bound(100) == inf
    assert Chain(()).bound(100) == 0


@given(d=st.integers(0, 60), seed=st.integers(0, 999), ratio=st.floats(0.02, 1))
def test_values_of_chosen_entries_are_quantised_and_their_rounding_is_left(d, seed, ratio):
    x = randn(d, seed=seed)
    for inner in (Int8(), Sign(), Fp16(), Natural()):
        chain, left = Chain((TopK(ratio), inner)), x.clone()
        head, side, _ = chain.take(left, chain.init(x), AT)
        torch.testing.assert_close(left + chain.decode(head.clone(), side, x, AT), x)
        indices, values = chain.entries(head, side, x, AT)
        torch.testing.assert_close(left[indices], x[indices] - values)
