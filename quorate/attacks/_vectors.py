"""What attacks measure of the honest updates, and what keeps their messages finite."""

from __future__ import annotations

import torch
from torch import Tensor

from quorate.rand import Rand

BLOCK = 1 << 22  # entries of the known updates that are held in float64 at a time


def moments(known: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every coordinate, with m - 1 in the denominator.

    Args:
        known: (m, d), m >= 1.

    Returns:
        Two of shape (d,) and the dtype of `known`; the deviation of a single update is 0.
    """
    centre, deviation = torch.empty_like(known[0]), torch.empty_like(known[0])
    for start, stop in blocks(known):
        rows = known[:, start:stop].double()
        variance, mean = torch.var_mean(rows, dim=0, correction=min(1, len(known) - 1))
        centre[start:stop], deviation[start:stop] = mean, variance.sqrt_()
    return centre, deviation


def blocks(known: Tensor) -> list[tuple[int, int]]:
    """Return the bounds of blocks of coordinates that hold about `BLOCK` entries of (m, d) updates."""
    m, d = known.shape
    length = max(1, BLOCK // m)
    return [(start, min(start + length, d)) for start in range(0, d, length)]


def signs(rand: Rand, like: Tensor) -> Tensor:
    """Draw (d,) of +1 and -1 with equal chances, of a stream, alike on all devices."""
    bits = torch.randint(0, 2, like.shape, generator=rand.generator(), dtype=torch.int8)
    return bits.mul_(2).sub_(1).to(like.device, like.dtype)


def finite_(forged: Tensor) -> Tensor:
    """Bring entries that overflowed back to the largest number of their dtype, in place; NaN becomes 0."""
    return forged.nan_to_num_(nan=0.0)


def largest(value: float, like: Tensor) -> float:
    """Return a value, or, with its sign, the largest number of a dtype if that is smaller."""
    most = torch.finfo(like.dtype).max
    return max(-most, min(most, value))
