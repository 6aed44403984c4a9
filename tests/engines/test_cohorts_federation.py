from __future__ import annotations

import pytest
import torch

from quorate.algorithms.ditto import Ditto
from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_nova import FedNova
from quorate.algorithms.fed_prox import FedProx
from quorate.algorithms.scaffold import Scaffold
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.top_k import TopK
from quorate.engines.cohorts import Cohorts
from quorate.engines.federation_simulator import FederationSimulator
from quorate.exchange import Exchange
from quorate.federated.client import Client
from quorate.federated.local import LocalSettings
from quorate.optimizer import Optimizer
from quorate.programs.federated import federated
from quorate.trees import flatten
from tests.engines.test_cohorts import MODELS
from tests.tiny import classes
from tests.tiny import training as made_ready

SGD = Optimizer("sgd", {"lr": 0.2})


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(mu=0.1), Scaffold(), FedNova(), Ditto()])
@pytest.mark.parametrize("name", ["wide", "large"])
@pytest.mark.parametrize("codec", [Identity(), ErrorFeedback(TopK(0.2))])
def test_a_federation_comes_to_the_same(algorithm, name, codec):
    size, exchange = 20, Exchange(codec)
    build, shape = MODELS[name]
    task = classes(lambda: build().double(), n=230, shape=shape, dtype=torch.float64)
    made = made_ready(task, size, unequal=True)
    client = Client(made, algorithm, LocalSettings(SGD, 1, 4), exchange, Exchange(), size)

    def run(train):
        simulator = FederationSimulator(client, made.shards, train=train)
        more = {"algorithm": algorithm, "optimizer": SGD, "rounds": 3, "cohort": size}
        parameters = simulator.run(lambda server: federated(server, made, exchange, **more))
        return parameters, flatten(simulator.memory(3))

    together = Cohorts(made.gradient)
    (fast, memory), (slow, slow_memory) = run(together), run(None)
    assert together.reasons == {}
    assert (fast - slow).norm() <= 1e-9 * slow.norm()
    assert memory.keys() == slow_memory.keys()
    for key, value in memory.items():
        assert type(value) is torch.Tensor
        torch.testing.assert_close(value, slow_memory[key], rtol=1e-8, atol=1e-9)
