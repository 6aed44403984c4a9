from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs._sparsifier import count, four_thirds
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.wire import Incompatible, Wire
from tests.codecs.sparse import AT, are_the_largest, left
from tests.tiny import randn


@given(d=st.integers(1, 3000), seed=st.integers(0, 99), ratio=st.sampled_from([0.001, 0.01, 0.3, 1.0]))
def test_the_largest_entries_and_no_others_are_said(d, seed, ratio):
    codec, x = TopK(ratio), randn(d, seed=seed)
    head, side, _ = codec.encode(x.clone(), {}, AT)
    chosen = codec.places(head, side, x)
    assert len(chosen) == count(ratio, d)
    assert are_the_largest(x, chosen)
    assert torch.equal(head, x[chosen])
    assert left(codec, x) <= codec.bound(d) + 1e-6


def test_a_constant_update_reaches_the_bound():
    assert left(TopK(0.1), torch.ones(200)) == pytest.approx(TopK(0.1).bound(200))


@given(power=st.floats(1.0, 6.0), seed=st.integers(0, 99), ratio=st.sampled_from([0.01, 0.1, 0.5]))
def test_bell_shaped_updates_keep_the_tighter_bound(power, seed, ratio):
    """Squares (1 - i / d)^power fall to 0 as a convex function; at power 1, the bound is reached."""
    d = 1000
    squares = (1 - (torch.arange(d, dtype=torch.float64) + 0.5) / d) ** power
    x = squares.sqrt()[torch.randperm(d, generator=torch.Generator().manual_seed(seed))]
    codec = TopK(ratio)
    assert left(codec, x) <= codec.bell_shaped_bound(d) + 1e-12 < codec.bound(d)
    if power == 1:
        assert left(codec, x) == pytest.approx(codec.bell_shaped_bound(d))


def test_nothing_and_one_entry_are_said_whole():
    for d in (0, 1):
        x = randn(d)
        head, side, _ = TopK().encode(x.clone(), {}, AT)
        assert torch.equal(TopK().decode(head, side, x, AT), x)
        assert TopK().bound(d) == 0


def test_messages_are_gathered_and_nothing_but_reals_is_compared():
    assert not Exchange(ErrorFeedback(TopK(0.1))).sums_in_flight
    with pytest.raises(Incompatible, match="put it first"):
        TopK().wire(Wire(number="integer"))


def test_damaged_messages_are_refused():
    x, codec = randn(1000), TopK(0.01)
    head, (coded,), _ = codec.encode(x.clone(), {}, AT)
    for damaged in (coded[:-1], coded.new_full((len(coded),), 255)):
        with pytest.raises(QuorateError, match="damaged"):
            codec.decode(head, (damaged,), x, AT)


@given(ratio=st.floats(1e-6, 1), d=st.integers(0, 10**9))
def test_a_ratio_means_at_least_one_entry_and_never_more_than_all(ratio, d):
    k = count(ratio, d)
    assert min(1, d) <= k <= four_thirds(k, d) <= d
