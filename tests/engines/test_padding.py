from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.engines.padding import gather_ragged
from quorate.engines.waiting import done
from quorate.errors import RunError
from quorate.wire import Ragged
from tests.tiny import randn


def gather_all(messages, likes=None, forged=None):
    """Let every rank gather in turn, with what the others bring to each of the two calls made up by rule."""
    rows = [(torch.tensor([len(tensor) for tensor in message]),) for message in messages]
    if forged is not None:
        rows[-1] = (torch.tensor(forged),)
    longest = max(sum(tensor.nbytes for tensor in message) for message in messages)

    def filled(message):
        raw = torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in message])
        return (torch.cat([raw, torch.zeros(longest - len(raw), dtype=torch.uint8)]),)

    answers = [rows, [filled(message) for message in messages]]
    given_ones = []

    def gather(message):
        given_ones.append(message)
        return done(answers[len(given_ones) - 1])

    found = gather_ragged(gather, messages[0], likes).wait()
    assert torch.equal(given_ones[1][0], answers[1][0][0])
    return found


@given(lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4))
def test_everybody_gets_what_was_said(lengths):
    messages = [
        Ragged((randn(k, seed=k), torch.arange(m, dtype=torch.uint8), torch.arange(2 * k).reshape(k, 2)))
        for k, m in lengths
    ]
    found = gather_all(messages)
    for got, said in zip(found, messages, strict=True):
        assert isinstance(got, Ragged)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, said, strict=True))


@pytest.mark.parametrize("forged", [[-1], [9], [1 << 40]])
def test_a_length_that_may_not_be_is_refused_before_memory_is_taken(forged):
    messages = [Ragged((randn(3),)), Ragged((randn(3),))]
    with pytest.raises(RunError, match="rank 1 says"):
        gather_all(messages, Ragged((torch.empty(8, device="meta"),)), forged)
