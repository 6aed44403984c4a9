"""Workers in groups of one size, each of which computes the same batches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from quorate.votes import Vote
from quorate.wire import require


def groups(code: str, n: int, size: int) -> tuple[range, ...]:
    """Return the ranks of each group, which are the numbers of its batches as well.

    Raises:
        Incompatible: with the nearest n, if n workers don't make groups of this size.
    """
    whole = max(1, (n + size // 2) // size)
    require(
        n > 0 and n % size == 0,
        f"{code} divides workers into groups of {size}, which {n} workers do not make",
        f"workers = {whole * size}",
    )
    return tuple(range(first, first + size) for first in range(0, n, size))


def added(gradients: Sequence[Tensor]) -> Tensor:
    """Return the sum (d,), added up in the given order."""
    total = gradients[0].clone()
    for each in gradients[1:]:
        total += each
    return total


def fitting(answers: Sequence[Tensor | None], like: Tensor) -> tuple[list[Tensor | None], list[int]]:
    """Return the answers of the right shape and dtype, None in the place of others; and who has given another one."""
    fit = [
        each if each is not None and (each.shape, each.dtype) == (like.shape, like.dtype) else None for each in answers
    ]
    strange = [rank for rank, each in enumerate(answers) if each is not None and fit[rank] is None]
    return fit, strange


def won(vote: Vote, answers: Sequence[Tensor | None]) -> list[Tensor]:
    """Return what has won in each group in which anything has: what the first of its majority has answered."""
    return [each for party in vote.majorities for rank in party[:1] if (each := answers[rank]) is not None]
