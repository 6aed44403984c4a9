"""DETOX: replicas vote in small groups, and a robust aggregator combines what the groups have come to.

With groups of r workers, r odd, liars need (r + 1) / 2 of a group to speak for it: s liars speak for f = s // ((r + 1)
/ 2) groups at most, which the aggregator withstands. So fewer replicas than the 2s + 1 of `repetition` will do, but the
result is no longer that of a run without liars; who is in the minority of a group is convicted only if no liars can be
the majority. Honest replicas must compute the same bits, see `repetition`.

Source: Rajput, Wang, Charles and Papailiopoulos, "DETOX: A redundancy-based framework for faster and more robust
gradient aggregation", NeurIPS 2019, algorithm 1; there the groups are shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from quorate import parts, votes
from quorate.aggregators import Aggregator, most_of, what_it_is_given
from quorate.codes import Decoded, _groups
from quorate.errors import RunError
from quorate.wire import require


@dataclass(frozen=True)
class Detox:
    """Every group of r workers computes the sum of the gradients of its r batches.

    Args:
        s: how many workers of all may answer arbitrarily, or not at all.
        r: how many workers compute each batch; odd.
        aggregator: a name in recipes, of one that takes `f`, or nothing.
    """

    s: Annotated[int, Field(ge=0)] = 1
    r: Annotated[int, Field(ge=1)] = 3
    aggregator: str = "geometric_median"

    def __post_init__(self) -> None:
        if self.r % 2 == 0:
            raise ValueError(f"groups of r = {self.r} may be divided in halves: take an odd r")
        made = parts.find("aggregator", self.aggregator)
        known = parts.settings(made)
        needed = {name for name, each in known.items() if each.default is each.empty} - {"f"}
        if needed | what_it_is_given(made):
            raise ValueError(f"`{self.aggregator}` is told more than f at every meeting: take geometric_median or krum")

    @property
    def f(self) -> int:
        """For how many groups liars can speak."""
        return self.s // ((self.r + 1) // 2)

    @property
    def by_digest(self) -> bool:
        """Whether digests are enough to vote on: always."""
        return True

    def groups(self, n: int) -> tuple[range, ...]:
        """Return the ranks of each group, which are the numbers of its batches as well.

        Raises:
            Incompatible: if n workers don't make groups of r, or too few groups for the aggregator.
        """
        made = _groups.groups("detox", n, self.r)
        most = most_of(self._combine(self.f), len(made))
        require(
            not self.f or self.f <= most,
            f"{self.s} liars can speak for {self.f} of {len(made)} groups, and {self.aggregator} withstands {most}",
            f"s = {(most + 1) * ((self.r + 1) // 2) - 1}, or a larger r",
        )
        return made

    def batches(self, n: int, rank: int) -> tuple[int, ...]:
        """Return the batches of the worker's group.

        Raises:
            Incompatible: see `groups`.
        """
        return tuple(self.groups(n)[rank // self.r])

    def encode(self, gradients: Sequence[Tensor], n: int, rank: int) -> Tensor:
        """Return the sum of the batches' gradients (d,), added up in their order."""
        return _groups.added(gradients)

    def vote(self, said: Sequence[Tensor | None]) -> votes.Vote:
        """Count the votes of all workers, who have said answers, or digests of them: most of a group speak for it.

        Raises:
            Incompatible: see `groups`.
        """
        vote = votes.winners(said, self.groups(len(said)), 0)
        return vote if 2 * self.s < self.r else votes.Vote(vote.majorities, ())

    def mean(self, won: Sequence[Tensor], silent: int = 0) -> Tensor:
        """Return the aggregate (d,), per batch, of what has won in the groups, (d,) each, in their order.

        Args:
            silent: how many groups have said nothing, of those that liars can speak for.

        Raises:
            RunError: if more groups than liars can speak for have said nothing, or something that is not finite.
        """
        if silent > self.f:
            raise RunError(f"nobody of {silent} groups has answered, and {self.s} liars can speak for {self.f}")
        return self._combine(self.f - silent)(torch.stack(list(won))).div_(self.r)

    def decode(self, answers: Sequence[Tensor | None], like: Tensor) -> Decoded:
        """Return the aggregate of the groups' votes, and, if 2s < r, who has answered otherwise than its group.

        Raises:
            Incompatible: see `groups`.
            RunError: see `mean`.
        """
        fitting, strange = _groups.fitting(answers, like)
        vote = self.vote(fitting)
        won = _groups.won(vote, fitting)
        return Decoded(self.mean(won, len(vote.majorities) - len(won)), tuple(sorted({*vote.convicted, *strange})))

    def _combine(self, f: int) -> Aggregator:
        made = parts.find("aggregator", self.aggregator)
        return partial(made, f=f) if "f" in parts.settings(made) else made


EXAMPLES = (Detox(), Detox(2, aggregator="median"), Detox(1, 1, "krum"))
