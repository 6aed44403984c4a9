from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RunError
from quorate.votes import DIGEST_BYTES, digest, digests_of, winners
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


def test_digests_of_many_are_those_of_each(monkeypatch):
    monkeypatch.setattr("quorate.votes._AT_ONCE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    answers = [None if seed == 2 else randn(9, seed=seed) for seed in range(6)]
    together = digests_of(answers)
    assert together[2] is None
    assert all(
        torch.equal(one, digest(answer)) for one, answer in zip(together, answers, strict=True) if answer is not None
    )


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
    (party,) = vote.majorities
    assert len(party) == most
    assert party == tuple(rank for rank in range(5) if votes[rank] == votes[party[0]])
    assert vote.convicted == tuple(rank for rank in range(5) if votes[rank] not in (None, votes[party[0]]))
