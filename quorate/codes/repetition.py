"""Repetition: groups of 2s + 1 workers compute the same batches, and the majority of a group is believed.

Source: Chen, Wang, Charles and Papailiopoulos, "DRACO: Byzantine-resilient distributed training via redundant
gradients", ICML 2018, section 3. With at most s wrong answers in every group the result is to the bit that of a run
without any: what is voted on are bits, so honest replicas must compute the same bits. They do if they compute the
same batches in the same order with the same number of torch threads, the same version of torch and processors of the
same kind. What breaks it: another number of threads, another instruction set (AVX2 here, AVX-512 there), another
device or library (MKL, cuDNN), atomic additions on a GPU (`torch.use_deterministic_algorithms(True)` refuses them),
dropout drawn from a worker's own stream, and statistics of batch normalisation that saw other batches. `tolerance` is
for machines that differ: answers then agree if they are close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from quorate import votes
from quorate.codes import Decoded, _groups
from quorate.errors import RunError


@dataclass(frozen=True)
class Repetition:
    """Every group of r = 2s + 1 workers computes the sum of the gradients of its r batches.

    Args:
        s: how many workers of each group may answer arbitrarily, or not at all.
        tolerance: two answers of a group agree if their Euclidean distance is at most this part of the group's median
            norm; 0: if they have the same bits.
    """

    s: Annotated[int, Field(ge=0)] = 1
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def r(self) -> int:
        """How many workers compute each batch."""
        return 2 * self.s + 1

    @property
    def by_digest(self) -> bool:
        """Whether digests are enough to vote on, see `vote`."""
        return self.tolerance == 0

    def groups(self, n: int) -> tuple[range, ...]:
        """Return the ranks of each group, which are the numbers of its batches as well.

        Raises:
            Incompatible: if n workers are not divided into groups of r.
        """
        return _groups.groups(f"repetition with s = {self.s}", n, self.r)

    def batches(self, n: int, rank: int) -> tuple[int, ...]:
        """Return the batches of the worker's group.

        Raises:
            Incompatible: if n is no multiple of r.
        """
        return tuple(self.groups(n)[rank // self.r])

    def encode(self, gradients: Sequence[Tensor], n: int, rank: int) -> Tensor:
        """Return the sum of the batches' gradients (d,), added up in their order."""
        return _groups.added(gradients)

    def vote(self, said: Sequence[Tensor | None]) -> votes.Vote:
        """Count the votes of all workers, who have said answers, or digests of them; see `votes.digest`.

        Any rank of a group's majority can send what has won; if what it sends has another digest, the next one.

        Raises:
            Incompatible: if the workers don't make groups.
            RunError: naming the group, if one has no majority, or if not `by_digest`.
        """
        if not self.by_digest:
            raise RunError("digests don't say how close two answers are", "tolerance = 0")
        return votes.winners(said, self.groups(len(said)), self.s + 1)

    def mean(self, won: Sequence[Tensor]) -> Tensor:
        """Return the mean (d,) of all batches' gradients, from what has won in each group, (d,) each, in their order.

        Raises:
            RunError: naming the group, if a majority has said something that is not finite.
        """
        for number, each in enumerate(won):
            if not (isfinite(float(each.sum())) or bool(torch.isfinite(each).all())):
                raise RunError(
                    f"the majority of group {number} says a gradient that is not finite",
                    "if nobody is hostile, training has diverged: take a smaller learning rate",
                )
        return _groups.added(won).div_(len(won) * self.r)

    def decode(self, answers: Sequence[Tensor | None], like: Tensor) -> Decoded:
        """Return the mean of all batches' gradients, and who has answered otherwise than its group.

        Raises:
            Incompatible: if the workers don't make groups.
            RunError: naming the group, if one has no majority, or that of one is not finite.
        """
        fitting, strange = _groups.fitting(answers, like)
        if self.by_digest:
            vote = self.vote(fitting)
        else:
            vote = votes.winners_by_distance(fitting, self.groups(len(answers)), self.s + 1, self.tolerance)
        return Decoded(self.mean(_groups.won(vote, fitting)), tuple(sorted({*vote.convicted, *strange})))


EXAMPLES = (Repetition(), Repetition(0), Repetition(2), Repetition(1, tolerance=1e-4))
