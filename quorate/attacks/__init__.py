"""What workers that are broken or hostile say: each attack is a frozen dataclass in a file of its name.

An attack that poisons data changes what a worker trains on, once, before the run; one that forges says something else
than the update that the worker has honestly computed. Hostile workers collude: all of a meeting are shown the same, and
what they draw in common comes from `seen.at.shared`, so that they need not talk to agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from quorate.aggregators import Aggregator
from quorate.aggregators.mean import mean
from quorate.rand import At, Rand
from quorate.tasks import Data


@dataclass(frozen=True)
class Seen:
    """What a hostile worker knows when it forges; it writes to none of it.

    Args:
        own: (d,), the update that it has computed honestly.
        known: (m, d), the honest updates that the hostile know, m >= 1: of all honest workers if they listen to the
            network, else those that they have computed themselves, its own among them.
        hostile: ranks that lie in this meeting, in order; its own among them.
        at: step, rank and number of workers, and streams of chance.
        last: (d,), what the meeting before has come to; None in the first.
        aggregator: by which updates will be combined, as far as the hostile know.
        among: how many updates will be combined, theirs included; None: those of all workers.
    """

    own: Tensor
    known: Tensor
    hostile: tuple[int, ...]
    at: At
    last: Tensor | None = None
    aggregator: Aggregator = field(default=mean)
    among: int | None = None

    @property
    def n(self) -> int:
        """How many updates will be combined, of one honest worker at least."""
        return max(self.at.size if self.among is None else self.among, self.f + 1)

    @property
    def f(self) -> int:
        """How many lie."""
        return len(self.hostile)

    @property
    def place(self) -> int:
        """The place of this worker among those that lie, from 0."""
        return self.hostile.index(self.at.rank)


@dataclass(frozen=True)
class Attack:
    """Does nothing: attacks replace what they need.

    `alike`: what is forged depends on nothing but what all colluders of a meeting are shown, so that one of them can
    forge for all.
    """

    alike: ClassVar[bool] = False

    def poisoned(self, data: Data, classes: int, rand: Rand) -> Data:
        """Return what a hostile worker trains on instead of its data, which is not written to.

        Args:
            classes: how many labels there are: 0 .. classes - 1.
            rand: this worker's stream.
        """
        return data

    def forge(self, seen: Seen) -> Tensor | None:
        """Return what a hostile worker says instead of its update: (d,), a tensor of its own; None: nothing at all."""
        return seen.own.clone()

    def forge_for(self, seen: Seen, peer: int) -> Tensor | None:
        """Return what it says to one peer, where workers talk to single ones; see `forge`."""
        return self.forge(seen)
