"""Answers as values of one polynomial on the unit circle, so that wrong ones show in the frequencies it has not.

Worker i stands at the node z_i = exp(2 pi i sqrt(-1) / n). What honest workers answer are the values, at the nodes, of
a sum of n - 2s powers of z; the other 2s frequencies, the checks, see errors only. The numbers W are real where n is
odd, because then the powers can be -m .. m; DRACO's are 0 .. n - 2s - 1, and complex.

Source: Chen, Wang, Charles and Papailiopoulos, "DRACO: Byzantine-resilient distributed training via redundant
gradients", ICML 2018, section 4. Holders that are neighbours, as they are there, make numbers W of 10^5 for n = 45,
s = 5, of which single precision leaves nothing; ours are spread over the circle, and W stays below 1. The closed form
of W, and the powers -m .. m, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def holders(n: int, s: int) -> tuple[tuple[int, ...], ...]:
    """Return, of each of n batches, the 2s + 1 workers that compute it, spread evenly over the circle.

    For odd n the gaps between them are odd: then all real W are positive.
    """
    r = 2 * s + 1
    offsets = [t + 2 * (t * (n - r) // (2 * r)) if n % 2 else t * n // r for t in range(r)]
    return tuple(tuple((batch + offset) % n for offset in offsets) for batch in range(n))


@lru_cache(maxsize=16)
def weights(n: int, s: int, real: bool) -> Tensor:
    """Return W (n, n): worker i answers the sum over batches j of W[i, j] times the gradient of j.

    Columns and rows add up to 1; W[i, j] = 0 where i does not hold j. Of dtype float64 or complex128.
    """
    node, made = nodes(n), torch.zeros(n, n, dtype=torch.complex128)
    turn = node ** _first(n, s, real)
    for batch, held_by in enumerate(holders(n, s)):
        for i in held_by:
            made[i, batch] = turn[i] / math.prod(1 - complex(node[i] / node[other]) for other in held_by if other != i)
    made /= made.sum(0)
    return made.real.contiguous() if real else made


def nodes(n: int) -> Tensor:
    """Return the nodes z (n,), complex128."""
    return torch.polar(torch.ones(n, dtype=torch.float64), 2 * math.pi / n * torch.arange(n, dtype=torch.float64))


def basis(n: int, s: int, real: bool) -> Tensor:
    """Return n - 2s orthonormal columns (n, n - 2s) that span what honest workers can answer."""
    angle, first = nodes(n).angle()[:, None], _first(n, s, real)
    if not real:
        return torch.polar(torch.full((), n**-0.5, dtype=torch.float64), angle * torch.arange(n - 2 * s))
    turns = angle * torch.arange(1, 1 - first)
    waves = torch.cat([torch.full((n, 1), 0.5**0.5, dtype=torch.float64), turns.cos(), turns.sin()], 1)
    return waves.mul_((2 / n) ** 0.5)


def checks(span: Tensor, ranks: Sequence[int]) -> Tensor:
    """Return orthonormal rows (q, m): combinations of the answers of m workers that are 0 if they are honest.

    Args:
        span: (n, n - 2s), see `basis`.
        ranks: of the m workers; q = m - (n - 2s) is 2s less those who are left out.
    """
    span = span[list(ranks)]
    whole, _ = torch.linalg.qr(span, mode="complete")
    found: Tensor = whole[:, span.shape[1] :].mH
    return found


def moments(n: int, s: int, real: bool, ranks: Sequence[int]) -> Tensor:
    """Return the checks (q, m) as powers: row k is c_i z_i^-k, with numbers c_i that are not 0.

    c_i z_i^-k is a frequency that honest answers have not, times the polynomial whose zeros are who is left out.
    """
    node, kept = nodes(n), set(ranks)
    start = node ** -(_first(n, s, real) + n - 2 * s)
    for rank in range(n):
        if rank not in kept:
            start = start * (1 - node[rank] / node)
    found: Tensor = (start * node ** -torch.arange(2 * s - n + len(kept))[:, None])[:, list(ranks)]
    return found


def combination(span: Tensor, ranks: Sequence[int], mean: Tensor) -> Tensor:
    """Return the shortest c (m,) with which the answers of m workers add up to a combination of all n honest ones.

    Args:
        span: (n, n - 2s), see `basis`.
        mean: (..., n), the combination(s) of all.
    """
    found: Tensor = mean.to(span.dtype) @ span @ torch.linalg.pinv(span[list(ranks)])
    return found


def _first(n: int, s: int, real: bool) -> int:
    return -((n - 2 * s - 1) // 2) if real else 0
