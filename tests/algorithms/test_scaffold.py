from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.scaffold import Scaffold
from quorate.errors import RecipeError
from quorate.federated.local import LocalSettings
from quorate.optimizer import Optimizer
from quorate.outer_optimizers.sgd import Sgd
from quorate.trees import leaf
from tests.algorithms.world import Bowls, Federation, far


def by_the_book(bowls: Bowls, rounds: list[list[int]], lr: float, epochs: int, server_lr: float):
    """Algorithm 1, option II; clients take as many steps as they have samples, times the epochs."""
    x = bowls.training.initial().clone()
    n = len(bowls.samples)
    c, controls = torch.zeros_like(x), [torch.zeros_like(x) for _ in range(n)]
    for cohort in rounds:
        ways, changes = [], []
        for i in cohort:
            y, steps = x.clone(), epochs * int(bowls.samples[i])
            for _ in range(steps):
                y = y - lr * (bowls.gradient(i, y) - controls[i] + c)
            new = controls[i] - c + (x - y) / (steps * lr)
            ways.append(y - x)
            changes.append(new - controls[i])
            controls[i] = new
        x = x + server_lr / len(cohort) * sum(ways)
        c = c + sum(changes) / n
    return x, c, controls


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), server_lr=st.sampled_from([1.0, 0.5]))
def test_it_is_what_the_paper_says(seed, server_lr):
    bowls = Bowls([1, 3, 2, 4], seed=seed)
    federation = Federation(Scaffold(), bowls.training, batch=1, epochs=2, outer=Sgd(server_lr))
    rounds = [[0, 2], [1, 2, 3], [0, 1]]
    for cohort in rounds:
        federation.round(cohort)
    x, c, controls = by_the_book(bowls, rounds, 0.1, 2, server_lr)
    assert far(federation.parameters, x) <= 1e-12
    assert far(leaf(federation.model.state()["algorithm"], "control"), c) <= 1e-12
    for client, own in enumerate(controls):
        assert far(leaf(federation.memories[client]["algorithm"], "control"), own) <= 1e-12


def test_it_ends_at_the_optimum_where_federated_averaging_does_not():
    bowls = Bowls([2, 2, 2, 2, 2])
    ours, other = (Federation(each, bowls.training, batch=1, epochs=5) for each in (Scaffold(), FedAvg()))
    for _ in range(80):
        ours.round()
        other.round()
    assert far(other.parameters, bowls.pooled) > 1e-2
    assert far(ours.parameters, bowls.pooled) <= 1e-10


@pytest.mark.parametrize("weighted", [False, True])
def test_with_few_asked_and_unequal_clients_it_ends_at_the_optimum_of_its_weights(weighted):
    bowls = Bowls([1, 3, 2, 6])
    federation = Federation(Scaffold(weighted), bowls.training, batch=1, lr=0.05)
    for number in range(800):
        federation.round([number % 4, (number + 1 + number // 4 % 3) % 4])
    own, other = (bowls.pooled, bowls.alike) if weighted else (bowls.alike, bowls.pooled)
    assert far(federation.parameters, own) <= 1e-6
    assert far(federation.parameters, other) > 1e-2


def test_weights_by_samples_change_nothing_where_these_are_equal():
    bowls = Bowls([2, 2, 2])
    ours, other = (Federation(Scaffold(weighted), bowls.training, batch=1) for weighted in (True, False))
    for cohort in ([0, 1], [1], [2, 0]):
        ours.round(cohort)
        other.round(cohort)
    assert far(ours.parameters, other.parameters) <= 1e-14


def test_the_controls_mean_is_the_servers_even_if_clients_stop_early():
    bowls = Bowls([4, 4, 4])
    federation = Federation(Scaffold(), bowls.training, batch=1)
    for steps in ({0: 1, 1: 4, 2: 2}, {0: 3, 1: 1, 2: 0}):
        federation.round(steps=steps)
    controls = [leaf(federation.memories[client]["algorithm"], "control") for client in range(3)]
    server = leaf(federation.model.state()["algorithm"], "control")
    assert far(server, torch.stack(controls).mean(0)) <= 1e-14
    start = bowls.training.initial()
    first = Federation(Scaffold(), bowls.training, batch=1)
    first.round(steps={0: 1, 1: 4, 2: 2})
    assert far(leaf(first.memories[0]["algorithm"], "control"), bowls.gradient(0, start)) <= 1e-14


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (Optimizer("adam"), "not for `adam`"),
        (Optimizer("sgd", {"lr": 0.1, "momentum": 0.9}), "not for `sgd` with `momentum`"),
        (Optimizer("sgd", {"lr": 0.1, "maximize": True}), "not for `sgd` with `maximize`"),
    ],
)
def test_steps_from_which_the_gradient_cannot_be_told_are_refused(optimizer, says):
    with pytest.raises(RecipeError, match=rf'{says}\nhint: \[optimizer\]\nname = "sgd"'):
        Scaffold().check(LocalSettings(optimizer), None)
