"""Sums over the rows of an (n, d) matrix that is given as n tensors, in double precision and a little memory.

They are added up in the order of the rows and of blocks of a fixed length, so that the bits of a combination don't
depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LONG = 1 << 17  # coordinates of a row at a time
_BYTES = 1 << 22  # of a block of all rows


def combined(rows: Sequence[Tensor], by: Tensor, out: Tensor) -> Tensor:
    """Write the sum of rows (d,), times numbers (m,), to `out` (d,), and return it.

    Args:
        by: float64 or complex128; its dtype is that in which is added up.
    """
    numbers = by.tolist()
    for first in range(0, len(out), _LONG):
        total = rows[0][first : first + _LONG].to(by.dtype) * numbers[0]
        for row, number in zip(rows[1:], numbers[1:], strict=True):
            total.add_(row[first : first + _LONG].to(by.dtype), alpha=number)
        out[first : first + _LONG] = total.real if total.is_complex() and not out.is_complex() else total
    return out


def power(rows: Sequence[Tensor], by: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power of combinations of rows, and that of the rows.

    Args:
        rows: (d,) each.
        by: (q, m), float64 or complex128.

    Returns:
        (q, q), the sum over coordinates of the outer products of the combinations, and (m,), float64, the rows' squared
        Euclidean norms, which are not finite where a row isn't.
    """
    by = by.to(rows[0].device)
    d, length = len(rows[0]), max(256, _BYTES // (len(rows) * by.element_size()))
    room = by.new_empty(len(rows), min(d, length))
    total, norms = by.new_zeros(len(by), len(by)), torch.zeros(len(rows), dtype=torch.float64, device=by.device)
    for first in range(0, d, length):
        block = room[:, : min(length, d - first)]
        for place, row in enumerate(rows):
            block[place] = row[first : first + length]
        seen = by @ block
        total += seen @ seen.mH
        parts = torch.view_as_real(block).flatten(1) if block.is_complex() else block
        norms += torch.linalg.vector_norm(parts, dim=1).square()
    return total.cpu(), norms.cpu()
