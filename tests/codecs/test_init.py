from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from quorate.codecs import Plain
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.int8 import Int8
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.top_k import TopK
from quorate.flat import Layout
from tests.codecs.laws import NAMES, of_name
from tests.tiny import classes


@dataclass(frozen=True)
class Halved(Plain):
    times: int = 1
    memory: tuple = field(default=(), repr=False)


class Bare(Plain):
    pass


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        (TopK(), "top_k"),
        (TopK(0.25), "top_k(ratio=0.25)"),
        (Int8(stochastic=True), "int8(stochastic=True)"),
        (PowerSgd(rank=2, warm_start=False), "power_sgd(rank=2, warm_start=False)"),
        (Chain(()), "identity"),
        (Chain((TopK(0.25), Int8())), "top_k(ratio=0.25), then int8"),
        (ErrorFeedback(TopK(0.25), momentum=0.9), "error_feedback(top_k(ratio=0.25), momentum=0.9)"),
        (ErrorFeedback(Chain((TopK(), Int8()))), "error_feedback(top_k, then int8)"),
        (Halved(2, memory=(1, 2)), "Halved(times=2)"),
        (Bare(), "Bare"),
        (ErrorFeedback(Identity()), "error_feedback(identity)"),
    ],
)
def test_people_are_told_the_name_in_recipes_and_what_is_not_a_default(codec, name):
    assert str(codec) == f"{codec}" == name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "chain"])
def test_every_codec_begins_with_its_name(name):
    for codec in of_name(name):
        assert str(codec).partition("(")[0] == name


def test_a_codec_that_knows_the_parameters_keeps_its_name():
    layout = Layout.of(classes().model())
    assert str(PowerSgd(rank=2).laid_out(layout)) == "power_sgd(rank=2)"
