from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quorate import index_coding
from quorate.errors import QuorateError


@st.composite
def chosen(draw):
    """Draw d and some indices below it, ascending."""
    d = draw(st.integers(0, 70) | st.integers(0, 100_000) | st.just(index_coding.LARGEST))
    indices = draw(st.sets(st.integers(0, d - 1), max_size=200)) if d else set()
    if draw(st.booleans()) and 0 < d < 100:
        indices = set(range(d))
    return d, torch.tensor(sorted(indices), dtype=torch.int64)


@given(chosen())
@example((index_coding.LARGEST, torch.tensor([index_coding.LARGEST - 1])))
@settings(max_examples=200)
def test_decoding_inverts_encoding_and_the_size_is_the_declared_one(drawn):
    d, indices = drawn
    coded = index_coding.encode(indices, d)
    assert (coded.dtype, coded.shape) == (torch.uint8, (index_coding.size(len(indices), d),))
    assert len(coded) <= 4 * len(indices)
    assert torch.equal(index_coding.decode(coded, len(indices), d), indices)


def test_nothing_is_coded_by_nothing():
    for d in (0, 1, 10**9):
        assert index_coding.size(0, d) == 0
        assert len(index_coding.decode(torch.empty(0, dtype=torch.uint8), 0, d)) == 0


@given(count=st.integers(0, 10**6), d=st.integers(0, index_coding.LARGEST))
def test_the_size_grows_by_no_more_than_int32(count, d):
    count = min(count, d)
    assert index_coding.size(count, d) <= 4 * count


def test_one_of_a_thousand_takes_twelve_bits():
    assert index_coding.size(10_000, 10_000_000) * 8 == pytest.approx(12 * 10_000, rel=0.01)


@given(count=st.integers(0, 300), d=st.integers(0, 10**6), data=st.data())
@settings(max_examples=300)
def test_hostile_bytes_give_proper_indices_or_are_refused(count, d, data):
    count = min(count, d)
    length = index_coding.size(count, d)
    coded = torch.frombuffer(
        bytearray(data.draw(st.binary(min_size=length, max_size=length)) + b"."), dtype=torch.uint8
    )
    try:
        indices = index_coding.decode(coded[:length], count, d)
    except QuorateError as error:
        assert "the message is damaged" in str(error)  # noqa: PT017
        return
    assert (len(indices), indices.dtype) == (count, torch.int64)
    assert (indices.diff() > 0).all()
    assert not count or (int(indices[0]) >= 0 and int(indices[-1]) < d)


@given(drawn=chosen(), place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=200)
def test_one_flipped_bit_gives_proper_indices_or_is_refused(drawn, place, bit):
    d, indices = drawn
    coded = index_coding.encode(indices, d).clone()
    if not len(coded):
        return
    coded[place % len(coded)] ^= 1 << bit
    try:
        damaged = index_coding.decode(coded, len(indices), d)
    except QuorateError:
        return
    assert len(damaged) == len(indices)
    assert int(damaged[-1]) < d


@pytest.mark.parametrize(
    ("length", "count", "d"),
    [(3, 5, 100), (10**6, 5, 100), (8, 200, 100), (0, -1, 100), (4, 1, index_coding.LARGEST + 1)],
)
def test_a_length_that_does_not_fit_the_count_is_refused(length, count, d):
    with pytest.raises(QuorateError, match=f"{count} indices below {d} can't be coded"):
        index_coding.decode(torch.zeros(length, dtype=torch.uint8), count, d)


def test_other_dtypes_are_refused():
    with pytest.raises(QuorateError, match="int32"):
        index_coding.decode(torch.zeros(index_coding.size(5, 100), dtype=torch.int32), 5, 100)


def test_the_memory_of_decoding_is_bounded_by_the_count():
    count, d = 1_000, 1 << 30
    coded = torch.full((index_coding.size(count, d),), 255, dtype=torch.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(QuorateError):
            index_coding.decode(coded, count, d)
        assert tracemalloc.get_traced_memory()[1] < 1000 * count
    finally:
        tracemalloc.stop()


@given(bits=st.integers(1, 32), seed=st.integers(0, 99), count=st.integers(0, 50))
def test_packed_numbers_are_unpacked(bits, seed, count):
    numbers = torch.randint(1 << bits, (count,), generator=torch.Generator().manual_seed(seed))
    coded = index_coding.packed(numbers, bits)
    assert len(coded) == (count * bits + 7) // 8
    assert torch.equal(index_coding.unpacked(coded, count, bits), numbers)
