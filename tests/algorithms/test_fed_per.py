from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_per import FedPer
from quorate.trees import branch, leaf
from tests.algorithms.world import Federation, accuracies, far, quarrel
from tests.tiny import classes, mlp, training


def double(size: int, seed: int):
    """The first layer has 35 parameters, the last 18; unequal clients."""
    return training(classes(lambda: mlp(torch.float64), dtype=torch.float64), size, seed=seed, unequal=True)


def descend(made, client: int, start: torch.Tensor, steps: int, lr: float, free: slice = slice(None)):
    """Full steps of gradient descent on one client's samples, of some coordinates."""
    w = start.clone()
    for _ in range(steps):
        model = made.task.model()
        for parameter, view in zip(model.parameters(), made.layout.views(w).values(), strict=True):
            parameter.data = view.clone()
        shard = made.shards[client]
        made.task.loss(model(made.train.x[shard]), made.train.y[shard]).backward()
        slope = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
        w[free] -= lr * slope[free]
    return w


def by_the_book(made, rounds: list[list[int]], lr: float, epochs: int):
    """Algorithms 1 and 2: the server averages the base by samples, clients keep their heads."""
    base, heads = made.initial()[:35].clone(), {k: made.initial()[35:].clone() for k in range(made.size)}
    for cohort in rounds:
        total, mean = sum(len(made.shards[k]) for k in cohort), torch.zeros_like(base)
        for k in cohort:
            own = descend(made, k, torch.cat([base, heads[k]]), epochs, lr)
            heads[k] = own[35:]
            mean += len(made.shards[k]) / total * own[:35]
        base = mean
    return base, heads


@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_it_is_what_the_paper_says(seed):
    made, rounds = double(3, seed), [[0, 1], [1, 2], [0, 2]]
    federation = Federation(FedPer(("2",)), made, lr=0.3, epochs=2)
    for cohort in rounds:
        federation.round(cohort)
    base, heads = by_the_book(made, rounds, 0.3, 2)
    assert far(base, made.initial()[:35]) > 1e-3
    assert far(federation.parameters, torch.cat([base, made.initial()[35:]])) <= 1e-12
    for client in range(3):
        assert far(federation.personal(client), torch.cat([base, heads[client]])) <= 1e-12


def test_only_the_shared_layers_travel():
    made = double(3, 0)
    federation = Federation(FedPer(), made)
    (asked, *_) = federation.asked([0])
    assert asked.request.bytes == 35 * 8
    assert [answer.bytes for answer in federation.round()] == [35 * 8] * 3
    assert leaf(branch(federation.memories[0], "algorithm"), "layers").numel() == 18


def test_it_beats_one_model_for_all_where_clients_contradict_each_other():
    made = quarrel()
    ours, other = (Federation(each, made, lr=0.5, epochs=3, batch=10) for each in (FedPer(), FedAvg()))
    for _ in range(10):
        ours.round()
        other.round()
    assert sum(accuracies(other)[1]) / made.size < 0.7
    assert min(accuracies(ours)[1]) > 0.9
