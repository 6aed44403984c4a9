"""What exceeds a threshold: one pass finds it, and a second one touches only what was found.

The first pass reads x, and notes of each tile how many entries exceed the threshold and where the first 32 of them
stand: 68 bytes of 8,192. After a sum over the tiles, every entry found has its place in the result, and the second pass
fetches it, a sector of 32 bytes, and writes 12 bytes. A tile in which more than 32 exceed is read again as a whole.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quorate.kernels._tiles import loaded, on

_TILE = 2048
_ROOM = 32  # 16 times as many as are looked for in a tile where one of 1,000 is
_TOGETHER = 16  # tiles of a program of the second pass


def above(x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the indices, int64 and ascending, of entries of x whose absolute values exceed a threshold, and these.

    The threshold is rounded to float32, as are the absolute values, both (m,).
    """
    d, tiles = len(x), triton.cdiv(len(x), _TILE)
    counts = x.new_empty(tiles, dtype=torch.int32)
    places = x.new_empty(tiles, _ROOM, dtype=torch.int16)
    with on(x):
        _find[(tiles,)](x, threshold, counts, places, d, _TILE, _ROOM, num_warps=4)
        ends = counts.cumsum(0, dtype=torch.int64)
        count, most = torch.stack([ends[-1], counts.max()]).tolist()
        indices = x.new_empty(count, dtype=torch.int64)
        found = x.new_empty(count, dtype=torch.float32)
        if count:
            programs = (triton.cdiv(tiles, _TOGETHER),)
            _fetch[programs](x, counts, ends, places, indices, found, tiles, _TILE, _ROOM, _TOGETHER, num_warps=4)
        if most > _ROOM:
            _reread[(tiles,)](x, threshold, counts, ends, indices, found, d, _TILE, _ROOM, num_warps=4)
    return indices, found


@triton.jit
def _find(
    x: tl.tensor,
    threshold: float,
    counts: tl.tensor,
    places: tl.tensor,
    d: int,
    TILE: tl.constexpr,
    ROOM: tl.constexpr,
) -> None:
    tile = tl.program_id(0).to(tl.int64)
    first = tile * TILE
    inside = tl.arange(0, TILE)
    chosen = (tl.abs(loaded(x, first, d, TILE)) > threshold) & (first + inside < d)
    count = tl.sum(chosen.to(tl.int32), 0)
    tl.store(counts + tile, count)
    if count > 0:
        position = tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(places + tile * ROOM + position, inside.to(tl.int16), mask=chosen & (position < ROOM))


@triton.jit
def _fetch(
    x: tl.tensor,
    counts: tl.tensor,
    ends: tl.tensor,
    places: tl.tensor,
    indices: tl.tensor,
    found: tl.tensor,
    tiles: int,
    TILE: tl.constexpr,
    ROOM: tl.constexpr,
    TOGETHER: tl.constexpr,
) -> None:
    tile = tl.program_id(0).to(tl.int64) * TOGETHER + tl.arange(0, TOGETHER)
    count = tl.load(counts + tile, mask=tile < tiles, other=0)
    start = tl.load(ends + tile, mask=tile < tiles, other=0) - count
    slot = tl.arange(0, ROOM)
    there = (slot[None, :] < count[:, None]) & (count <= ROOM)[:, None]
    inside = tl.load(places + tile[:, None] * ROOM + slot[None, :], mask=there, other=0)
    index = tile[:, None] * TILE + inside
    magnitude = tl.abs(tl.load(x + index, mask=there, other=0.0).to(tl.float32))
    target = start[:, None] + slot[None, :]
    tl.store(indices + target, index, mask=there)
    tl.store(found + target, magnitude, mask=there)


@triton.jit
def _reread(
    x: tl.tensor,
    threshold: float,
    counts: tl.tensor,
    ends: tl.tensor,
    indices: tl.tensor,
    found: tl.tensor,
    d: int,
    TILE: tl.constexpr,
    ROOM: tl.constexpr,
) -> None:
    tile = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + tile)
    if count > ROOM:
        index = tile * TILE + tl.arange(0, TILE)
        magnitude = tl.abs(loaded(x, tile * TILE, d, TILE))
        chosen = (magnitude > threshold) & (index < d)
        target = tl.load(ends + tile) - count + tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(indices + target, index, mask=chosen)
        tl.store(found + target, magnitude, mask=chosen)
