"""Majority votes among replicas: workers that have done the same work should have come to the same bits.

A worker first says the SHA-256 digest of its answer; who agrees is known from the digests alone, so that of those who
agree only one has to send the answer itself. Whoever gets it compares it with the digest that has won.

Source: Chen, Wang, Charles and Papailiopoulos, "DRACO: Byzantine-resilient distributed training via redundant
gradients", ICML 2018, section 3 (the majority vote); the digests are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quorate.errors import RunError
from quorate.wire import described

DIGEST_BYTES = 32
_BLOCK = 1 << 16  # coordinates
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Vote:
    """How the groups of replicas have voted.

    Args:
        majorities: of each group, the ranks that agree with what has won; what the first of them says is taken.
        convicted: ranks that have said something else, in order; who has said nothing is not among them.
    """

    majorities: tuple[tuple[int, ...], ...]
    convicted: tuple[int, ...]


def digest(answer: Tensor) -> Tensor:
    """Return what stands for an answer in a vote: the SHA-256 digest of its dtype, shape and bits.

    Args:
        answer: of any shape and dtype; on a device, it is copied to the CPU.

    Returns:
        (32,), uint8, on the CPU. Two answers that differ in a bit, e.g. 0.0 and -0.0, have different digests.
    """
    content = answer.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    hashed = hashlib.sha256(described((answer,)).encode())
    hashed.update(content.numpy().data)
    return torch.frombuffer(bytearray(hashed.digest()), dtype=torch.uint8)


def winners(said: Sequence[Tensor | None], groups: Sequence[Sequence[int]], least: int) -> Vote:
    """Count the votes of groups of replicas, whose answers agree if they have the same bits.

    Args:
        said: all workers' answers, or digests of them, in their order; None of who has said nothing.
        groups: the ranks of each group.
        least: how many equal answers decide; s + 1 if up to s of 2s + 1 may answer arbitrarily, or not at all. Of
            equally many, those win of whom one has the lowest rank.

    Raises:
        RunError: naming the group, if in one no answer has been given so many times.
    """

    def party(group: Sequence[int]) -> tuple[list[int], list[int]]:
        parties: list[tuple[Tensor, list[int]]] = []
        for rank in group:
            vote = said[rank]
            if vote is None:
                continue
            for shared, ranks in parties:
                if _same_bits(vote, shared):
                    ranks.append(rank)
                    break
            else:
                parties.append((vote, [rank]))
        largest = max((ranks for _, ranks in parties), key=lambda ranks: len(ranks), default=[])
        return largest, [rank for _, ranks in parties if ranks is not largest for rank in ranks]

    return _counted([party(group) for group in groups], groups, least)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    rows, size = (one.contiguous().view(-1), other.contiguous().view(-1)), one.element_size()
    wide = all(count * size % 8 == 0 for row in rows for count in (len(row), row.storage_offset()))
    bits = torch.int64 if wide else _BITS[size]
    return torch.equal(rows[0].view(bits), rows[1].view(bits))


def winners_by_distance(
    answers: Sequence[Tensor | None], groups: Sequence[Sequence[int]], least: int, tolerance: float
) -> Vote:
    """Count the votes of groups of replicas, whose answers agree if they are close.

    In every group that answer wins which most are close to, itself one of them. If honest answers are close to each
    other, it is close to one of them, and only who is more than twice as far from it is convicted: no honest one is.

    Args:
        answers: of all workers, (d,) each, in their order; None of who has said nothing.
        groups: the ranks of each group.
        least: how many decide, see `winners`.
        tolerance: close is a Euclidean distance of at most this part of the median norm of the group's answers.

    Raises:
        RunError: naming the group, if in one to no answer so many are close; to those that are not finite, none is.
    """

    def party(group: Sequence[int]) -> tuple[list[int], list[int]]:
        said = [(rank, each) for rank in group if (each := answers[rank]) is not None]
        apart = _distances([each for _, each in said])
        norms = [row[-1] for row in apart[:-1]]
        finite = [place for place, norm in enumerate(norms) if norm < torch.inf]
        if not finite:
            return [], [rank for rank, _ in said]
        near = tolerance * sorted(norms[place] for place in finite)[(len(finite) - 1) // 2]
        around = {place: [other for other in finite if apart[place][other] <= near] for place in finite}
        best = min(finite, key=lambda place: (-len(around[place]), sum(apart[place][other] for other in around[place])))
        wrong = [rank for place, (rank, _) in enumerate(said) if not apart[best][place] <= 2 * near]
        return [said[place][0] for place in (best, *(each for each in around[best] if each != best))], wrong

    return _counted([party(group) for group in groups], groups, least)


def _distances(answers: Sequence[Tensor]) -> list[list[float]]:
    """Return the Euclidean distances (m + 1, m + 1) between answers and, the last, 0; inf where one is not finite."""
    m = len(answers)
    squares = torch.zeros(m + 1, m + 1, dtype=torch.float64)
    for first in range(0, len(answers[0]) if answers else 0, _BLOCK):
        rows = [each[first : first + _BLOCK].double().cpu() for each in answers]
        for one, row in enumerate(rows):
            for other in range(one):
                squares[one, other] += (row - rows[other]).square_().sum()
            squares[m, one] += row.square().sum()
    distances: list[list[float]] = (squares + squares.T).sqrt_().nan_to_num_(nan=torch.inf).tolist()
    return distances


def _counted(
    parties: Sequence[tuple[Sequence[int], Sequence[int]]], groups: Sequence[Sequence[int]], least: int
) -> Vote:
    """Return the vote, of which the largest party of each group and those who are wrong are known."""
    for number, (group, (party, _)) in enumerate(zip(groups, parties, strict=True)):
        if len(party) < least:
            raise RunError(
                f"group {number} (ranks {', '.join(map(str, group))}) has no majority: of its {len(group)} answers, at"
                f" most {len(party)} agree, and {least} have to",
                "a larger `s`; if nobody is hostile, the replicas compute other bits: give all the same number of"
                " threads, or set `tolerance`",
            )
    wrong = sorted(rank for _, ranks in parties for rank in ranks)
    return Vote(tuple(tuple(party) for party, _ in parties), tuple(wrong))
