from __future__ import annotations

import pytest
import torch

from quorate.optimizer import Optimizer
from quorate.programs.synchronous_sgd import synchronous_sgd
from tests.tiny import train, training

ADAM = Optimizer("adam", {"lr": 0.01})


@pytest.mark.parametrize("unequal", [False, True])
def test_agrees_with_a_plain_loop_over_workers(unequal):
    """Algorithm: w <- step(w, sum_k n_k / n gradient_k(w))."""
    made, size = training(size=3, unequal=unequal), 3
    update, parameters, state = ADAM.update(made.layout), made.initial().clone(), {}
    for step in range(6):
        total = torch.zeros_like(parameters)
        for rank in range(size):
            share = len(made.shards[rank]) / sum(map(len, made.shards))
            total += share * made.gradient(parameters, made.batch(rank, step, 4))[1]
        parameters, state = update(parameters, total, state)
    ends, _ = train(synchronous_sgd, training(size=3, unequal=unequal), optimizer=ADAM, steps=6, batch=4)
    torch.testing.assert_close(ends[0], parameters)


def test_one_all_reduce_of_the_gradient_a_step():
    made = training(size=4)
    _, trace = train(synchronous_sgd, made, optimizer=ADAM, steps=6, batch=4)
    assert trace.bytes == 6 * 4 * 2 * 3 * 4 * made.layout.numel // 4
    assert (trace.ring[1], trace.links) == (6 * 2 * 3, {})


def test_one_worker_talks_to_nobody():
    assert train(synchronous_sgd, training(size=1), optimizer=ADAM, steps=3)[1].bytes == 0
