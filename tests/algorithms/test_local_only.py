from __future__ import annotations

import torch

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.local_only import LocalOnly
from tests.algorithms.world import Bowls, Federation, accuracies, far, quarrel


def test_nothing_travels_and_the_servers_model_stays():
    made = quarrel(4, 12)
    federation = Federation(LocalOnly(), made, batch=5)
    for _ in range(2):
        assert [asked.request.bytes for asked in federation.asked(range(4))] == [0] * 4
        assert [answer.bytes for answer in federation.round()] == [0] * 4
    assert torch.equal(federation.parameters, made.initial())


def test_each_client_descends_along_its_own_loss_from_round_to_round():
    bowls = Bowls([2, 3, 1])
    federation = Federation(LocalOnly(), bowls.training, epochs=2)
    for cohort in ([0, 1], [1], [1]):
        federation.round(cohort)
    for client, steps in ((0, 2), (1, 6), (2, 0)):
        w = bowls.training.initial().clone()
        for _ in range(steps):
            w = w - 0.1 * bowls.gradient(client, w)
        assert far(federation.personal(client), w) <= 1e-14


def test_a_client_ends_at_its_own_optimum_whatever_the_others_have():
    bowls = Bowls([1, 1, 1])
    federation = Federation(LocalOnly(), bowls.training, lr=0.5, epochs=40)
    federation.round()
    assert max(far(federation.personal(client), bowls.b[client]) for client in range(3)) <= 1e-4


def test_it_beats_one_model_for_all_only_where_clients_contradict_each_other():
    made = quarrel()
    ours, other = (Federation(each, made, lr=0.5, epochs=3, batch=10) for each in (LocalOnly(), FedAvg()))
    for _ in range(10):
        ours.round()
        other.round()
    assert min(accuracies(ours)[1]) > 0.9
    assert sum(accuracies(other)[1]) / made.size < 0.7
