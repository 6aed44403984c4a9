from __future__ import annotations

import pytest
import torch

from quorate.errors import QuorateError
from quorate.federated.alone import alone, pieces, pooled
from quorate.gradient import Batch
from tests.federated.homes import clients, training


def constant(step: int, size: int) -> float:
    return 1.0


def test_a_client_alone_takes_plain_steps_on_its_own_samples():
    made = training()
    home = clients(made)
    (parameters,) = alone(home.local, constant, [(2, made.shards[2])], 3, 9, home.train)
    slow = made.initial().clone()
    for time in range(3):
        for batch in home.local(2, time, made.shards[2], {}).work(slow, purpose="alone").batches:
            slow -= 0.1 * made.gradient(slow, Batch(batch.indices, batch.size, batch.stream, batch.rand))[1]
    assert torch.allclose(parameters, slow, atol=1e-6)
    assert made.layout.numel == len(parameters)


def test_clients_together_are_as_each_by_itself():
    made = training()
    home = clients(made)
    both = alone(home.local, constant, [(i, made.shards[i]) for i in (0, 3)], 2, 2, home.train)
    single = [alone(home.local, constant, [(i, made.shards[i])], 2, 2, home.train)[0] for i in (0, 3)]
    assert all(torch.equal(a, b) for a, b in zip(both, single, strict=True))


def test_learning_rates_are_spread_over_the_rounds():
    made = training()
    home, asked = clients(made), []

    def noting(step: int, size: int) -> float:
        asked.append((step, size))
        return 1.0

    alone(home.local, noting, [(0, made.shards[0])], 4, 100, home.train)
    assert asked == [(0, 4), (25, 4), (50, 4), (75, 4)]


def test_a_client_that_fails_does_not_stop_the_others():
    made = training()
    home = clients(made)

    def train(works):
        return [
            QuorateError("no") if work.stream[-1] == 1 else done
            for work, done in zip(works, home.train(works), strict=True)
        ]

    found = alone(home.local, constant, [(i, made.shards[i]) for i in range(3)], 2, 2, train)
    assert [isinstance(each, QuorateError) for each in found] == [False, True, False]


@pytest.mark.parametrize(("samples", "rounds"), [(0, 3), (7, 3), (333, 50), (1200, 2)])
def test_pooled_data_get_as_many_gradients(samples, rounds):
    made = training()
    home, taken = clients(made), []

    def train(works):
        taken.extend(batch.size for work in works for batch in work.batches)
        return home.train(works)

    local = home.local(0, 0, torch.arange(60), {})
    parameters = pooled(local, constant, local.initial, samples, rounds, train)
    assert samples <= sum(taken) < samples + 5 * pieces(rounds)
    assert (sum(taken) == 0) == torch.equal(parameters, made.initial())


def test_pooled_training_goes_on_where_it_was_broken_off():
    made = training()
    home, kept = clients(made), {}
    local = home.local(0, 0, torch.arange(60), {})
    whole = pooled(local, constant, local.initial, 500, 10, home.train, keep=lambda n, p: kept.update({n: p}))
    assert sorted(kept) == list(range(1, 11))
    assert torch.equal(pooled(local, constant, kept[4], 500, 10, home.train, 4), whole)
