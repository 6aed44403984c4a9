"""The passes of `quorate.codecs.sign` (one number per block) and `one_bit` (two): eight signs make a byte.

To say reads 4 bytes an entry and writes an eighth, and 4 more if x keeps the rest; to hear reads 4 and an eighth, and
writes 4.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quorate.kernels._tiles import EXACT, fetched, on, put, rows_of

_MOST = torch.finfo(torch.float32).max


def say(x: Tensor, codes: Tensor, numbers: Tensor, block: int, *, take: bool) -> None:
    """Code all blocks; see `Fused`."""
    rows, width, warps = rows_of(block)
    with on(x):
        _say[(triton.cdiv(len(numbers), rows),)](
            x, codes, numbers, len(x), len(numbers), _MOST,
            numbers.shape[1] == 2, take, block, rows, width // 8, num_warps=warps, **EXACT,
        )  # fmt: skip


def hear(total: Tensor, codes: Tensor, numbers: Tensor, block: int, share: float | None) -> None:
    """Decode all blocks; see `Fused`."""
    rows, width, warps = rows_of(block)
    with on(total):
        _hear[(triton.cdiv(len(numbers), rows),)](
            total, codes, numbers, len(total), len(numbers), share or 0.0,
            numbers.shape[1] == 2, share is not None, block, rows, width // 8, num_warps=warps, **EXACT,
        )  # fmt: skip


@triton.jit
def _said(negative: tl.tensor, first: tl.tensor, second: tl.tensor, PAIR: tl.constexpr) -> tl.tensor:
    """Return what bits (rows, bytes, 8) say, given a block's numbers (rows,), in the definitions' arithmetic."""
    plus = first[:, None, None]
    minus = (second - first)[:, None, None] + plus if PAIR else -plus
    return tl.where(negative, minus, plus)


@triton.jit
def _say(
    x: tl.tensor,
    codes: tl.tensor,
    numbers: tl.tensor,
    d: int,
    blocks: int,
    most: float,
    PAIR: tl.constexpr,
    TAKE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    byte = tl.arange(0, BYTES)
    bit = tl.arange(0, 8)[None, None, :]
    inside = byte[None, :, None] * 8 + bit
    place, fits = row[:, None, None] * BLOCK + inside, inside < BLOCK
    whole = (tl.program_id(0).to(tl.int64) + 1) * (ROWS * BLOCK) <= d
    piece = fetched(x, place, fits, d, whole)
    negative = piece.to(tl.int32, bitcast=True) < 0
    packed = tl.sum(tl.where(negative, 1 << bit, 0), 2)
    start = row[:, None] * BLOCK + byte[None, :] * 8
    there = (byte[None, :] * 8 < BLOCK) & (start < d)
    tl.store(codes + start // 8, packed.to(tl.uint8), mask=there)
    length = tl.maximum(tl.minimum(d - row * BLOCK, BLOCK), 1).to(tl.float32)
    if PAIR:
        below = tl.sum(tl.sum(negative.to(tl.int32), 2), 1).to(tl.float32)
        above = tl.maximum(length - below, 1.0)
        below = tl.maximum(below, 1.0)
        # Divided before they are added up, lest the sum overflow.
        first = tl.sum(tl.sum(tl.maximum(piece, 0.0) / above[:, None, None], 2), 1)
        second = tl.sum(tl.sum(tl.minimum(piece, 0.0) / below[:, None, None], 2), 1)
        first = tl.minimum(first, most / 2)
        second = tl.maximum(second, -most / 2)
        tl.store(numbers + 2 * row, first, mask=row < blocks)
        tl.store(numbers + 2 * row + 1, second, mask=row < blocks)
    else:
        first = tl.minimum(tl.sum(tl.sum(tl.abs(piece), 2), 1), most) / length
        second = first
        tl.store(numbers + row, first, mask=row < blocks)
    if TAKE:
        put(x, place, piece - _said(negative, first, second, PAIR), fits, d, whole)


@triton.jit
def _hear(
    total: tl.tensor,
    codes: tl.tensor,
    numbers: tl.tensor,
    d: int,
    blocks: int,
    share: float,
    PAIR: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    byte = tl.arange(0, BYTES)
    bit = tl.arange(0, 8)[None, None, :]
    inside = byte[None, :, None] * 8 + bit
    place, fits = row[:, None, None] * BLOCK + inside, inside < BLOCK
    whole = (tl.program_id(0).to(tl.int64) + 1) * (ROWS * BLOCK) <= d
    start = row[:, None] * BLOCK + byte[None, :] * 8
    there = (byte[None, :] * 8 < BLOCK) & (start < d)
    packed = tl.load(codes + start // 8, mask=there, other=0).to(tl.int32)
    negative = ((packed[:, :, None] >> bit) & 1) != 0
    if PAIR:
        first = tl.load(numbers + 2 * row, mask=row < blocks, other=0.0)
        second = tl.load(numbers + 2 * row + 1, mask=row < blocks, other=0.0)
    else:
        first = tl.abs(tl.load(numbers + row, mask=row < blocks, other=0.0))
        second = first
    said = _said(negative, first, second, PAIR)
    if ADD:
        said = fetched(total, place, fits, d, whole) + share * said
    put(total, place, said, fits, d, whole)
