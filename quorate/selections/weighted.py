"""Clients with more samples are more often asked: chances in proportion to the samples, without replacement.

Each client that is asked should then count the same (an algorithm whose `weights` are equal): weighted twice, the large
ones would be counted by the square of their samples.

Source: Li, Huang, Yang, Wang and Zhang, "On the convergence of FedAvg on non-IID data", ICLR 2020, scheme I, there with
replacement.
"""

from __future__ import annotations

from collections.abc import Sequence

from quorate.rand import Rand
from quorate.selections import Known
from quorate.selections._draw import draw, samples


def weighted(candidates: Sequence[int], count: int, rand: Rand, known: Known) -> list[int]:
    """Draw one after another; a client that has not told its samples is taken to have the mean of the others."""
    return sorted(draw(candidates, samples(candidates, known), count, rand))
