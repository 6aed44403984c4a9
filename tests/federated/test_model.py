"""The server's half: what it refuses, and what it makes of replies."""

import math
import re

import pytest
import torch

from quorate.aggregators.majority_vote import majority_vote
from quorate.algorithms.fed_avg import FedAvg
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.exchange import Exchange
from quorate.federated import Answer
from quorate.federated.model import Model
from quorate.outer_optimizers.momentum import Momentum
from quorate.outer_optimizers.sgd import Sgd
from quorate.rand import At
from tests.federated.homes import training
from tests.tiny import randn

MADE = training()
D = MADE.layout.numel


def model(uplink=None, downlink=None, optimizer=None) -> Model:
    return Model(MADE, uplink or Exchange(), downlink or Exchange(), FedAvg(), optimizer or Sgd(), MADE.size)


def reply(client: int, update=None, samples: float = 10.0, **numbers) -> Answer:
    update = randn(D, seed=client) if update is None else update
    return Answer(client, 0, {"update": (update,)}, {"samples": samples, "steps": 1.0, "loss": 0.5} | numbers)


def test_the_step_is_the_mean_by_samples():
    each = model()
    loss, metrics = each.update([reply(0, samples=30.0, loss=1.0), reply(1, samples=10.0, loss=3.0)])
    wanted = MADE.initial() - (0.75 * randn(D, seed=0) + 0.25 * randn(D, seed=1))
    torch.testing.assert_close(each.parameters, wanted)
    assert loss == pytest.approx(1.5)
    assert metrics["clients"] == 2.0
    assert each.known.samples == {0: 30.0, 1: 10.0}


def test_discounts_move_weight_to_others_or_shorten_the_step():
    moved, damped = model(), model()
    replies = [reply(0), reply(1)]
    moved.update(replies, [1.0, 0.0])
    damped.update(replies, [1.0, 0.0], damped=True)
    torch.testing.assert_close(moved.parameters, MADE.initial() - randn(D, seed=0))
    torch.testing.assert_close(damped.parameters, MADE.initial() - randn(D, seed=0) / 2)


def test_an_aggregator_that_needs_each_update_is_given_each():
    each = model(Exchange(aggregator=majority_vote))
    each.update([reply(client, torch.full((D,), sign)) for client, sign in enumerate((1.0, 1.0, -1.0))])
    torch.testing.assert_close(each.parameters, MADE.initial() - 1.0)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (reply(0, torch.full((D,), math.nan)), "NaN or infinity"),
        (reply(0, torch.cat([torch.full((1,), math.inf), torch.zeros(D - 1)])), "NaN or infinity"),
        (reply(0, torch.zeros(D + 1)), r"float32\[16\], not float32\[15\]"),
        (reply(0, torch.zeros(D, dtype=torch.float64)), "float64"),
        (reply(0, torch.zeros(D, 1)), "update"),
        (Answer(0, 0, {"other": (torch.zeros(D),)}, reply(0).numbers), "can't be decoded"),
        (Answer(0, 0, {"update": ()}, reply(0).numbers), "update"),
        (reply(0, samples=-1.0), "its `samples` is -1"),
        (reply(0, samples=math.nan), "its `samples` is nan"),
        (reply(0, loss=math.inf), "its `loss` is inf"),
        (Answer(0, 0, reply(0).messages, {"samples": 1.0, "loss": 1.0}), "its `steps` is None"),
    ],
)
def test_a_flaw_is_named(bad, why):
    flaw = model().flaw(bad)
    assert flaw is not None
    assert re.search(why, flaw), flaw


def test_a_good_reply_has_no_flaw_however_large_its_numbers():
    assert model().flaw(reply(0)) is None
    assert model().flaw(reply(0, torch.full((D,), 3e38))) is None


def test_indices_outside_the_update_are_a_flaw():
    sparse = Exchange(TopK(0.2))
    head, *side = sparse.say(randn(D), sparse.init(randn(D)), At(0, 0, MADE.size, MADE.rand))[0]
    broken = Answer(0, 0, {"update": (head, *(torch.full_like(each, 255) for each in side))}, reply(0).numbers)
    assert model(sparse).flaw(broken) is not None


def test_a_model_goes_on_from_its_state():
    downlink = Exchange(ErrorFeedback(TopK(0.3)))
    whole, first = model(downlink=downlink, optimizer=Momentum()), model(downlink=downlink, optimizer=Momentum())
    for each in (whole, first):
        each.broadcast(0)
        each.update([reply(0), reply(1)])
    second = model(downlink=downlink, optimizer=Momentum())
    second.load(first.state())
    assert all(
        torch.equal(*pair)
        for pair in zip(whole.broadcast(1)["parameters"], second.broadcast(1)["parameters"], strict=True)
    )
    for each in (whole, second):
        each.update([reply(2)])
    assert torch.equal(whole.parameters, second.parameters)
    assert whole.known == second.known


def test_what_is_broadcast_is_not_written_to_by_the_next_step():
    each = model()
    (sent,) = each.broadcast(0)["parameters"]
    before = sent.clone()
    each.update([reply(0)])
    assert torch.equal(sent, before)
