from __future__ import annotations

import pytest
import torch

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_sgd import FedSgd
from quorate.errors import RecipeError
from quorate.federated.local import LocalSettings
from quorate.optimizer import Optimizer
from tests.algorithms.world import Federation, far
from tests.tiny import classes, mlp, training


def test_with_everybody_asked_it_is_gradient_descent_on_the_pooled_data():
    made = training(classes(lambda: mlp(torch.float64), dtype=torch.float64, n=50, l2=0.01), 4, unequal=True)
    assert len({len(shard) for shard in made.shards}) > 1
    federation, model = Federation(FedSgd(), made, lr=0.5, batch=3), made.task.model()
    for parameter, view in zip(model.parameters(), made.layout.views(made.initial()).values(), strict=True):
        parameter.data = view.clone()
    for _ in range(3):
        federation.round()
        loss = made.task.loss(model(made.train.x), made.train.y)
        loss = loss + 0.01 / 2 * sum(parameter.square().sum() for parameter in model.parameters())
        loss.backward()
        for parameter in model.parameters():
            parameter.data -= 0.5 * parameter.grad
            parameter.grad = None
    pooled = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    assert far(pooled, made.initial()) > 0.01
    assert far(federation.parameters, pooled) <= 1e-14


def test_it_is_federated_averaging_with_one_full_step():
    made = training(size=3)
    ours, other = Federation(FedSgd(), made, batch=2), Federation(FedAvg(), made, batch="full")
    for _ in range(2):
        ours.round([0, 2])
        other.round([0, 2])
    assert torch.equal(ours.parameters, other.parameters)


def test_a_client_without_time_for_its_step_does_not_count():
    made = training(size=3)
    ours, other = Federation(FedSgd(), made), Federation(FedSgd(), made)
    ours.round([0, 1, 2], {0: 1, 1: 0, 2: 1})
    other.round([0, 2])
    assert torch.equal(ours.parameters, other.parameters)


@pytest.mark.parametrize(
    ("optimizer", "epochs", "says"),
    [
        (Optimizer("sgd", {"lr": 0.1}), 2, 'got epochs = 2\nhint: epochs = 1, or name = "fed_avg"'),
        (Optimizer("adam"), 1, "plain steps of gradient descent, not for `adam`"),
        (Optimizer("sgd", {"lr": 0.1, "momentum": 0.9}), 1, "not for `sgd` with `momentum`"),
    ],
)
def test_senseless_settings_are_refused(optimizer, epochs, says):
    with pytest.raises(RecipeError, match=says):
        FedSgd().check(LocalSettings(optimizer, epochs), None)
