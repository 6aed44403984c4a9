from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.rand import At, Rand

names = st.lists(st.integers(-(10**9), 10**9) | st.text(max_size=5), max_size=4).map(tuple)
seeds = st.integers(0, 2**62)


@given(seed=seeds, path=names)
@settings(deadline=None)
def test_equal_arguments_give_equal_draws_and_global_chance_is_left_alone(seed, path):
    before = torch.get_rng_state()
    first, second = (torch.rand(3, generator=Rand(seed).fold(*path).generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@given(seed=seeds, one=names, other=names)
@settings(deadline=None)
def test_different_purposes_are_different_streams(seed, one, other):
    assert (Rand(seed).fold(*one) == Rand(seed).fold(*other)) == (one == other)


def test_strings_and_integers_are_told_apart():
    assert Rand(0).fold("1") != Rand(0).fold(1)


def test_streams_are_the_same_on_every_machine_and_in_every_release():
    assert Rand(7).fold("batch", 3, 0).seed == 7728859323665089886


@given(seed=seeds, step=st.integers(0, 10**6), rank=st.integers(0, 98), other=st.integers(0, 98))
@settings(deadline=None)
def test_workers_share_one_stream_of_a_step_and_have_one_each(seed, step, rank, other):
    a, b = At(step, rank, 99, Rand(seed)), At(step, other, 99, Rand(seed))
    assert a.shared == b.shared
    assert (a.own == b.own) == (rank == other)
    assert a.shared != At(step + 1, rank, 99, Rand(seed)).shared
    assert a.own not in (a.shared, At(step + 1, rank, 99, Rand(seed)).own)
