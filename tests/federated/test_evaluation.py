from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.federated.evaluation import Measuring, split, spread
from quorate.partitions import Partition
from quorate.partitions.iid import iid
from quorate.partitions.natural import natural
from quorate.rand import Rand
from quorate.tasks import Data, accuracy
from quorate.training import Training
from tests.federated.homes import blobs, training
from tests.tiny import randn


def keyed(partition: Partition = natural, size: int = 3) -> Training:
    """Divide blobs whose samples belong to six keys."""
    return Training(blobs(key=torch.arange(60) // 10, test_key=torch.arange(60) % 7), partition, size, Rand(0))


@given(n=st.integers(0, 40), share=st.floats(0, 0.999), client=st.integers(0, 5))
def test_held_out_samples_are_of_the_client_and_not_trained_on(n, share, client):
    shard = torch.arange(n) * 3 + client
    kept, held = split(shard, share, client, Rand(1))
    assert sorted([*kept.tolist(), *held.tolist()]) == shard.tolist()
    assert kept.tolist() == sorted(kept.tolist())
    assert len(kept) > 0 or n == 0
    assert len(held) == (min(n - 1, max(1, round(share * n))) if share > 0 and n else 0)
    assert torch.equal(split(shard, share, client, Rand(1))[1], held)


def test_a_client_whose_data_are_the_test_data_has_their_accuracy():
    task = blobs()
    made = training(1, replace(task, train=task.test))
    measuring, parameters = Measuring(made), randn(made.layout.numel)
    own = measuring.own(0, torch.arange(60))
    assert own.how == "labels"
    (value,) = measuring.values(parameters, [own])
    assert value == pytest.approx(made.evaluate(parameters)["accuracy"], abs=1e-12)


@given(seed=st.integers(0, 1000), n=st.integers(1, 60))
def test_shares_of_labels_weigh_the_accuracies_of_classes(seed, n):
    made = training()
    shard = torch.randperm(60, generator=torch.Generator().manual_seed(seed))[:n]
    parameters = randn(made.layout.numel, seed=seed)
    measuring, task = Measuring(made), made.task
    right = (made.outputs(parameters, task.test.x).argmax(1) == task.test.y).double()
    slow = sum(float(right[task.test.y == label].mean()) for label in task.train.y[shard]) / n
    assert measuring.values(parameters, [measuring.own(0, shard)]) == [pytest.approx(slow, abs=1e-12)]


def test_a_class_without_test_samples_does_not_count():
    task = blobs()
    only = task.test.y != 2
    made = training(1, replace(task, test=Data(task.test.x[only], task.test.y[only])))
    measuring = Measuring(made)
    parameters = randn(made.layout.numel)
    shard = torch.arange(60)
    binary = shard[made.task.train.y != 2]
    first, second = measuring.values(parameters, [measuring.own(0, shard), measuring.own(0, binary)])
    assert first == pytest.approx(second)
    assert measuring.values(parameters, [measuring.own(0, shard[made.task.train.y == 2])]) == [None]


def test_natural_clients_are_tested_on_samples_of_their_keys():
    made = keyed()
    measuring, parameters = Measuring(made), randn(made.layout.numel)
    owns = [measuring.own(client, shard) for client, shard in enumerate(made.shards)]
    task, outputs = made.task, made.outputs(parameters, made.task.test.x)
    slow = []
    for shard in made.shards:
        mine = torch.isin(task.test.key, task.train.key[shard])
        slow.append(accuracy(outputs[mine], task.test.y[mine]))
    assert [own.how for own in owns] == ["keys"] * 3
    assert measuring.values(parameters, owns) == slow


def test_keys_that_several_clients_share_are_nobodys():
    made = keyed(iid)
    assert {Measuring(made).own(client, shard).how for client, shard in enumerate(made.shards)} == {"labels"}


def test_a_key_without_test_samples_is_not_measured():
    task = blobs(key=torch.arange(60) // 10, test_key=torch.zeros(60, dtype=torch.int64))
    made = Training(task, natural, 6, Rand(0))
    measuring = Measuring(made)
    values = measuring.values(made.initial(), [measuring.own(i, shard) for i, shard in enumerate(made.shards)])
    assert sum(value is not None for value in values) == 1


def test_held_out_samples_come_first_where_they_are_asked_for():
    made = keyed()
    measuring, parameters = Measuring(made, 0.3), randn(made.layout.numel)
    owns = [measuring.own(client, shard) for client, shard in enumerate(made.shards)]
    slow = []
    for client, shard in enumerate(made.shards):
        _, held = split(shard, 0.3, client, made.rand)
        slow.append(accuracy(made.outputs(parameters, made.task.train.x[held]), made.task.train.y[held]))
    assert measuring.values(parameters, owns) == slow


def test_without_classes_the_loss_on_all_test_data_is_the_measure():
    task = blobs()
    numbers = Data(task.train.x, randn(60)), Data(task.test.x, randn(60, seed=1))
    made = training(2, replace(task, train=numbers[0], test=numbers[1], loss=squared, metrics={}))
    measuring = Measuring(made)
    assert (measuring.name, measuring.rises, measuring.labels(made.shards[0])) == ("loss", False, None)
    own = measuring.own(0, made.shards[0])
    assert own.how == "all"
    assert measuring.values(made.initial(), [own]) == [made.evaluate(made.initial())["test_loss"]]


def squared(output, y):
    return (output[:, 0] - y).square().mean()


def test_fairness_by_hand():
    values = [0.5, 0.9, *[0.7] * 18]
    assert spread(values) == {
        "clients": 20,
        "mean": pytest.approx(0.7),
        "deviation": pytest.approx(math.sqrt(2 * 0.04 / 20)),
        "worst_decile": pytest.approx(0.6),
        "best_decile": pytest.approx(0.8),
    }
    of_losses = spread(values, rises=False)
    assert (of_losses["worst_decile"], of_losses["best_decile"]) == (pytest.approx(0.8), pytest.approx(0.6))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_worst_is_at_most_the_mean_is_at_most_the_best(values):
    found = spread(values)
    assert found["worst_decile"] <= found["mean"] + 1e-12
    assert found["mean"] <= found["best_decile"] + 1e-12
    assert found["deviation"] >= 0
