"""The passes of `quorate.codecs.int8`: to say reads 4 bytes an entry and writes 1, and 4 more if x keeps the rest; to
hear reads 5 and writes 4.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from quorate.kernels._tiles import EXACT, fetched, on, put, rows_of

MOST = 127
_NUMBERS = torch.finfo(torch.float32)
_EDGE = MOST * (1 - 4 * _NUMBERS.eps)
_LARGEST_STEP = _NUMBERS.max / MOST * (1 - _NUMBERS.eps)
_ROUNDING = tl.constexpr(1.5 * 2**23)  # floats of this size are whole numbers: what is added is rounded to even


def say(x: Tensor, codes: Tensor, numbers: Tensor, block: int, *, take: bool) -> None:
    """Code all blocks; see `Fused`."""
    rows, width, warps = rows_of(block)
    with on(x):
        _say[(triton.cdiv(len(numbers), rows),)](
            x, codes.view(torch.int8), numbers, len(x), len(numbers), _EDGE, _NUMBERS.tiny, _LARGEST_STEP,
            take, block, rows, width, num_warps=warps, **EXACT,
        )  # fmt: skip


def hear(total: Tensor, codes: Tensor, numbers: Tensor, block: int, share: float | None) -> None:
    """Decode all blocks; see `Fused`."""
    rows, width, warps = rows_of(block)
    with on(total):
        _hear[(triton.cdiv(len(numbers), rows),)](
            total, codes.view(torch.int8), numbers, len(total), len(numbers), share or 0.0,
            share is not None, block, rows, width, num_warps=warps, **EXACT,
        )  # fmt: skip


@triton.jit
def _say(
    x: tl.tensor,
    codes: tl.tensor,
    steps: tl.tensor,
    d: int,
    blocks: int,
    edge: float,
    least: float,
    most: float,
    TAKE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = tl.arange(0, WIDTH)[None, :]
    place, fits = row[:, None] * BLOCK + inside, inside < BLOCK
    whole = (tl.program_id(0).to(tl.int64) + 1) * (ROWS * BLOCK) <= d
    piece = fetched(x, place, fits, d, whole)
    step = tl.div_rn(tl.max(tl.abs(piece), 1), edge)
    step = tl.minimum(tl.maximum(step, least), most)
    level = piece * tl.div_rn(tl.full((ROWS,), 1.0, tl.float32), step)[:, None]
    level = (level + _ROUNDING) - _ROUNDING
    put(codes, place, level.to(tl.int8), fits, d, whole)
    tl.store(steps + row, step, mask=row < blocks)
    if TAKE:
        put(x, place, piece - level * step[:, None], fits, d, whole)


@triton.jit
def _hear(
    total: tl.tensor,
    codes: tl.tensor,
    steps: tl.tensor,
    d: int,
    blocks: int,
    share: float,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = tl.arange(0, WIDTH)[None, :]
    place, fits = row[:, None] * BLOCK + inside, inside < BLOCK
    whole = (tl.program_id(0).to(tl.int64) + 1) * (ROWS * BLOCK) <= d
    step = tl.load(steps + row, mask=row < blocks, other=0.0)
    said = fetched(codes, place, fits, d, whole).to(tl.float32) * step[:, None]
    if ADD:
        said = fetched(total, place, fits, d, whole) + share * said
    put(total, place, said, fits, d, whole)
