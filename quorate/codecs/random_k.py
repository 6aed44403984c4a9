"""Random-k sparsification: send k entries, which all workers choose by the same draw.

Nothing but values travels, and messages are summed on their way like dense updates that are d / k times as short.

Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018, definition 2.1; scaled, Wangni, Wang,
Liu and Zhang, "Gradient sparsification for communication-efficient distributed optimization", NeurIPS 2018, with equal
probabilities. As it is, biased: use it inside `error_feedback`. Scaled, it is not: use it without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quorate.codecs import Plain, Side, State
from quorate.codecs._sparsifier import count
from quorate.codecs.top_k import Ratio
from quorate.rand import At, Rand
from quorate.wire import Message, Wire, require

_SPARSE = 0.5  # of d: more entries are drawn by shuffling all


@dataclass(frozen=True)
class RandomK(Plain):
    """Say k entries at random, the same on all workers, new ones in every step.

    Args:
        ratio: k / d.
        scaled: multiply what is said by d / k, so that the expectation is the update.
    """

    ratio: Ratio = 0.001
    scaled: bool = False

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """Whether it is scaled, or says all."""
        return self.scaled or self.ratio == 1

    def bound(self, d: int) -> float:
        """Return 1 - k / d, or d / k - 1 if scaled: the expectation of any update's."""
        kept = count(self.ratio, d) / d if d else 1.0
        return 1 / kept - 1 if self.scaled else 1 - kept

    def wire(self, before: Wire) -> Wire:
        """Declare values that may be summed, of the same coordinates everywhere; scaled, of any length."""
        require(
            before.number == "real", "random_k leaves out real numbers, but is given something else", "put it first"
        )
        return replace(before, l2_bound=math.inf) if self.scaled else before

    def emits(self, like: Tensor) -> Message:
        """Declare k values."""
        return (like.new_empty(count(self.ratio, len(like))),)

    def encode(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Say the drawn entries."""
        return x[self._drawn(x, at)].mul_(self._scale(len(x))), (), state

    def take(self, x: Tensor, state: State, at: At) -> tuple[Tensor, Side, State]:
        """Say the drawn entries, and leave the others in x; O(k)."""
        drawn = self._drawn(x, at)
        own = x[drawn]
        said = own * self._scale(len(x))
        x[drawn] = own - said
        return said, (), state

    def decode(self, head: Tensor, side: Side, like: Tensor, at: At) -> Tensor:
        """Put the values where they belong, among zeros."""
        return like.new_zeros(len(like)).scatter_(0, self._drawn(like, at), head)

    def add(self, total: Tensor, head: Tensor, side: Side, share: float, at: At) -> None:
        """Add the values where they belong; O(k)."""
        total.index_add_(0, self._drawn(total, at), head, alpha=share)

    def _scale(self, d: int) -> float:
        return d / count(self.ratio, d) if self.scaled and d else 1.0

    def _drawn(self, like: Tensor, at: At) -> Tensor:
        d = len(like)
        return distinct(count(self.ratio, d), d, at.shared.fold("random_k", d)).to(like.device)


def distinct(k: int, d: int, rand: Rand) -> Tensor:
    """Draw k of d numbers, each set of k with equal probability; O(k log k) if k is at most half of d.

    Returns:
        (k,), int64, ascending, below d, on the CPU.
    """
    generator = rand.generator()
    if k > _SPARSE * d:
        return torch.randperm(d, generator=generator)[:k].sort().values
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < k:
        draws = math.ceil(-1.1 * d * math.log1p(-k / d)) + 16
        found = torch.cat([found, torch.randint(d, (draws,), generator=generator)]).unique()
    surplus = torch.randperm(len(found), generator=generator)[: len(found) - k]
    keep = torch.ones(len(found), dtype=torch.bool)
    keep[surplus] = False
    return found[keep]


EXAMPLES = (RandomK(0.1), RandomK(0.1, scaled=True), RandomK(1.0))
