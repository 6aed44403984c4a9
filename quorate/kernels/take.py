"""Taking entries out: they are read and set to zero in one pass over the places, which fetches each sector once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from quorate.kernels._tiles import on

_TILE = 512


def take(x: Tensor, places: Tensor) -> Tensor:
    """Return x[places], and set these entries to zero.

    Args:
        x: (d,), written to.
        places: (k,), int64, each below d and there once.
    """
    values = x.new_empty(len(places))
    if len(places):
        with on(x):
            _take[(triton.cdiv(len(places), _TILE),)](x, places, values, len(places), _TILE)
    return values


@triton.jit
def _take(x: tl.tensor, places: tl.tensor, values: tl.tensor, k: int, TILE: tl.constexpr) -> None:
    slot = tl.program_id(0) * TILE + tl.arange(0, TILE)
    place = tl.load(places + slot, mask=slot < k, other=0)
    value = tl.load(x + place, mask=slot < k, other=0.0)
    tl.store(values + slot, value, mask=slot < k)
    tl.store(x + place, tl.zeros_like(value), mask=slot < k)
