"""Laws of every codec: updates of strange lengths, values and layouts, and messages that nobody should have sent."""

from __future__ import annotations

import math
import re
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quorate.codecs.identity import Identity
from quorate.errors import QuorateError, RunError
from quorate.exchange import Exchange
from quorate.flat import Layout
from quorate.rand import At, Rand
from quorate.wire import Ragged
from tests.codecs.laws import NAMES, SPEAKING, at, drawn, law, of_name, said_of
from tests.tiny import mlp, simulate


@pytest.mark.parametrize("name", SPEAKING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [0, 1, 9, 5000])
def test_zeros_are_said_to_be_zeros(name, dtype, d):
    for codec in of_name(name):
        said = said_of(codec, torch.zeros(d, dtype=dtype), at(0, 0))
        assert (said.shape, said.dtype) == ((d,), dtype)
        assert not said.any()


@pytest.mark.parametrize("name", SPEAKING)
@pytest.mark.parametrize("value", [1e-45, -1e-38, 1e-20, 3.0, -1e20, 1e30])
@pytest.mark.parametrize("d", [1, 9, 5000])
def test_constants_from_the_smallest_to_the_largest_are_said_by_finite_numbers(name, value, d):
    for codec in of_name(name):
        x = torch.full((d,), value)
        left = x.clone()
        assert torch.isfinite(said_of(codec, x, at(0, 0))).all()
        codec.take(left, codec.init(x), at(0, 0))
        assert torch.isfinite(left).all()


@law
def test_an_update_may_lie_anywhere_in_memory(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    strided = torch.zeros(3 * d, dtype=dtype)[1::3]
    plain, plain_side, _ = codec.encode(updates[0].clone(), codec.init(updates[0]), at(0, seed))
    head, side, _ = codec.encode(strided.copy_(updates[0]), codec.init(strided), at(0, seed))
    assert all(torch.equal(a, b) for a, b in zip((head, *side), (plain, *plain_side), strict=True))
    decoded = codec.decode(plain.clone(), plain_side, updates[0], at(0, seed))
    assert torch.equal(codec.decode(head.clone(), side, strided, at(0, seed)), decoded)
    total, wanted = torch.ones(3 * d, dtype=dtype)[1::3], torch.ones(d, dtype=dtype)
    codec.add(total, head.clone(), side, 0.5, at(0, seed))
    codec.add(wanted, head.clone(), side, 0.5, at(0, seed))
    assert torch.equal(total, wanted)
    codec.take(strided.copy_(updates[0]), codec.init(strided), at(0, seed))
    codec.take(left := updates[0].clone(), codec.init(left), at(0, seed))
    assert torch.equal(strided, left)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "identity"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_step_rank_and_parameter(name, value):
    layout = Layout.of(mlp())
    (wrong, _, place) = layout.places[2]

    async def program(node):
        update = torch.ones(layout.numel)
        if node.rank == 1:
            update[place + 1] = value
        await exchange(node, update, exchange.init(update), At(6, node.rank, 2, Rand(0)))

    for codec in of_name(name):
        if isinstance(codec, Identity) or getattr(codec, "enabled", True) is False:
            continue
        exchange = Exchange(codec).laid_out(layout)
        says = rf"step 7, rank 1: entry {place + 1} of `{re.escape(wrong)}` of the update is {value}"
        with pytest.raises(RunError, match=says):
            simulate(program, 2)


def random_bytes(like: Tensor, rows: int, seed: int) -> Tensor:
    """Return a tensor of the dtype and the inner shape of another, of any bits."""
    shape = (rows, *like.shape[1:])
    count = math.prod(shape) * like.element_size()
    drawn = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return drawn.view(like.dtype).view(shape) if count else torch.empty(shape, dtype=like.dtype)


@pytest.mark.parametrize("name", SPEAKING)
@given(data=st.data(), d=st.integers(0, 60), seed=st.integers(0, 10**6), number=st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_a_message_of_any_bytes_is_decoded_or_refused(name, data, d, seed, number):
    """An engine lets through what fits `emits`: other bytes, and of ragged messages other numbers of rows."""
    codec, updates = drawn(name, d, torch.float32, seed, number)
    x = updates[0]
    most = codec.emits(x)
    head, side, _ = codec.encode(x.clone(), codec.init(x), at(0, seed))
    message = []
    for place, (said, limit) in enumerate(zip((head, *side), most, strict=True)):
        rows = data.draw(st.integers(0, len(limit))) if isinstance(most, Ragged) else len(said)
        way = data.draw(st.sampled_from(["as it is", "cut or filled up", "other bytes"]))
        other = random_bytes(said, rows, seed + place)
        if way == "as it is":
            other = said
        elif way == "cut or filled up":
            other[: len(said)] = said[:rows]
        message.append(other)
    changed, *rest = message
    total = torch.zeros(d)
    with suppress(QuorateError):
        assert codec.decode(changed.clone(), tuple(rest), x, at(0, seed)).shape == (d,)
    with suppress(QuorateError):
        codec.add(total, changed.clone(), tuple(rest), 0.5, at(0, seed))
    assert total.shape == (d,)
