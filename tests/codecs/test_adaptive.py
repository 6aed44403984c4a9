from __future__ import annotations

import math

import pytest
import torch

from quorate.codecs.adaptive import Adaptive
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.errors import QuorateError, RunError
from quorate.exchange import Exchange
from quorate.wire import Incompatible, Wire
from tests.codecs.laws import at
from tests.tiny import randn


def test_an_unresolved_codec_says_who_resolves_it():
    codec = Adaptive()
    with pytest.raises(RunError, match="it is chosen by `quorate run`"):
        codec.encode(torch.zeros(3), {}, at(0, 0))
    with pytest.raises(RunError, match="it is chosen by `quorate run`"):
        codec.decode(torch.zeros(3), (), torch.zeros(3), at(0, 0))


def test_switched_off_it_says_the_update_as_it_is():
    codec, x = Adaptive(enabled=False), randn(9)
    head, side, state = codec.encode(x.clone(), codec.init(x), at(0, 0))
    assert torch.equal(codec.decode(head, side, x, at(0, 0)), x)
    assert (side, state, codec.bound(9), codec.wire(Wire())) == ((), {}, 0.0, Wire())


def test_who_must_know_what_is_lost_can_not_leave_it_open():
    with pytest.raises(QuorateError, match=r"is not known before.*\nhint: name a codec") as error:
        Adaptive().bound(10)
    assert "int8" in error.value.hint


@pytest.mark.parametrize("around", [lambda one: Chain((one, TopK())), lambda one: Chain((TopK(), one)), ErrorFeedback])
def test_stands_alone(around):
    with pytest.raises(Incompatible, match="needs to be the only codec"):
        Exchange(around(Adaptive()))


@pytest.mark.parametrize(
    ("candidates", "says"),
    [
        ((), "no candidates to choose from\nhint: candidates = "),
        (("dense", "top_q"), "has no candidate `top_q`\nhint: did you mean `top_k`?"),
        (("chain",), "has no candidate `chain`"),
        (("top_k 0",), "input should be greater than 0, got 0\nhint: ratio = 0.001"),
        (("top_k 1 2",), "can't read the candidate `top_k 1 2`\nhint: a codec and a number at most"),
    ],
)
def test_all_candidates_are_built_before_one_is_chosen(candidates, says):
    with pytest.raises(QuorateError) as error:
        Exchange(Adaptive(candidates=candidates))
    assert says in str(error.value)


def test_what_stands_before_it_is_refused():
    with pytest.raises(Incompatible, match="adaptive chooses all that is done to an update"):
        Adaptive().wire(Wire(l2_bound=1.0))
    assert Adaptive().wire(Wire(l2_bound=math.inf)) == Wire()
