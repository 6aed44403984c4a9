from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_prox import FedProx
from quorate.errors import RecipeError
from tests.algorithms.world import Bowls, Federation, far
from tests.tiny import training


def by_the_book(bowls: Bowls, rounds: list[list[int]], mu: float, lr: float, epochs: int):
    """Algorithm 2 with gradient steps as the local solver, clients weighted by samples."""
    w = bowls.training.initial().clone()
    for cohort in rounds:
        total, mean = sum(float(bowls.samples[k]) for k in cohort), torch.zeros_like(w)
        for k in cohort:
            own = w.clone()
            for _ in range(epochs * int(bowls.samples[k])):
                own = own - lr * (bowls.gradient(k, own) + mu * (own - w))
            mean = mean + float(bowls.samples[k]) / total * own
        w = mean
    return w


@settings(max_examples=10)
@given(mu=st.sampled_from([0.01, 0.5, 2.0]), seed=st.integers(0, 1000))
def test_it_is_what_the_paper_says(mu, seed):
    bowls = Bowls([1, 3, 2, 4], seed=seed)
    federation, rounds = Federation(FedProx(mu), bowls.training, batch=1, epochs=2), [[0, 2], [1, 2, 3], [0, 1]]
    for cohort in rounds:
        federation.round(cohort)
    assert far(federation.parameters, by_the_book(bowls, rounds, mu, 0.1, 2)) <= 1e-12


def test_without_a_pull_it_is_federated_averaging():
    made = training(size=3)
    ours, other = Federation(FedProx(0.0), made, batch=3), Federation(FedAvg(), made, batch=3)
    for _ in range(3):
        ours.round()
        other.round()
    assert torch.equal(ours.parameters, other.parameters)


def test_the_stronger_the_pull_the_nearer_clients_stay():
    bowls, ways = Bowls([4, 4]), []
    for mu in (0.0, 0.1, 1.0, 5.0):
        (answer, _) = Federation(FedProx(mu), bowls.training, batch=1, epochs=5).round()
        ways.append(float(answer.message("update")[0].norm()))
    assert ways == sorted(ways, reverse=True)
    assert ways[-1] < 0.5 * ways[0]


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_a_pull_away_is_refused(mu):
    with pytest.raises(RecipeError, match=r"`mu` must be finite and not negative.*\nhint: mu = 0.01"):
        FedProx(mu)
