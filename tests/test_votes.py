from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RunError
from quorate.votes import DIGEST_BYTES, digest, winners
from tests.tiny import randn


def test_a_digest_is_of_bits_shape_and_dtype():
    x = randn(5)
    assert (digest(x).shape, digest(x).dtype) == ((DIGEST_BYTES,), torch.uint8)
    assert bytes(digest(x)) == hashlib.sha256(b"float32[5]" + x.numpy().tobytes()).digest()
    others = [x.view(torch.int32), x[None], x[:4], -x, x.double(), torch.nextafter(x, torch.tensor(9.0))]
    assert len({bytes(digest(each)) for each in (x, *others)}) == 7
    assert bytes(digest(torch.tensor([0.0]))) != bytes(digest(torch.tensor([-0.0])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.bool])
def test_answers_of_any_dtype_and_layout_have_digests(dtype):
    x = (randn(4, 6) > 0).to(dtype)
    assert torch.equal(digest(x.T), digest(x.T.contiguous()))
    assert torch.equal(digest(x[:, ::2]), digest(x[:, ::2].clone()))
    assert len(digest(x[:0])) == DIGEST_BYTES


def test_bits_are_compared_and_not_numbers():
    one, other = torch.tensor([0.0, torch.nan]), torch.tensor([-0.0, torch.nan])
    assert winners([one, other, one.clone()], [range(3)], 2).majorities == ((0, 2),)
    long = randn(9)
    assert winners([long[1:7], long[1:7].clone(), long[2:8]], [range(3)], 2).majorities == ((0, 1),)
    assert winners([long[::2], long[::2].clone()], [range(2)], 2).majorities == ((0, 1),)
    for said in ([one, one.double()], [one, one[:1]], [one, one[None]]):
        with pytest.raises(RunError):
            winners(said, [range(2)], 2)


@given(votes=st.lists(st.integers(0, 2) | st.none(), min_size=5, max_size=5), least=st.integers(1, 5))
def test_wins_who_is_said_most_often_and_often_enough(votes, least):
    digests = [None if vote is None else digest(torch.tensor([vote])) for vote in votes]
    said = [vote for vote in votes if vote is not None]
    most = max((said.count(vote) for vote in said), default=0)
    if most < least:
        with pytest.raises(RunError, match=f"group 0 .* at most {most} agree, and {least} have to"):
            winners(digests, [range(5)], least)
        return
    vote = winners(digests, [range(5)], least)
    assert vote == winners([None if each is None else torch.tensor([each, 0.5]) for each in votes], [range(5)], least)
    (party,) = vote.majorities
    assert len(party) == most
    assert party == tuple(rank for rank in range(5) if votes[rank] == votes[party[0]])
    assert vote.convicted == tuple(rank for rank in range(5) if votes[rank] not in (None, votes[party[0]]))
