"""Who talks to whom: a topology gives a worker's neighbours, with the weights of its mixing.

A topology is a function in a file of its name, `(rank, size, step, *, ...) -> [(peer, weight)]`, in the order of
ranks, the worker itself included. The weights of a worker sum to 1; those of a symmetric graph make a doubly stochastic
matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Neighbours = list[tuple[int, float]]
Topology = Callable[[int, int, int], Neighbours]


def mixing_matrix(topology: Topology, size: int, step: int = 0) -> Tensor:
    """Return W of shape (size, size), float64: W[i, j] is the weight of j's parameters in i's mean."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for rank in range(size):
        for peer, weight in topology(rank, size, step):
            matrix[rank, peer] += weight
    return matrix
