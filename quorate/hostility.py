"""Which workers lie, when, what they know, and what they say instead: an attack put into a run to see what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quorate.aggregators import Aggregator, most_of
from quorate.attacks import Attack, Seen
from quorate.errors import RecipeError
from quorate.rand import At, Rand


@dataclass(frozen=True)
class Hostility:
    """An attack, and who carries it out.

    Args:
        attack: what they do.
        rand: the run's stream.
        f: how many lie.
        ranks: who they are; empty: the last f of those that train.
        redrawn: f others at every step, drawn from all.
        start: the first step at which they lie, from 0.
        knows: "own": the hostile know what they have computed themselves, and forge it before it is sent; "all": they
            have listened to all honest updates that are combined with theirs, and speak last. The latter, and forged
            messages behind codecs, are put in where updates are combined, after decoding, as no worker of a meeting
            could hold its own message back.
        among: how many train, ranks 0 .. among - 1; None: all.

    Raises:
        RecipeError: if there are not so many workers.
    """

    attack: Attack
    rand: Rand
    f: int = 1
    ranks: tuple[int, ...] = ()
    redrawn: bool = False
    start: int = 0
    knows: Literal["own", "all"] = "all"
    among: int | None = None

    def __post_init__(self) -> None:
        if self.among is not None and not 0 <= self.f < self.among:
            raise RecipeError(f"of {self.among} workers, {self.f} can't be hostile", f"f = {max(0, self.among - 1)}")
        outside = [rank for rank in self.ranks if self.among is not None and not 0 <= rank < self.among]
        if outside:
            raise RecipeError(f"there is no worker {outside[0]} to be hostile among {self.among}", "leave out `ranks`")

    def at(self, step: int, size: int) -> tuple[int, ...]:
        """Return who lies in a step, in order, of as many workers as train, or of a number."""
        size = size if self.among is None else self.among
        if step < self.start:
            return ()
        if self.redrawn:
            drawn = torch.randperm(size, generator=self.rand.fold("hostile", step).generator())[: self.f]
            return tuple(sorted(drawn.tolist()))
        return self.ranks or tuple(range(max(0, size - self.f), size))

    def forged(self, update: Tensor, at: At, aggregator: Aggregator) -> Tensor:
        """Return what a worker says instead of its update (d,), knowing nothing else; the update if it is honest."""
        hostile = self.at(at.step, at.size)
        if at.rank not in hostile:
            return update
        seen = Seen(update, update.unsqueeze(0), hostile, at._replace(rand=self.rand), aggregator=aggregator)
        said = self.attack.forge(seen)
        return torch.full_like(update, torch.nan) if said is None else said

    def staged(
        self,
        updates: Sequence[Tensor],
        ranks: Sequence[int],
        at: At,
        aggregator: Aggregator,
        last: Tensor | None = None,
        peer: int | None = None,
    ) -> tuple[list[Tensor], list[int]]:
        """Return updates (d,) with those of the hostile forged, and the places of those that have said something.

        Args:
            ranks: whose updates they are.
            at: of which its rank is not used.
            last: what the meeting before has come to.
            peer: who combines them, where each worker hears others.
        """
        hostile = [rank for rank in self.at(at.step, at.size) if rank in ranks]
        if not hostile:
            return list(updates), list(range(len(updates)))
        honest = [each for rank, each in zip(ranks, updates, strict=True) if rank not in hostile]
        known = torch.stack(honest or list(updates))
        said: list[Tensor] = []
        present: list[int] = []
        agreed: list[Tensor | None] = []  # what those say who all say the same
        silent_counts = most_of(aggregator, len(ranks)) > 0  # a robust rule must not take silence for one worker less
        for place, (rank, update) in enumerate(zip(ranks, updates, strict=True)):
            made: Tensor | None = update
            if rank in hostile and rank != peer:
                own = at._replace(rank=rank, rand=self.rand)
                seen = Seen(update, known, tuple(hostile), own, last, aggregator, len(ranks))
                if not (agreed and self.attack.alike):
                    agreed = [self.attack.forge(seen) if peer is None else self.attack.forge_for(seen, peer)]
                made = agreed[0]
            if made is None and silent_counts:
                made = torch.full_like(update, torch.nan)
            if made is not None:
                said.append(made)
                present.append(place)
        return said, present
