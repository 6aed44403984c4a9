"""Where the largest entry of each block is: one pass that reads x and writes 8 bytes a block.

Magnitudes of floating-point numbers are ordered as the integers of their bits, NaN being the largest: magnitude and
place make one 64-bit number, of which the largest is the answer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quorate.kernels._tiles import fetched, on, rows_of


def largest_of_blocks(x: Tensor, block: int) -> Tensor:
    """Return the index of the largest absolute value of each block, of equal ones the first: (ceil(d / block),), int64.

    Args:
        x: (d,).
        block: at most `LONGEST` entries; the last block may be shorter.
    """
    blocks, (rows, width, warps) = triton.cdiv(len(x), block), rows_of(block)
    found = x.new_empty(blocks, dtype=torch.int64)
    with on(x):
        _largest[(triton.cdiv(blocks, rows),)](x, found, len(x), blocks, block, rows, width, num_warps=warps)
    return found


@triton.jit
def _largest(
    x: tl.tensor, found: tl.tensor, d: int, blocks: int, BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = tl.arange(0, WIDTH)[None, :]
    place = row[:, None] * BLOCK + inside
    whole = (tl.program_id(0).to(tl.int64) + 1) * (ROWS * BLOCK) <= d
    piece = fetched(x, place, inside < BLOCK, d, whole).to(tl.float32)
    bits = piece.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    key = tl.where((inside < BLOCK) & (place < d), (bits.to(tl.int64) << 32) | (WIDTH - inside), -1)
    best = WIDTH - (tl.max(key, 1) & 0xFFFFFFFF)
    tl.store(found + row, row * BLOCK + best, mask=row < blocks)
