"""What robust aggregators do first: check what they are given and leave out updates that are not finite.

A single NaN decides a sum, and every comparison with it is false: a rule that sorts or that takes the least of some
scores follows whoever sent it. A worker that says NaN or infinity is therefore counted as one of the f that may be
arbitrary, and the rule goes on with the others and with a smaller f.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quorate.aggregators import name_of
from quorate.errors import RunError

BLOCK = 1 << 16
"""Coordinates of a row that are looked at together when its sum is not finite."""


def finite_rows(updates: Tensor) -> list[int]:
    """Return the rows of updates (n, d) whose entries are all finite.

    Reads every entry once and copies none: a row whose sum is finite holds nothing that is not, as neither infinity nor
    NaN ever goes away when something is added. The entries are looked at one by one only where the sum is not finite,
    which large finite entries can bring about.
    """
    wide = torch.promote_types(updates.dtype, torch.float32)
    sums = updates.sum(dim=1, dtype=wide).tolist()
    return [row for row, total in enumerate(sums) if _is_finite(total) or _all_finite(updates[row])]


def screened(updates: Tensor, f: int) -> tuple[list[int], int]:
    """Return the rows of updates (n, d) that are finite, and how many of those may still be arbitrary.

    Raises:
        RunError: if more than f rows are not finite; it names them.
    """
    return left_of(finite_rows(updates), len(updates), f)


def left_of(rows: list[int], n: int, f: int) -> tuple[list[int], int]:
    """Return the finite rows of n, and f less those that are missing; see `screened`."""
    bad = sorted(set(range(n)) - set(rows))
    if len(bad) > f:
        raise RunError(
            f"{len(bad)} of {n} updates are not finite, but at most f = {f} may be arbitrary: those of ranks {bad}",
            f"find out why these ranks say NaN or infinity, e.g. too large a learning rate, or set f = {len(bad)}",
        )
    return rows, f - len(bad)


def check(rule: Callable[..., Tensor], updates: Tensor, weights: Tensor | None, f: int) -> None:
    """Check what a robust rule was given.

    Args:
        rule: that function itself, which says by `withstands` what its theorem allows; it names itself in messages.
        updates: (n, d) of any float dtype.
        weights: (n,) or None.
        f: how many updates may be arbitrary, screened ones included.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if f is below 0, or more than the rule's theorem allows for n updates.
    """
    check_updates(name_of(rule), updates)
    if weights is not None:
        check_weights(name_of(rule), weights, len(updates))
    check_f(rule, len(updates), f)


def check_updates(name: str, updates: Tensor) -> None:
    """Raise ValueError unless updates are of shape (n, d) with n >= 1, of a float dtype."""
    if updates.dim() != 2 or len(updates) == 0 or not updates.is_floating_point():
        raise ValueError(
            f"{name} needs updates of shape (n, d) with n >= 1, of a float dtype; "
            f"got {tuple(updates.shape)} of {updates.dtype}"
        )


def check_weights(name: str, weights: Tensor, n: int) -> None:
    """Raise ValueError unless weights are n numbers, not negative, of a finite positive sum."""
    values = [float(weight) for weight in weights]
    if len(values) != n or min(values) < 0 or not 0 < sum(values) < float("inf"):
        raise ValueError(f"{name} needs {n} weights that are not negative, of positive sum; got {values}")


def check_f(rule: Any, n: int, f: int) -> None:
    """Raise RunError unless a rule's theorem allows f arbitrary updates of n; the hint is the largest f allowed."""
    most: int = rule.most(n)
    if 0 <= f <= most:
        return
    if most < 0:
        enough = next(more for more in range(n, 100 * (n + 1)) if rule.most(more) >= max(0, f))
        raise RunError(f"{name_of(rule)} needs more than {n} updates", f"use at least {enough} workers for f = {f}")
    raise RunError(
        f"{name_of(rule)} withstands f = 0 .. {most} arbitrary updates of {n}, not f = {f}", f"set f = {most}"
    )


def _is_finite(number: float) -> bool:
    return number - number == 0.0


def _all_finite(row: Tensor) -> bool:
    return all(bool(block.isfinite().all()) for block in row.split(BLOCK))
