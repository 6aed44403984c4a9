from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.optimizer import Optimizer
from quorate.periods.every import every
from quorate.programs.local_sgd import local_sgd
from tests.tiny import train, training

MOMENTUM = Optimizer("sgd", {"lr": 0.1, "momentum": 0.9})


@pytest.mark.parametrize("tau", [1, 3, 100])
@pytest.mark.parametrize("unequal", [False, True])
def test_agrees_with_a_plain_loop_over_workers(tau, unequal):
    """Every worker steps for itself; after each tau steps, and after the last, all are set to the weighted mean."""
    made, size, steps = training(size=3, unequal=unequal), 3, 8
    update = MOMENTUM.update(made.layout)
    replicas, states = [made.initial().clone() for _ in range(size)], [{} for _ in range(size)]
    for step in range(steps):
        for rank in range(size):
            _, gradient = made.gradient(replicas[rank].clone(), made.batch(rank, step, 4))
            replicas[rank], states[rank] = update(replicas[rank], gradient, states[rank])
        if (step + 1) % tau == 0 or step + 1 == steps:
            shares = [len(shard) / sum(map(len, made.shards)) for shard in made.shards]
            mean = sum(share * replica for share, replica in zip(shares, replicas, strict=True))
            replicas = [mean.clone() for _ in range(size)]
    fresh, period = training(size=3, unequal=unequal), partial(every, tau=tau)
    ends, _ = train(local_sgd, fresh, optimizer=MOMENTUM, period=period, steps=steps, batch=4)
    torch.testing.assert_close(ends[0], replicas[0])


@given(tau=st.integers(1, 12), steps=st.integers(1, 12))
@settings(deadline=None, max_examples=10)
def test_meets_at_the_end_of_each_period_and_of_the_run(tau, steps):
    made = training(size=2)
    _, trace = train(local_sgd, made, optimizer=MOMENTUM, period=partial(every, tau=tau), steps=steps, batch=4)
    meetings = -(-steps // tau)
    assert trace.ring == [meetings * 4 * made.layout.numel, meetings * 2]
