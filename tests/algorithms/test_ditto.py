from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.algorithms.ditto import Ditto
from quorate.algorithms.fed_avg import FedAvg
from quorate.errors import RecipeError
from quorate.federated.local import Trained
from tests.algorithms.world import Bowls, Federation, accuracies, far, quarrel


def by_the_book(bowls: Bowls, rounds: list[list[int]], pull: float, lr: float, steps: int, own_steps: int):
    """Algorithm 1 over federated averaging, weighted by samples."""
    w = bowls.training.initial().clone()
    own: dict[int, torch.Tensor] = {}
    for cohort in rounds:
        total, mean = sum(float(bowls.samples[k]) for k in cohort), torch.zeros_like(w)
        for k in cohort:
            local, v = w.clone(), own.get(k, w).clone()
            for _ in range(steps):
                local = local - lr * bowls.gradient(k, local)
            for _ in range(own_steps):
                v = v - lr * (bowls.gradient(k, v) + pull * (v - w))
            own[k] = v
            mean = mean + float(bowls.samples[k]) / total * local
        w = mean
    return w, own


@settings(max_examples=10)
@given(pull=st.sampled_from([0.0, 0.1, 2.0]), own_epochs=st.sampled_from([None, 1, 4]), seed=st.integers(0, 1000))
def test_it_is_what_the_paper_says(pull, own_epochs, seed):
    bowls, rounds = Bowls([1, 3, 2, 4], seed=seed), [[0, 2], [1, 2], [0, 1]]
    federation = Federation(Ditto(pull, own_epochs), bowls.training, epochs=2)
    for cohort in rounds:
        federation.round(cohort)
    w, own = by_the_book(bowls, rounds, pull, 0.1, 2, own_epochs or 2)
    assert far(federation.parameters, w) <= 1e-12
    for client in range(3):
        assert far(federation.personal(client), own[client]) <= 1e-12
    assert torch.equal(federation.personal(3), federation.parameters)  # it never took part


def test_the_servers_model_is_that_of_federated_averaging():
    made = quarrel(4, 12)
    ours, other = (Federation(each, made, batch=5) for each in (Ditto(), FedAvg()))
    for _ in range(2):
        replies, others = ours.round([0, 1, 3]), other.round([0, 1, 3])
        assert [reply.numbers for reply in replies] == [reply.numbers for reply in others]
    assert torch.equal(ours.parameters, other.parameters)


def test_the_stronger_the_pull_the_nearer_a_clients_own_model_stays():
    bowls, ways = Bowls([4, 4]), []
    for pull in (0.0, 0.5, 2.0, 8.0):
        federation = Federation(Ditto(pull), bowls.training, epochs=20)
        federation.round()
        ways.append(float((federation.personal(0) - bowls.training.initial()).norm()))
    assert ways == sorted(ways, reverse=True)


def test_both_models_share_the_steps_that_a_client_has_time_for():
    made = quarrel(2, 20)
    federation = Federation(Ditto(personal_epochs=3), made, batch=5)
    federation.round([0], steps={0: 8})
    one = Federation(FedAvg(), made, batch=5)
    one.round([0], steps={0: 2})
    assert torch.equal(federation.parameters, one.parameters)
    assert far(federation.personal(0), made.initial()) > 0


def test_it_beats_one_model_for_all_where_clients_contradict_each_other():
    federation = Federation(Ditto(0.01), quarrel(), lr=0.5, epochs=3, batch=10)
    for _ in range(10):
        federation.round()
    common, own = accuracies(federation)
    assert sum(common) / len(common) < 0.7
    assert min(own) > 0.9


@pytest.mark.parametrize(
    ("settings", "says"), [({"pull": -1.0}, "`pull`"), ({"personal_epochs": 0}, "`personal_epochs`")]
)
def test_senseless_settings_are_refused(settings, says):
    with pytest.raises(RecipeError, match=f"{says} must"):
        Ditto(**settings)


def test_both_models_go_through_the_samples_in_orders_of_their_own():
    made = quarrel(2, 20)
    federation = Federation(Ditto(), made, batch=5)
    local = federation.client.local(0, 0, made.shards[0], {})
    work = Ditto().client({}, {"parameters": made.initial()}, local)
    first = next(work)
    second = work.send(Trained(made.initial(), 0.0, 4))
    assert not torch.equal(first.orders[0], second.orders[0])
    assert torch.equal(first.orders[0].sort().values, second.orders[0].sort().values)
