"""Entries of sparse vectors: written, read, merged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import QuorateError
from quorate.node import Heard
from quorate.sparse_collectives import TAGS, Entries, expected, merged, read, tagged, written, written_bytes
from quorate.wire import Ragged, require_carried, size_in_bytes
from tests.sparse_collectives.workers import given as update_of
from tests.tiny import simulate

lengths = st.integers(0, 60)
shares = st.sampled_from([0.0, 0.05, 0.5, 1.0])


def drawn(length, share, seed=0):
    x = update_of(seed, length, kept=share)
    indices = x.nonzero()[:, 0]
    return Entries(indices, x[indices]), x


def dense(part, length):
    return part.values.new_zeros(length).index_add(0, part.indices, part.values)


@given(length=lengths, share=shares, seed=st.integers(0, 99))
def test_what_is_written_is_read_again_and_never_longer_than_dense(length, share, seed):
    part, x = drawn(length, share, seed)
    message = written(part, length)
    assert torch.equal(dense(read(message, length), length), x)
    assert size_in_bytes(message) == written_bytes(len(part.indices), length, 4) <= 4 * length
    most = expected(part.values, length)
    assert all(len(each) <= len(limit) for each, limit in zip(message, most, strict=True))


@given(length=lengths, one=shares, other=shares, seed=st.integers(0, 99))
def test_sums_are_those_of_dense_vectors_whichever_is_first(length, one, other, seed):
    (a, x), (b, y) = drawn(length, one, seed), drawn(length, other, seed + 100)
    total = merged(a, b, length)
    assert torch.equal(dense(total, length), x + y)
    assert torch.equal(total.indices, total.indices.unique())
    assert all(torch.equal(*pair) for pair in zip(total, merged(b, a, length), strict=True))


@given(
    values=st.integers(0, 80),
    coded=st.binary(max_size=300),
    length=lengths,
)
def test_bytes_that_are_no_entries_are_refused_or_stay_within_the_vector(values, coded, length):
    message = Ragged((torch.ones(values), torch.tensor(list(coded), dtype=torch.uint8)))
    try:
        part = read(message, length)
    except QuorateError:
        return
    assert len(part.indices) == len(part.values) <= length
    assert not len(part.indices) or 0 <= int(part.indices.min()) <= int(part.indices.max()) < length


def test_a_vector_too_long_to_be_declared_has_no_declared_limit():
    for length in (10, 1 << 27, 1 << 31):
        require_carried(expected(torch.ones(1), length), TAGS[0])


def test_tags_go_round_and_are_the_same_on_all_workers():
    async def program(node):
        seen = []
        for _ in range(len(TAGS) + 2):
            with tagged(node) as tag:
                seen.append(tag)
        return seen

    for seen in simulate(program, 3):
        assert seen == [*TAGS, *TAGS[:2]]


def test_what_is_made_of_messages_is_made_again_for_somebody_with_other_parts():
    heard, made = Heard([(torch.ones(1),)]), []
    one, other = object(), object()
    for by in (one, one, other, one):
        heard.once(lambda: made.append(1), by)
    assert len(made) == 3
    with pytest.raises(ValueError, match="argument"):
        heard.once(lambda: None, one, other)
