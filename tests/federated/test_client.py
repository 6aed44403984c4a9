"""A client as a function: it depends on its arguments, and changes none."""

from dataclasses import replace

import pytest
import torch

from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.errors import QuorateError, RunError
from quorate.exchange import Exchange
from quorate.federated import Request
from quorate.federated.client import Asked, Client
from quorate.rand import At
from quorate.trees import flatten
from tests.federated.homes import clients, training

MADE = training()
SPARSE = Exchange(ErrorFeedback(TopK(0.3)))


def request(round: int = 0, **tensors) -> Request:
    return Request(round, tensors or {"parameters": (MADE.initial().clone(),)})


def asked(client: int = 0, memory=None, of: Request | None = None) -> Asked:
    return Asked(client, memory or {}, of or request(), MADE.shards[client])


def same(one, other) -> bool:
    (memory, answer), (memory_too, answer_too) = one, other
    held, held_too = flatten(memory), flatten(memory_too)
    return (
        held.keys() == held_too.keys()
        and all(torch.equal(held[name], held_too[name]) for name in held)
        and answer.numbers == answer_too.numbers
        and all(torch.equal(*pair) for pair in zip(answer.message("update"), answer_too.message("update"), strict=True))
    )


@pytest.mark.parametrize("uplink", [Exchange(), SPARSE], ids=["identity", "error feedback"])
def test_equal_arguments_give_equal_answers_and_nothing_is_written_to(uplink):
    each: Client = replace(clients(MADE), uplink=uplink)
    memory, _ = each(asked())
    before = {name: tensor.clone() for name, tensor in flatten(memory).items()}
    of = request(1)
    sent = of.tensors["parameters"][0].clone()
    assert same(each(asked(memory=memory, of=of)), each(asked(memory=memory, of=of)))
    assert all(torch.equal(before[name], tensor) for name, tensor in flatten(memory).items())
    assert torch.equal(of.tensors["parameters"][0], sent)


def test_a_cohort_answers_as_each_client_would():
    each = replace(clients(MADE), uplink=SPARSE)
    of = request()
    cohort = [asked(client, of=of) for client in range(MADE.size)]
    for together, one in zip(each.answers(cohort, each.train), cohort, strict=True):
        assert not isinstance(together, QuorateError)
        assert same(together, each(one))


def test_what_is_not_said_is_kept_for_the_next_round():
    each = replace(clients(MADE), uplink=SPARSE)
    plain, (memory, answer) = clients(MADE)(asked())[1], each(asked())
    said = SPARSE.hear(answer.message("update"), MADE.initial(), At(0, 0, MADE.size, MADE.rand))
    (residual,) = [tensor for name, tensor in flatten(memory).items() if tensor.shape == said.shape]
    torch.testing.assert_close(said + residual, plain.message("update")[0])
    assert float(residual.norm()) > 0


def test_a_client_that_diverges_does_not_stop_the_others():
    each = clients(MADE)
    wrong = request(0, parameters=(torch.full_like(MADE.initial(), float("nan")),))
    good, bad = each.answers([asked(0), asked(1, of=wrong)], each.train)
    assert not isinstance(good, QuorateError)
    assert isinstance(bad, QuorateError)
    assert "not finite" in bad.problem


def test_another_broadcast_than_the_algorithms_is_refused():
    with pytest.raises(RunError, match="the server broadcasts control, but the recipe's algorithm parameters"):
        clients(MADE)(asked(of=request(0, control=(MADE.initial(),))))


def test_an_unknown_question_is_refused_with_what_to_do():
    answer = clients(MADE).answers([asked(of=Request(0, {}, kind="sell"))], clients(MADE).train)[0]
    assert isinstance(answer, RunError)
    assert "`sell`" in answer.problem
    assert answer.hint == "update quorate here"


def test_cost_is_the_samples_of_all_local_steps():
    assert clients(MADE).cost(asked(2)) == 2 * len(MADE.shards[2])
