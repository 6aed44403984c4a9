from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_rep import FedRep
from quorate.errors import RecipeError
from quorate.optimizer import Optimizer
from tests.algorithms.test_fed_per import descend, double
from tests.algorithms.world import Federation, accuracies, far, quarrel

BODY, HEAD = slice(0, 35), slice(35, 53)


def by_the_book(made, rounds: list[list[int]], lr: float, head_epochs: int, epochs: int):
    """Algorithm 1 with gradient steps: the head on the body that was sent, then the body under the new head."""
    body, heads = made.initial()[BODY].clone(), {k: made.initial()[HEAD].clone() for k in range(made.size)}
    for cohort in rounds:
        total, mean = sum(len(made.shards[k]) for k in cohort), torch.zeros_like(body)
        for k in cohort:
            own = descend(made, k, torch.cat([body, heads[k]]), head_epochs, lr, HEAD)
            assert torch.equal(own[BODY], body)
            heads[k] = own[HEAD].clone()
            mean += len(made.shards[k]) / total * descend(made, k, own, epochs, lr, BODY)[BODY]
        body = mean
    return body, heads


@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_it_is_what_the_paper_says(seed):
    made, rounds = double(3, seed), [[0, 1], [1, 2], [0, 2]]
    federation = Federation(FedRep(("2",), head_epochs=3), made, lr=0.3, epochs=2)
    for cohort in rounds:
        federation.round(cohort)
    body, heads = by_the_book(made, rounds, 0.3, 3, 2)
    assert far(body, made.initial()[BODY]) > 1e-3
    for client in range(3):
        assert far(federation.personal(client), torch.cat([body, heads[client]])) <= 1e-12


def test_weight_decay_and_momentum_leave_the_frozen_part_alone():
    made = double(2, 0)
    optimizer = Optimizer("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1})
    federation = Federation(FedRep(head_epochs=2), made, optimizer=optimizer)
    federation.round([0], steps={0: 0})
    assert torch.equal(federation.parameters, made.initial())
    federation.round([0])
    assert torch.equal(federation.parameters[HEAD], made.initial()[HEAD])


def test_head_and_body_share_the_steps_that_a_client_has_time_for():
    federation = Federation(FedRep(head_epochs=3), double(2, 0), batch=4, epochs=1)
    (answer, _) = federation.round(steps={0: 8, 1: 4})
    assert answer.numbers["steps"] == 8
    assert float(answer.message("update")[0].norm()) > 0


def test_it_beats_one_model_for_all_where_clients_contradict_each_other():
    made = quarrel()
    ours, other = (Federation(each, made, lr=0.5, epochs=3, batch=10) for each in (FedRep(head_epochs=3), FedAvg()))
    for _ in range(10):
        ours.round()
        other.round()
    assert sum(accuracies(other)[1]) / made.size < 0.7
    assert min(accuracies(ours)[1]) > 0.9


def test_a_head_that_is_not_trained_is_refused():
    with pytest.raises(RecipeError, match="`head_epochs` must be at least 1; got 0\nhint: head_epochs = 10"):
        FedRep(head_epochs=0)
    with pytest.raises(RecipeError, match="names no layer"):
        FedRep(())
