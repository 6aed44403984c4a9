from __future__ import annotations

import pytest
import torch

from quorate.optimizer import Optimizer
from quorate.programs.gossip import gossip
from quorate.topologies import mixing_matrix
from quorate.topologies.ring import ring
from tests.programs.test_laws import Memory
from tests.tiny import classes, train, training

SGD = Optimizer("sgd", {"lr": 0.1})


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_agrees_with_the_matrix_form(size):
    """D-PSGD, algorithm 1: X <- W X - lr * gradients at X, one row per worker; the mean row at the end."""
    made, memory = training(classes(dtype=torch.float64, model=lambda: torch.nn.Linear(6, 3).double()), size), Memory()
    replicas = made.initial().repeat(size, 1)
    mixing = mixing_matrix(ring, size)
    for step in range(6):
        gradients = [made.gradient(replicas[rank].clone(), made.batch(rank, step, 4))[1] for rank in range(size)]
        replicas = mixing @ replicas - 0.1 * torch.stack(gradients)
    ends, _ = train(gossip, made, optimizer=SGD, topology=ring, steps=6, batch=4, simulator={"recorder": memory})
    for rank in range(size):
        torch.testing.assert_close(memory.kept[rank, 6][1]["parameters"], replicas[rank], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ends[0], replicas.mean(dim=0), rtol=1e-12, atol=1e-13)


def test_talks_to_neighbours_only_until_the_end():
    made = training(size=5)
    _, trace = train(gossip, made, optimizer=SGD, topology=ring, steps=4, batch=4)
    said = 4 * made.layout.numel
    assert trace.links == {(rank, (rank + side) % 5): [4 * said, 4] for rank in range(5) for side in (-1, 1)}
    assert trace.ring[1] == 2 * 4
