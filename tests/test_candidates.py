from __future__ import annotations

import pytest
import torch

from quorate.candidates import LADDER, codec_of, cost_of
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.int8 import Int8
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.top_k import TopK
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from tests.tiny import randn


def test_what_is_biased_remembers():
    assert codec_of("dense") == Identity()
    assert codec_of("top_k 0.25") == ErrorFeedback(TopK(0.25))
    assert codec_of("int8") == ErrorFeedback(Int8())
    assert codec_of("power_sgd 2") == PowerSgd(rank=2)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("tpo_k", "`adaptive` has no candidate `tpo_k`\nhint: did you mean `top_k`?"),
        ("dense 3", "`adaptive` has no candidate `dense 3`\nhint: did you mean `dense`?"),
        ("error_feedback", "`adaptive` has no candidate `error_feedback`"),
        ("adaptive", "`adaptive` has no candidate `adaptive`"),
        ("", "`adaptive` has no candidate ``"),
        ("top_k x", "`adaptive` can't read the candidate `top_k x`\nhint: a codec and a number at most, e.g."),
        ("top_k 0.1 2", "`adaptive` can't read the candidate `top_k 0.1 2`"),
        ("top_k 2", "[codec] `ratio`: input should be less than or equal to 1, got 2"),
    ],
)
def test_refuses_what_is_no_candidate(candidate, message):
    with pytest.raises(RecipeError) as error:
        codec_of(candidate)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("candidate", LADDER)
def test_counts_what_is_said(candidate):
    update = randn(4096)
    exchange = Exchange(codec_of(candidate))
    summed = exchange.sums_in_flight
    cost = cost_of(exchange.codec, update, 4, summed=summed, repeats=1)
    assert cost.summed == summed
    assert 0 < cost.bytes <= exchange.bytes_said(update)
    assert (cost.encode > 0) == (candidate != "dense")
    assert torch.equal(update, randn(4096))
    assert len(cost.sizes) == (2 if candidate == "power_sgd" else 1)


def test_the_ladder_says_ever_less():
    """Of a square matrix, at least; PowerSGD comes where its bytes are for a million parameters."""
    sizes = [
        cost_of(codec_of(each), randn(1 << 18), 2, summed=False, repeats=0).bytes
        for each in LADDER
        if "power" not in each
    ]
    assert sizes == sorted(sizes, reverse=True)
