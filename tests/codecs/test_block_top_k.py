from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.block_top_k import BlockTopK
from quorate.errors import QuorateError
from quorate.wire import size_in_bytes
from tests.codecs.sparse import AT, left
from tests.tiny import randn


@given(d=st.integers(0, 3000), block=st.integers(2, 3001), seed=st.integers(0, 99))
def test_each_block_says_its_largest_entry(d, block, seed):
    x, codec = randn(d, seed=seed), BlockTopK(block)
    head, side, _ = codec.encode(x.clone(), {}, AT)
    decoded = codec.decode(head, side, x, AT)
    for said, own in zip(decoded.split(block) if d else (), x.split(block), strict=False):
        assert torch.equal(said, torch.where(own.abs() == own.abs().max(), own, 0.0))
    assert torch.equal(codec.places(head, side, x), codec.select(x, AT))
    if d:
        assert left(codec, x) <= codec.bound(d) + 1e-6


def test_a_constant_update_reaches_the_bound():
    assert left(BlockTopK(8), torch.ones(80)) == pytest.approx(BlockTopK(8).bound(80))


def test_an_index_takes_the_bits_that_count_up_to_the_block():
    for block, bits in ((2, 1), (256, 8), (257, 9), (1024, 10)):
        assert size_in_bytes(BlockTopK(block).emits(torch.empty(block * 800))) == 800 * 4 + 100 * bits


@given(bytes_=st.binary(min_size=8, max_size=8), d=st.integers(91, 100))
def test_hostile_bytes_name_places_inside_or_are_refused(bytes_, d):
    codec, like = BlockTopK(10), torch.zeros(d)
    coded = torch.frombuffer(bytearray(bytes_[:5]), dtype=torch.uint8)
    try:
        places = codec.places(torch.ones(10), (coded,), like)
    except QuorateError as error:
        assert "damaged" in str(error)  # noqa: PT017
        return
    assert [int(place) // 10 for place in places] == list(range(10))
    assert int(places[-1]) < d


def test_messages_of_other_lengths_are_refused():
    codec, like = BlockTopK(10), torch.zeros(100)
    head, (coded,), _ = codec.encode(randn(100), {}, AT)
    for wrong in ((head[:-1], coded), (head, coded[:-1]), (head, coded.int())):
        with pytest.raises(QuorateError, match="damaged"):
            codec.decode(wrong[0], (wrong[1],), like, AT)
