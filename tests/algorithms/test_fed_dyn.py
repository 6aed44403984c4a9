from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_dyn import FedDyn
from quorate.errors import RecipeError
from tests.algorithms.world import Bowls, Federation, far


def by_the_book(bowls: Bowls, rounds: list[list[int]], alpha: float, lr: float, steps: int):
    """Algorithm 1, whose minimisation is so many gradient steps."""
    theta = bowls.training.initial().clone()
    m = len(bowls.samples)
    h, gradients = torch.zeros_like(theta), [torch.zeros_like(theta) for _ in range(m)]
    for cohort in rounds:
        found = []
        for k in cohort:
            own = theta.clone()
            for _ in range(steps):
                own = own - lr * (bowls.gradient(k, own) - gradients[k] + alpha * (own - theta))
            gradients[k] = gradients[k] - alpha * (own - theta)
            found.append(own)
        h = h - alpha / m * sum(own - theta for own in found)
        theta = sum(found) / len(cohort) - h / alpha
    return theta


@settings(max_examples=10)
@given(alpha=st.sampled_from([0.1, 1.0]), seed=st.integers(0, 1000))
def test_it_is_what_the_paper_says(alpha, seed):
    bowls, rounds = Bowls([1, 3, 2, 4], seed=seed), [[0, 2], [1, 2, 3], [0, 1]]
    federation = Federation(FedDyn(alpha), bowls.training, epochs=3)
    for cohort in rounds:
        federation.round(cohort)
    assert far(federation.parameters, by_the_book(bowls, rounds, alpha, 0.1, 3)) <= 1e-12


@pytest.mark.parametrize("asked", [4, 2])
def test_it_ends_at_the_optimum_where_federated_averaging_does_not(asked):
    bowls = Bowls([2, 2, 2, 2])
    ours, other = (Federation(each, bowls.training, lr=0.5, epochs=12) for each in (FedDyn(1.0), FedAvg()))
    for number in range(60 if asked == 4 else 150):
        cohort = sorted({(number + 3 * place) % 4 for place in range(asked)})
        ours.round(cohort)
        other.round()
    assert far(other.parameters, bowls.alike) > 1e-2
    assert far(ours.parameters, bowls.alike) <= 1e-8


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_without_a_pull_it_is_refused(alpha):
    with pytest.raises(RecipeError, match=r"`alpha` must be positive and finite.*\nhint: alpha = 0.1"):
        FedDyn(alpha)
