"""Sums over a vector: every program adds up a part in float32, and the few partial sums are added up in float64.

A pass reads x once and writes 8 bytes per program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quorate.kernels._tiles import TILE, loaded, on

_PROGRAMS = 1024  # about 8 for each multiprocessor of a large GPU; each has a sum per lane, so that few are added up


def moments(x: Tensor) -> tuple[float, float]:
    """Return the sums of the entries of x, of shape (d,), and of their squares."""
    total, square = _partial(x, magnitudes=False).double().sum(dim=0).tolist()
    return total, square


def magnitudes(x: Tensor) -> tuple[float, float]:
    """Return the sum and the largest of the absolute values of x, of shape (d,)."""
    partial = _partial(x, magnitudes=True)
    total, top = partial[:, 0].double().sum(), partial[:, 1].max().double()
    return float(total), float(top)


def _partial(x: Tensor, *, magnitudes: bool) -> Tensor:
    programs = min(triton.cdiv(len(x), TILE), _PROGRAMS)
    partial = x.new_empty(programs, 2, dtype=torch.float32)
    rounds = triton.cdiv(len(x), programs * TILE)
    with on(x):
        _reduce[(programs,)](x, partial, len(x), rounds, magnitudes, TILE, num_warps=8)
    return partial


@triton.jit
def _reduce(
    x: tl.tensor, partial: tl.tensor, d: int, rounds: int, MAGNITUDES: tl.constexpr, TILE: tl.constexpr
) -> None:
    program = tl.program_id(0)
    first = program.to(tl.int64) * TILE
    total = tl.zeros((TILE,), tl.float32)
    other = tl.zeros((TILE,), tl.float32)
    for _ in range(rounds):
        piece = loaded(x, first, d, TILE)
        if MAGNITUDES:
            piece = tl.abs(piece)
            other = tl.maximum(other, piece)
        else:
            other += piece * piece
        total += piece
        first += tl.num_programs(0).to(tl.int64) * TILE
    tl.store(partial + 2 * program, tl.sum(total, 0))
    if MAGNITUDES:
        tl.store(partial + 2 * program + 1, tl.max(other, 0))
    else:
        tl.store(partial + 2 * program + 1, tl.sum(other, 0))
