"""What all quantisers by blocks have in common."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs._quantiser import _ON_CPU, pieces
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.fp8 import Fp8
from quorate.codecs.int8 import Int8
from quorate.codecs.natural import Natural
from quorate.codecs.one_bit import OneBit
from quorate.codecs.qsgd import Qsgd
from quorate.codecs.sign import Sign
from quorate.codecs.terngrad import Terngrad
from quorate.codecs.top_k import TopK
from quorate.errors import QuorateError, RecipeError
from quorate.exchange import Exchange
from quorate.wire import Incompatible, Wire, size_in_bytes
from tests.codecs.laws import at, said_of
from tests.tiny import randn, simulate

QUANTISERS = [Fp8(), Int8(), Int8(stochastic=True), Natural(), OneBit(), Qsgd(), Sign(), Terngrad(), Terngrad(clip=2.5)]
BYTES = {Fp8: 1, Int8: 1, Natural: 1, OneBit: 1 / 8, Qsgd: 1 / 2, Sign: 1 / 8, Terngrad: 1 / 4}
every = pytest.mark.parametrize("codec", QUANTISERS, ids=str)


@given(d=st.integers(0, 10**6), block=st.integers(1, 10**6))
def test_pieces_are_all_entries_once_in_whole_blocks(d, block):
    place, number = 0, 0
    for entries, blocks, width in pieces(d, block, torch.device("cpu")):
        assert (entries.start, blocks.start) == (place, number)
        assert entries.stop - entries.start == (blocks.stop - blocks.start) * width <= max(_ON_CPU, block)
        assert width == block or entries.stop == d
        place, number = entries.stop, blocks.stop
    assert (place, number) == (d, math.ceil(d / block))


@every
def test_takes_the_bytes_of_its_codes_and_a_number_or_two_per_block(codec):
    d = 100 * codec.block
    wanted = d * BYTES[type(codec)] + 100 * 4 * codec.width
    assert Exchange(codec).bytes_said(torch.zeros(d)) == wanted
    head, side, _ = codec.encode(randn(d), {}, at(0, 0))
    assert size_in_bytes((head, *side)) == wanted


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_block_is_coded_alike_wherever_it_stands(codec, dtype):
    """Long updates are coded piece by piece; what a block says depends on its entries and chance alone."""
    d = 2 * _ON_CPU + 3 * codec.block + 5
    x = randn(d, dtype=dtype)
    said = said_of(codec, x, at(0, 0))
    left = x.clone()
    codec.take(left, {}, at(0, 0))
    assert torch.equal(left, x - said)
    total = torch.ones_like(x)
    head, side, _ = codec.encode(x.clone(), {}, at(0, 0))
    codec.add(total, head, side, 0.5, at(0, 0))
    torch.testing.assert_close(total, 1 + 0.5 * said)
    if not codec.random:
        last = d - d % codec.block
        assert torch.equal(said[last:], said_of(codec, x[last:], at(0, 0)))


@every
@given(exponent=st.integers(-35, 30), seed=st.integers(0, 999))
def test_keeps_its_bound_whatever_the_unit_is(codec, exponent, seed):
    """Normal numbers of any size that float32 has; an expectation is tested by a block that says it well."""
    x = randn(64, seed=seed) * 2.0 ** (3 * exponent)
    said = said_of(codec, x, at(0, seed))
    lost = float((x.double() - said.double()).square().sum() / x.double().square().sum())
    assert lost <= codec.bound(64) * (4 if codec.random else 1 + 1e-5)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_said_by_finite_numbers(codec, dtype):
    numbers = torch.finfo(dtype)
    for value in (numbers.max, numbers.tiny, numbers.smallest_normal / 4):
        for x in (torch.full((9,), value, dtype=dtype), torch.tensor([value, -value, 0.0], dtype=dtype)):
            said = said_of(codec, x, at(0, 0))
            assert torch.isfinite(said).all()
            assert float((said / value).abs().max()) <= 9


@every
def test_two_workers_draw_differently_and_one_draws_anew_in_every_step(codec):
    x = randn(512)
    first, other, later = (codec.encode(x.clone(), {}, where)[0] for where in (at(0, 0), at(1, 0), at(0, 0, 1)))
    assert torch.equal(first, other) is torch.equal(first, later) is not codec.random


@every
def test_damaged_messages_are_refused(codec):
    x = randn(3000)
    head, side, _ = codec.encode(x.clone(), {}, at(0, 0))
    for wrong, numbers in (
        (head[:-1], side[0]),
        (torch.cat([head, head]), side[0]),
        (head.float(), side[0]),
        (head, side[0][1:]),
        (head, side[0].double()),
        (head, side[0].clone().fill_(math.nan)),
        (head, side[0].clone().fill_(math.inf)),
    ):
        with pytest.raises(QuorateError, match="damaged"):
            codec.decode(wrong, (numbers,), x, at(0, 0))
        with pytest.raises(QuorateError, match="damaged"):
            codec.add(x.clone(), wrong, (numbers,), 1.0, at(0, 0))


@every
def test_comes_last_and_is_never_summed(codec):
    facts = codec.wire(Wire(l2_bound=1.0))
    assert (facts.summable, facts.aligned, facts.number, facts.l2_bound) == (False, True, "integer", math.inf)
    with pytest.raises(Incompatible, match="rounds real numbers, but is given something else\nhint: put it last"):
        Chain((codec, codec)).wire(Wire())
    Chain((TopK(), codec)).wire(Wire())


@every
def test_blocks_are_multiples_of_8(codec):
    for block in (0, 4, 12):
        with pytest.raises(RecipeError, match=f"a multiple of 8 entries, got {block}\nhint: block = 1024"):
            replace(codec, block=block)


def test_other_numbers_are_refused():
    with pytest.raises(RecipeError, match=r"float32 or float64, got torch\.float16\nhint: convert the model"):
        Sign().encode(torch.ones(8, dtype=torch.float16), {}, at(0, 0))


@pytest.mark.parametrize("codec", [Int8(), Sign(), Natural(), Chain((TopK(0.1), Int8()))], ids=str)
def test_error_feedback_says_all_in_the_long_run(codec):
    """The mean of what is said approaches a constant update: what remains is the residual, which does not grow."""
    updates = [randn(200, seed=seed) for seed in range(2)]

    async def program(node):
        exchange = Exchange(ErrorFeedback(codec))
        state, total = exchange.init(updates[0]), torch.zeros(200)
        for step in range(200):
            combined, state = await exchange(node, updates[node.rank].clone(), state, at(node.rank, 0, step))
            total += combined
        return total / 200

    for found in simulate(program, 2):
        assert (found - (updates[0] + updates[1]) / 2).norm() < 0.1 * updates[0].norm()
