from __future__ import annotations

import math

import pytest
import torch

from quorate.topologies import mixing_matrix
from quorate.topologies.ring import ring


@pytest.mark.parametrize(
    ("rank", "size", "peers"), [(0, 1, [0]), (0, 2, [0, 1]), (1, 3, [0, 1, 2]), (0, 5, [0, 1, 4]), (3, 5, [2, 3, 4])]
)
def test_neighbours(rank, size, peers):
    assert ring(rank, size, 0) == [(peer, 1 / len(peers)) for peer in peers]


@pytest.mark.parametrize("size", range(1, 10))
def test_the_matrix_is_symmetric_and_doubly_stochastic(size):
    matrix = mixing_matrix(ring, size)
    assert torch.equal(matrix, matrix.T)
    assert bool((matrix >= 0).all())
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(size, dtype=torch.float64))


@pytest.mark.parametrize("size", range(3, 10))
def test_the_spectrum_is_that_of_a_circulant(size):
    wanted = sorted((1 + 2 * math.cos(2 * math.pi * k / size)) / 3 for k in range(size))
    assert torch.linalg.eigvalsh(mixing_matrix(ring, size)).tolist() == pytest.approx(wanted, abs=1e-12)
